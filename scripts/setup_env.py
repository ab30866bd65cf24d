"""Set up torch, OpenMMLab and mmbiformer, then run a command there.

    python3 scripts/setup_env.py                    # set up only
    python3 scripts/setup_env.py -- COMMAND [ARG…]  # then run COMMAND

The Python that runs this script is used if its environment has torch,
mmengine, mmcv with its compiled ops, mmdet, mmsegmentation and what these
import; only mmbiformer and its test tools are added to it. Otherwise the
environment ``.venv`` is created in the project's folder. Steps that are done
are skipped, so an interrupted set-up continues where it stopped.

``$FAMILY`` selects the packages of OpenMMLab: ``openmmlab``, the originals, or
``onedl``, their maintained forks, which get an environment of their own,
``.venv-onedl``. If it is not set, the active environment may have either.

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
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).resolve().parents[1]
BUILD_MMCV = ROOT / 'scripts/build_mmcv.py'
TORCH = 'torch==2.13.0'
# mmcv's setup.py imports pkg_resources, which setuptools 82 removed; torch
# warns at every start if numpy is missing.
BUILD_TOOLS = ['setuptools<80', 'wheel', 'ninja', 'numpy']
PYTHONS = ('3.10', '3.11', '3.12')
# The environment of each family, and what is installed there. The forks have
# the originals' import names: both in one environment overwrite each other.
VENVS = {'openmmlab': ROOT / '.venv', 'onedl': ROOT / '.venv-onedl'}
MMINSTALL = {
    'openmmlab': ROOT / 'requirements/mminstall.txt',
    'onedl': ROOT / 'requirements/mminstall_onedl.txt',
}

# Run by the interpreter in question; prints what its environment has.
PROBE = """
import importlib.metadata, importlib.util, json, pathlib

def has(name):
    return bool(list(importlib.metadata.distributions(name=name)))

# The originals also import packages that they do not declare.
families = dict(
    openmmlab=('mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'ftfy', 'regex'),
    onedl=('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection',
           'onedl-mmsegmentation'))
modules = dict(openmmlab=('pkg_resources',), onedl=())

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
    tools=all(map(has, (
        'hypothesis', 'mypy', 'pytest', 'pytest-xdist', 'ruff',
        'scikit-learn', 'selenium'))),
    mmbiformer=folder('mmbiformer'))))
"""


def say(message: str) -> None:
    """Print the progress of the set-up."""
    print(f'[setup] {message}', file=sys.stderr, flush=True)


def run(*command: object) -> None:
    """Run a command with its output on stderr; exit if it fails."""
    command = [str(part) for part in command]
    result = subprocess.run(command, stdout=sys.stderr)
    if result.returncode:
        sys.exit(f'[setup] error: command failed: {shlex.join(command)}')


def pip_install(python: Path, *arguments: object) -> None:
    """Install packages with the pip of an interpreter."""
    run(
        python, '-m', 'pip', '--disable-pip-version-check', 'install',
        *arguments,
    )  # fmt: skip


def ask(python: object, code: str) -> str:
    """Return what an interpreter prints; empty if it fails."""
    result = subprocess.run([python, '-c', code], capture_output=True)
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


def find_python() -> str:
    """Return a Python for the environment; exit if there is none."""
    names = [sys.executable] + [f'python{version}' for version in PYTHONS]
    for name in names:
        python = shutil.which(name)
        version = 'import sys; print(*sys.version_info[:2], sep=".")'
        if python and ask(python, version) in PYTHONS:
            break
    else:
        sys.exit(
            f'[setup] error: Python {PYTHONS[0]} to {PYTHONS[-1]} is needed; '
            f'none of these is one: {", ".join(names)}. Name one by '
            'make … PYTHON=PATH'
        )
    if not ask(python, 'import ensurepip, venv; print(1)'):
        sys.exit(
            f'[setup] error: {python} cannot create virtual environments; on '
            'Debian and Ubuntu: apt install python3-venv'
        )
    include = ask(
        python, 'import sysconfig; print(sysconfig.get_path("include"))'
    )
    if not Path(include, 'Python.h').is_file():
        sys.exit(
            f'[setup] error: {include}/Python.h is missing, and mmcv must be '
            'compiled; on Debian and Ubuntu: apt install python3-dev'
        )
    return python


def torch_arguments() -> list:
    """Return pip's arguments for torch: ``$TORCH`` or the default."""
    arguments = shlex.split(os.getenv('TORCH') or TORCH)
    if arguments[0][0].isdigit():
        arguments[0] = f'torch=={arguments[0]}'
    return arguments


