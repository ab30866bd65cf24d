import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmbiformer_threads as threads

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    'GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'OMP_WAIT_POLICY', 'OMP_NUM_THREADS',
)  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    """An environment without settings of OpenMP."""
    environment = {
        name: value for name, value in os.environ.items() if name not in NAMES
    }
    monkeypatch.setattr(os, 'environ', environment)
    return environment


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """Write files of cgroups, and the list of those of the process."""
    own = tmp_path / 'cgroup'
    monkeypatch.setattr(threads, 'CGROUPS', tmp_path / 'fs')
    monkeypatch.setattr(threads, 'OWN_CGROUPS', own)

    def write(listing, files):
        own.write_text(listing)
        for name, text in files.items():
            path = tmp_path / 'fs' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_waiting_threads_sleep_soon(environment):
    threads.limit_spinning()
    assert environment['GOMP_SPINCOUNT'] == str(threads.GOMP_SPINCOUNT)
    assert environment['KMP_BLOCKTIME'] == str(threads.KMP_BLOCKTIME)


@pytest.mark.parametrize('name', ['GOMP_SPINCOUNT', 'KMP_BLOCKTIME'])
def test_the_users_spin_stays(environment, name):
    environment[name] = '7'
    threads.limit_spinning()
    assert environment[name] == '7'


def test_the_users_policy_stays(environment):
    environment['OMP_WAIT_POLICY'] = 'ACTIVE'
    threads.limit_spinning()
    assert not {'GOMP_SPINCOUNT', 'KMP_BLOCKTIME'} & set(environment)


@pytest.mark.parametrize(
    ('listing', 'files', 'share'),
    [
        ('0::/\n', {'cpu.max': 'max 100000'}, None),
        ('0::/\n', {'cpu.max': '150000 100000'}, 1.5),
        # That of a cgroup around it is lower.
        (
            '0::/pod/box\n',
            {'pod/cpu.max': '100000 100000', 'pod/box/cpu.max': '4000 1000'},
            1.0,
        ),
        # The path outside of the container does not exist inside.
        ('0::/docker/1\n', {'cpu.max': '200000 100000'}, 2.0),
        (
            '5:memory:/a\n4:cpu,cpuacct:/a\n',
            {
                'cpu/a/cpu.cfs_quota_us': '50000',
                'cpu/a/cpu.cfs_period_us': '100000',
            },
            0.5,
        ),
        (
            '4:cpuacct,cpu:/\n',
            {'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'},
            None,
        ),
        ('', {}, None),
    ],
)
def test_the_share_of_a_container(cgroups, listing, files, share):
    cgroups(listing, files)
    assert threads.cpu_share() == share


@pytest.mark.parametrize(
    ('share', 'number'),
    [(None, None), (0.5, '1'), (2.5, '2'), (4.0, None), (64.0, None)],
)
def test_no_more_threads_than_the_share(
    environment, monkeypatch, share, number
):
    monkeypatch.setattr(threads, 'cpu_share', lambda: share)
    monkeypatch.setattr(threads, 'usable_cores', lambda: 4)
    threads.limit_count()
    assert environment.get('OMP_NUM_THREADS') == number


def test_the_users_number_of_threads_stays(environment, monkeypatch):
    monkeypatch.setattr(threads, 'cpu_share', lambda: 0.5)
    environment['OMP_NUM_THREADS'] = '3'
    threads.limit_count()
    assert environment['OMP_NUM_THREADS'] == '3'


def test_imports_change_nothing(environment):
    """Neither of this module, which loads no other one, nor of mmbiformer."""
    code = (
        'import os, sys\n'
        'before = dict(os.environ)\n'
        'import mmbiformer_threads\n'
        "assert 'torch' not in sys.modules\n"
        'import mmbiformer\n'
        f'names = {NAMES}\n'
        'assert all(os.environ.get(n) == before.get(n) for n in names)\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True, env=environment)


@pytest.mark.parametrize(
    'tool',
    [
        path
        for path in sorted((ROOT / 'tools').rglob('*.py'))
        if "if __name__ == '__main__':\n    main()" in path.read_text()
    ],
    ids=lambda path: path.name,
)
def test_tools_limit_threads_before_they_import_torch(tool):
    """The first block that runs as a script is before all other imports."""
    seen = []
    for node in ast.parse(tool.read_text()).body:
        if isinstance(node, ast.If):
            calls = set(map(ast.unparse, node.body))
            assert calls & {'limit_threads()', 'limit_spinning()'}
            break
        if isinstance(node, ast.Import):
            seen += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            seen.append(node.module)
    own = {'arguments', 'mmbiformer_threads'}
    packages = {name.partition('.')[0] for name in seen}
    assert packages - own <= sys.stdlib_module_names
