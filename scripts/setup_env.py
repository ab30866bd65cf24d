"""Set up torch, OpenMMLab and mmbiformer, then run a command there.

    python3 scripts/setup_env.py                    # set up only
    python3 scripts/setup_env.py -- COMMAND [ARG…]  # then run COMMAND
    python3 scripts/setup_env.py --classification   # with mmpretrain

The Python that runs this script is used if its environment has torch,
mmengine, mmcv with its compiled ops, mmdet, mmsegmentation and what these
import; only mmbiformer and its test tools are added to it. Otherwise the
environment ``.venv`` is created in the project's folder. Steps that are done
are skipped, so an interrupted set-up continues where it stopped.

``$FAMILY`` selects the packages of OpenMMLab: ``openmmlab``, the originals, or
``onedl``, their maintained forks, which get an environment of their own,
``.venv-onedl``. If it is not set, the active environment may have either.

``--classification`` adds mmpretrain and torchvision, which it imports. Again,
an active environment that has them is used; otherwise it is
``.venv-classification``, so that the other tasks need neither.

``$TORCH`` selects another torch: a version (``2.9.1``), a requirement, or
arguments for pip (``TORCH="torch==2.9.1 --index-url URL"``).

This script needs only the standard library.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import interrupts
from mmcv_source import REQUIREMENTS, cache_root

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / 'scripts'
MODULES = (
    'setup_env', 'build_mmcv', 'mmcv_source', 'simple_index', 'interrupts'
)  # fmt: skip
REQUIREMENT_FILES = ROOT / 'requirements'
# What tests and tools need.
TOOLS = [
    REQUIREMENT_FILES / f'{name}.txt'
    for name in ('tests', 'optional', 'deploy')
]
TORCH = 'torch==2.13.0'
# torch 2.13.0 of the CPU index and PyPI's torchvision do not fit together.
TORCH_CLASSIFICATION = 'torch==2.14.1 torchvision==0.29.1'
# mmcv's setup.py imports pkg_resources, which setuptools 82 removed; torch
# warns at every start if numpy is missing.
BUILD_TOOLS = ['setuptools<80', 'wheel', 'ninja', 'numpy']
# The forks have the originals' import names: both in one environment overwrite
# each other.
PYTHONS = {
    'openmmlab': ('3.10', '3.11', '3.12', '3.13'),
    'onedl': ('3.10', '3.11', '3.12', '3.13', '3.14'),
}
# mmengine 0.10.7 calls it in mmengine/utils/dl_utils/misc.py.
NOT_YET = (
    'mmengine 0.10.7 calls pkgutil.find_loader, which Python 3.14 removed; '
    'use Python 3.13, or the maintained forks: make … FAMILY=onedl'
)

# Run by the interpreter in question, with the names of the test tools as
# arguments; prints what its environment has.
PROBE = """
import importlib.metadata, importlib.util, json, pathlib, sys

def has(name):
    return bool(list(importlib.metadata.distributions(name=name)))

