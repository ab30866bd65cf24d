"""Every command in the documentation.

A comment in a block of commands, ``# Needs …``, marks those that follow it
up to the next empty line as ones that need what a test has not.
"""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *ROOT.glob('README*.md'),
    ROOT / 'SECURITY.md',
    *sorted((ROOT / 'docs').glob('*.md')),
]
TOOLS = ('tools/', 'benchmarks/')
LAUNCHERS = {
    'dist_train.sh': 'train.py',
    'dist_test.sh': 'test.py',
    'slurm_train.sh': 'train.py',
    'slurm_test.sh': 'test.py',
}
"""dict[str, str]: Scripts that pass their flags on."""


def read_commands():
    """Return all commands as (page, whether a test can run it, words)."""
    commands = []
    for page in PAGES:
        text = page.read_text()
        for block in re.findall(r'^```shell\n(.*?)^```', text, re.M | re.S):
            for part in block.split('\n\n'):
                runs = not re.search('^# (Needs|需要)', part, re.M)
                for line in part.replace('\\\n', ' ').splitlines():
                    words = shlex.split(line, comments=True)
                    if words:
                        commands.append((page.name, runs, words))
    return commands


COMMANDS = read_commands()


def split_environment(words):
    """Split ``NAME=value`` before a command off; return both."""
    count = 0
    while re.match(r'[A-Z_]+=', words[count]):
        count += 1
    return words[:count], words[count:]


@pytest.fixture(scope='module')
def flags_of(run_tool):
    """Return a tool's flags as its help names them."""
    known = {}

    def flags(tool):
        if tool not in known:
            text = run_tool(tool, '--help').stdout
            known[tool] = set(re.findall(r'(?<![\w-])--?[\w-]+', text))
        return known[tool]

    return flags


def test_every_command_names_what_there_is(flags_of):
    targets = re.findall('^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.M)
    tools = 0
    for page, _, words in COMMANDS:
        _, words = split_environment(words)
        if words[0] == 'make':
            assert words[1] in targets, (page, words)
            continue
        script = words[1] if words[0] == 'python' else words[0]
        if not script.startswith(TOOLS):
            continue
        tools += 1
        assert (ROOT / script).is_file(), (page, words)
        for word in words:
            if word.startswith('configs/'):
                assert (ROOT / word).is_file(), (page, words)
        tool = LAUNCHERS.get(Path(script).name, f'../{script}')
        flags = {word for word in words if re.match('--?[a-z]', word)}
        assert flags <= flags_of(tool), (page, words)
    assert tools > 20


@pytest.mark.slow
def test_the_commands_run_after_the_demo(demo_folder):
    """In the order of the pages, where `make demo` has run."""
    run = dict(cwd=demo_folder, check=True, timeout=1800)
    subprocess.run([sys.executable, ROOT / 'scripts/demo.py'], **run)
    for name in ('tools', 'configs', 'benchmarks'):
        (demo_folder / name).symlink_to(ROOT / name)
    # Some stand on several pages, and would write the same file again.
    runnable = {
        shlex.join(words): page
        for page, runs, words in COMMANDS
        if runs and words[0] == 'python' and words[1].startswith(TOOLS)
    }
    for command, page in runnable.items():
        print(page, command, flush=True)
        words = shlex.split(command)
        subprocess.run([sys.executable, *words[1:]], **run)
    assert len(runnable) > 5


def quoted_messages(page):
    """Return the messages in the first column of a page's tables."""
    text = (ROOT / 'docs' / page).read_text()
    rows = re.findall(r'^\| (.*?) \|', text, re.M)
    return [message for row in rows for message in re.findall('`(.+?)`', row)]


def test_troubleshooting_quotes_messages_of_the_source():
    """A user finds a message only if the page has its words."""
    texts = set()
    for folder in ('mmbiformer', 'scripts', 'tools'):
        for path in (ROOT / folder).rglob('*.py'):
            texts |= {
                node.value
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Constant)
                and isinstance(node.value, str)
            }
    messages = quoted_messages('troubleshooting.md')
    assert len(messages) > 100
    for message in messages:
        # What stands between the values that the source fills in.
        parts = re.split(r'\s*…\s*', message)
        assert max(map(len, parts)) >= 10, message
        for part in parts:
            assert any(part in text for text in texts), (part, message)
    assert quoted_messages('troubleshooting_zh-CN.md') == messages