def fingerprint() -> str:
    """Return a digest of everything that decides what is installed."""
    # A virtual environment works only where it was created.
    digest = hashlib.sha256(
        shlex.join([*torch_arguments(), str(ROOT)]).encode()
    )
    for path in [
        Path(__file__),
        BUILD_MMCV,
        ROOT / 'pyproject.toml',
        ROOT / 'setup.py',
        *sorted((ROOT / 'csrc').rglob('*.*')),
        *sorted((ROOT / 'requirements').glob('*.txt')),
    ]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def install_project(python: Path) -> None:
    """Install mmbiformer, editable, and what its tests and tools need."""
    requirements = ROOT / 'requirements'
    files = ['tests.txt', 'optional.txt']
    if not ask(python, 'import triton; print(1)'):
        files.append('triton.txt')
    pip_install(
        python, '--quiet', '--editable', ROOT,
        *(part for name in files for part in ('-r', requirements / name)),
    )  # fmt: skip


def make_venv(family: str) -> Path:
    """Create or complete the environment of a family.

    Args:
        family (str): ``'openmmlab'`` or ``'onedl'``.

    Returns:
        Path: Its interpreter.
    """
    venv = VENVS[family]
    python = venv / 'bin/python'
    stamp = venv / 'mmbiformer-setup.txt'
    with lock(ROOT / f'{venv.name}.lock'):
        if stamp.is_file() and stamp.read_text() == fingerprint():
            return python
        start = time.monotonic()
        base = find_python()
        say(f'[1/5] virtual environment in {venv}, with {base}')
        run(base, '-m', 'venv', venv)
        say('[2/5] torch')
        pip_install(python, *torch_arguments())
        # After torch, which brings the newest setuptools.
        pip_install(python, *BUILD_TOOLS)
        say('[3/5] mmcv')
        run(python, BUILD_MMCV, family)
        say('[4/5] mmengine, mmdet, mmsegmentation and what they import')
        pip_install(python, '--quiet', '-r', MMINSTALL[family])
        say('[5/5] mmbiformer and its test tools')
        install_project(python)
        stamp.write_text(fingerprint())
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
    command = parser.parse_args().command
    family = os.getenv('FAMILY') or None
    if family not in (None, *VENVS):
        sys.exit(
            f'[setup] error: FAMILY must be one of {tuple(VENVS)}, got '
            f'FAMILY={family!r}'
        )

    has = json.loads(ask(sys.executable, PROBE) or '{}')
    active = has.get('families', [])
    fits = family in active if family else bool(active)
    # $TORCH asks for a torch that the active environment may not have.
    if fits and not os.getenv('TORCH'):
        python = Path(sys.executable)
        if not has['tools'] or has['mmbiformer'] != str(ROOT / 'mmbiformer'):
            say(f'adding mmbiformer and its test tools to {sys.prefix}')
            install_project(python)
    else:
        python = make_venv(family or 'openmmlab')

    if not command:
        say(f'ready: {python}')
        return
    path = f'{python.parent}{os.pathsep}{os.environ["PATH"]}'
    os.execvpe(command[0], command, dict(os.environ, PATH=path))


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('\n[setup] interrupted; the same command continues from here')