# The originals also import packages that they do not declare.
families = dict(
    openmmlab=('mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'ftfy', 'regex'),
    onedl=('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection',
           'onedl-mmsegmentation'))
modules = dict(openmmlab=('pkg_resources',), onedl=())
classification = dict(openmmlab='mmpretrain', onedl='onedl-mmpretrain')

def folder(name):
    spec = importlib.util.find_spec(name)
    return spec and spec.origin and str(pathlib.Path(spec.origin).parent)

mmcv = folder('mmcv')
print(json.dumps(dict(
    families=[
        family for family, names in families.items()
        if has('torch') and all(map(has, names))
        and all(map(folder, modules[family]))
        and mmcv and list(pathlib.Path(mmcv).glob('_ext*'))],
    classification=[
        family for family, name in classification.items()
        if has(name) and has('torchvision')],
    tools=all(map(has, sys.argv[1:])),
    mmbiformer=folder('mmbiformer'))))
"""

# Ctrl-C ends it without a traceback.
MAKE_VENV = """
import runpy, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
runpy.run_module('venv', run_name='__main__')
"""


def say(message: str) -> None:
    """Print the progress of the set-up."""
    print(f'[setup] {message}', file=sys.stderr, flush=True)


def run(*command: object) -> None:
    """Run a command with its output on stderr; exit if it fails."""
    if interrupts.run(command):
        line = shlex.join(str(part) for part in command)
        sys.exit(f'[setup] error: command failed: {line}')


def pip_install(python: Path, *arguments: object) -> None:
    """Install packages with the pip of an interpreter, or with uv."""
    if ask(python, 'import pip; print(1)'):
        command = [python, '-m', 'pip', '--disable-pip-version-check']
        run(*command, 'install', *arguments)
    elif shutil.which('uv'):
        run('uv', 'pip', 'install', '--python', python, *arguments)
    else:
        sys.exit(
            f'[setup] error: {python} has no pip, and there is no uv; '
            f'install pip by: {python} -m ensurepip'
        )


def ask(python: object, code: str, *arguments: str) -> str:
    """Return what an interpreter prints; empty if it fails."""
    result = subprocess.run(
        [python, '-c', code, *arguments], capture_output=True
    )
    return result.stdout.decode().strip() if result.returncode == 0 else ''


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock file, so that only one set-up writes to a folder."""
    with open(path, 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f'waiting for another set-up, which holds {path}')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def forget_unfinished(venv: Path) -> None:
    """Let pip install again the packages in which it was interrupted.

    It takes a package for installed when the metadata are there, although
    programs such as ``mypy``, and last the file ``INSTALLER``, come later.
    """
    for info in venv.glob('lib/python*/site-packages/*.dist-info'):
        if not (info / 'INSTALLER').is_file():
            say(f'{info.stem} is not complete, and is installed again')
            shutil.rmtree(info)


def find_python(family: str) -> str:
    """Return a Python for an environment; exit if there is none.

    Args:
        family (str): ``'openmmlab'`` or ``'onedl'``.
    """
    versions = PYTHONS[family]
    names = [sys.executable]
    names += [f'python{version}' for version in reversed(versions)]
    found = {}
    for name in names:
        python = shutil.which(name)
        version = 'import sys; print(*sys.version_info[:2], sep=".")'
        found[name] = python and ask(python, version)
        if found[name] in versions:
            break
    else:
        reason = f'. {NOT_YET}' if '3.14' in found.values() else ''
        sys.exit(
            f'[setup] error: Python {versions[0]} to {versions[-1]} is '
            f'needed; none of these is one: {", ".join(names)}. Name one by '
            f'make … PYTHON=PATH{reason}'
        )
    if not ask(python, 'import ensurepip, venv; print(1)'):
        sys.exit(
            f'[setup] error: {python} cannot create virtual environments; on '
            'Debian and Ubuntu: apt install python3-venv'
        )
    check_compiler(python, family)
    return python


def check_compiler(python: str, family: str) -> None:
    """Exit if mmcv must be compiled, and cannot be.

    Args:
        python (str): The Python to compile for.
        family (str): ``'openmmlab'`` or ``'onedl'``.
    """
    tag = ask(python, 'import sys; print("cp", *sys.version_info[:2], sep="")')
    mmcv = REQUIREMENTS[family].replace('==', '-')
    if list(cache_root().glob(f'{mmcv}-torch*-{tag}-*/*.whl')):
        return
    compiler = shlex.split(os.getenv('CXX', 'c++'))[0]
    if shutil.which(compiler) is None:
        sys.exit(
            f'[setup] error: there is no C++ compiler {compiler!r}, and mmcv '
            'must be compiled; on Debian and Ubuntu: apt install g++'
        )
    include = ask(
        python, 'import sysconfig; print(sysconfig.get_path("include"))'
    )
    if not Path(include, 'Python.h').is_file():
        sys.exit(
            f'[setup] error: {include}/Python.h is missing, and mmcv must be '
            'compiled; on Debian and Ubuntu: apt install python3-dev'
        )


def opencv_error(python: Path) -> str:
    """Return why OpenCV cannot be imported; empty if it can."""
    result = subprocess.run(
        [python, '-c', 'import cv2'], capture_output=True, text=True
    )
    return result.stderr.strip().rpartition('\n')[2]


def mend_opencv(python: Path) -> None:
    """Replace OpenCV where it needs the libraries of a desktop.

    mmcv and mmengine require opencv-python; the wheel opencv-python-headless
    has the same module without windows.
    """
    error = opencv_error(python)
    if not error:
        return
    version = ask(
        python,
        'import importlib.metadata\n'
        'print(importlib.metadata.version("opencv-python"))',
    )
    say(f'OpenCV without a desktop, as the other one fails: {error}')
    pip = [python, '-m', 'pip', '--disable-pip-version-check']
    run(*pip, 'uninstall', '--quiet', '--yes', 'opencv-python')
    pip_install(
        python, '--quiet', '--force-reinstall', '--no-deps',
        f'opencv-python-headless=={version}',
    )  # fmt: skip
    error = opencv_error(python)
    if error:
        sys.exit(f'[setup] error: OpenCV cannot be imported: {error}')


def torch_arguments(classification: bool) -> list:
    """Return pip's arguments for torch: ``$TORCH`` or the default."""
    default = TORCH_CLASSIFICATION if classification else TORCH
    arguments = shlex.split(os.getenv('TORCH') or default)
    if arguments[0][0].isdigit():
        arguments[0] = f'torch=={arguments[0]}'
    if classification and not any('torchvision' in part for part in arguments):
        # Each version of torchvision requires one version of torch.
        arguments.append('torchvision')
    return arguments


def fingerprint(classification: bool) -> str:
    """Return a digest of everything that decides what is installed."""
    # A virtual environment works only where it was created.
    digest = hashlib.sha256(
        shlex.join([*torch_arguments(classification), str(ROOT)]).encode()
    )
    for path in [
        *(SCRIPTS / f'{name}.py' for name in MODULES),
        ROOT / 'pyproject.toml',
        ROOT / 'setup.py',
        *sorted(filter(Path.is_file, (ROOT / 'csrc').rglob('*'))),
        *sorted(REQUIREMENT_FILES.glob('*.txt')),
    ]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def tool_names() -> list:
    """Return the names of the packages that tests and tools need."""
    lines = [line for path in TOOLS for line in path.read_text().splitlines()]
    names = [re.match(r'[\w.-]+', line) for line in lines]
    return [name[0] for name in names if name]


def install_project(python: Path) -> None:
    """Install mmbiformer, editable, and what its tests and tools need."""
    files = list(TOOLS)
    if not ask(python, 'import triton; print(1)'):
        files.append(REQUIREMENT_FILES / 'triton.txt')
    pip_install(
        python, '--quiet', '--editable', ROOT,
        *(part for path in files for part in ('-r', path)),
    )  # fmt: skip


def make_venv(family: str, classification: bool) -> Path:
    """Create or complete an environment.

    Args:
        family (str): ``'openmmlab'`` or ``'onedl'``.
        classification (bool): Whether with mmpretrain.

    Returns:
        Path: Its interpreter.
    """
    kind = ['onedl'] * (family == 'onedl')
    kind += ['classification'] * classification
    venv = ROOT / '-'.join(['.venv', *kind])
    mminstall = REQUIREMENT_FILES / f'{"_".join(["mminstall", *kind])}.txt'
    digest = fingerprint(classification)
    python = venv / 'bin/python'
    stamp = venv / 'mmbiformer-setup.txt'
    with lock(ROOT / f'{venv.name}.lock'):
        if stamp.is_file() and stamp.read_text() == digest:
            return python
        start = time.monotonic()
        base = find_python(family)
        say(f'[1/5] virtual environment in {venv}, with {base}')
        forget_unfinished(venv)
        run(base, '-c', MAKE_VENV, venv)
        say('[2/5] torch')
        pip_install(python, *torch_arguments(classification))
        # After torch, which brings the newest setuptools.
        pip_install(python, *BUILD_TOOLS)
        say('[3/5] mmcv')
        run(python, SCRIPTS / 'build_mmcv.py', family)
        say('[4/5] the other packages of OpenMMLab and what they import')
        pip_install(python, '--quiet', '-r', mminstall)
        mend_opencv(python)
        say('[5/5] mmbiformer and its test tools')
        install_project(python)
        stamp.write_text(digest)
        say(f'done in {time.monotonic() - start:.0f} s')
    return python


def main() -> None:
    """Set up, then replace this process by the command."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'command', nargs='*', metavar='COMMAND', help='what to run, after "--"'
    )
    parser.add_argument(
        '--classification',
        action='store_true',
        help='with mmpretrain and torchvision',
    )
    args = parser.parse_args()
    command, classification = args.command, args.classification
    family = os.getenv('FAMILY') or None
    if family not in (None, *PYTHONS):
        sys.exit(
            f'[setup] error: FAMILY must be one of {tuple(PYTHONS)}, got '
            f'FAMILY={family!r}'
        )

    has = json.loads(ask(sys.executable, PROBE, *tool_names()) or '{}')
    active = set(has.get('families', []))
    if classification:
        active &= set(has.get('classification', []))
    fits = family in active if family else bool(active)
    # $TORCH asks for a torch that the active environment may not have.
    if fits and not os.getenv('TORCH'):
        python = Path(sys.executable)
        error = opencv_error(python)
        if error:
            sys.exit(
                f'[setup] error: OpenCV cannot be imported in {sys.prefix}: '
                f'{error}. Without a desktop: '
                'pip uninstall opencv-python; pip install '
                '--force-reinstall opencv-python-headless'
            )
        if not has['tools'] or has['mmbiformer'] != str(ROOT / 'mmbiformer'):
            say(f'adding mmbiformer and its test tools to {sys.prefix}')
            install_project(python)
    else:
        python = make_venv(family or 'openmmlab', classification)

    if not command:
        say(f'ready: {python}')
        return
    path = f'{python.parent}{os.pathsep}{os.environ["PATH"]}'
    os.execvpe(command[0], command, dict(os.environ, PATH=path))


if __name__ == '__main__':
    interrupts.raise_on_stop()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('\n[setup] interrupted; the same command continues from here')
