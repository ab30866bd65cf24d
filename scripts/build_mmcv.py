"""Build mmcv with its compiled ops for this Python and torch; install it.

    python scripts/build_mmcv.py [openmmlab|onedl]

Neither the original mmcv nor its maintained fork (onedl) has a wheel on PyPI.
The build of mmcv 2.1.0 takes about 25 minutes on two cores; without debug
information and with torch's headers precompiled, it takes about 3. The wheel
is kept in the user's cache folder (``$XDG_CACHE_HOME/mmbiformer``), or in the
project's ``.cache`` if that cannot be written, one per version of torch and
Python, and an interrupted build continues where it stopped.

Run it with the interpreter of the environment to install into. That needs
torch, setuptools < 80, wheel and ninja.
"""

import argparse
import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Iterator

if __name__ == '__main__':
    # Ctrl-C during the imports ends the script without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import interrupts
import torch
from mmcv_source import REQUIREMENTS, cache_root, python_tag, unpack_source
from simple_index import DownloadError
from torch.utils import cpp_extension

# Without debug information and without warnings from torch's headers.
CFLAGS = '-g0 -O2 -w'
# Torch's headers are C++20 from 2.14 on.
VERSION = tuple(map(int, re.findall(r'\d+', torch.__version__)[:2]))
STANDARD = 'c++20' if VERSION >= (2, 14) else 'c++17'
# Without mmcv itself, which imports OpenCV.
LOAD_OPS = """
import importlib.machinery, importlib.util, pathlib, torch
package = pathlib.Path(importlib.util.find_spec('mmcv').origin).parent
(file,) = package.glob('_ext*')
loader = importlib.machinery.ExtensionFileLoader('_ext', str(file))
spec = importlib.util.spec_from_loader('_ext', loader)
loader.create_module(spec)
"""
PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check']


def say(message: str) -> None:
    """Print the progress of the build."""
    print(f'[mmcv] {message}', file=sys.stderr, flush=True)


def cache_folder(requirement: str) -> Path:
    """Return the cache folder for this torch and Python.

    Args:
        requirement (str): mmcv and its version, as pip takes it.
    """
    # A wheel's own name knows Python and machine but not torch, nor whether
    # its ops are built with CUDA.
    cuda = torch.cuda.is_available() or os.getenv('FORCE_CUDA') == '1'
    key = (
        f'{requirement.replace("==", "-")}-torch{torch.__version__}'
        f'-{python_tag()}-{"cuda" if cuda else "cpu"}'
    )
    return cache_root() / key


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock file, so that only one build uses a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f'waiting for another build, which holds {path}')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def header_flags() -> list:
    """Return the flags that torch gives the compiler for mmcv's files.

    The compiler uses a precompiled header only with the same flags.
    """
    flags = shlex.split(CFLAGS) + ['-fPIC', f'-std={STANDARD}']
    flags += ['-DTORCH_API_INCLUDE_EXTENSION_H', '-DTORCH_EXTENSION_NAME=_ext']
    # Older torch passes the ABI of the standard library as a macro.
    if hasattr(cpp_extension.BuildExtension, '_add_gnu_cpp_abi_flag'):
        abi = int(torch._C._GLIBCXX_USE_CXX11_ABI)
        flags.append(f'-D_GLIBCXX_USE_CXX11_ABI={abi}')
    includes = [*cpp_extension.include_paths(), sysconfig.get_path('include')]
    return flags + [f'-I{path}' for path in includes]


def precompile_header(folder: Path) -> str:
    """Precompile torch's type headers, which every op of mmcv includes.

    Args:
        folder (Path): Where to put the header.

    Returns:
        str: Flags that make the build use it; empty if the compiler is not
        gcc or does not use it.
    """
    compiler = shlex.split(os.getenv('CXX', 'c++'))
    if shutil.which(compiler[0]) is None:
        sys.exit(
            f'[mmcv] error: there is no C++ compiler {compiler[0]!r}; on '
            'Debian and Ubuntu: apt install g++'
        )
    version = subprocess.run([*compiler, '--version'], capture_output=True)
    if b'Free Software Foundation' not in version.stdout:
        return ''
    header = folder / 'torch_pch.h'
    header.write_text('#include <torch/types.h>\n#include <vector>\n')
    compiled = folder / 'torch_pch.h.gch'
    command = compiler + header_flags()
    say("precompiling torch's headers (about half a minute)")
    failed = interrupts.run(
        [*command, '-x', 'c++-header', header, '-o', compiled]
    )
    # -H lists the headers that gcc opens, a precompiled one after '!'.
    used = subprocess.run(
        [*command, '-include', header, '-H', '-fsyntax-only']
        + ['-x', 'c++', os.devnull],
        capture_output=True,
        text=True,
    )
    if failed or f'! {compiled}' not in used.stderr:
        compiled.unlink(missing_ok=True)
        return ''
    return f'-include {header}'


def build_wheel(source: Path, out: Path, cflags: str) -> bool:
    """Build the wheel and print the progress.

    Args:
        source (Path): mmcv's source.
        out (Path): Folder for the wheel and ``build.log``.
        cflags (str): Flags for the compiler.

    Returns:
        bool: Whether the build succeeded.
    """
    log = out / 'build.log'
    # Where ninja is, without which one file is compiled at a time.
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    say(f'compiling; the full output goes to {log}')
    start, shown = time.monotonic(), 0.0
    terminal = sys.stderr.isatty()
    with (
        open(log, 'w') as file,
        subprocess.Popen(
            [*PIP, 'wheel', '-v', '--no-deps', '--no-build-isolation']
            + ['--wheel-dir', out, source],
            # Newer setuptools reads CXXFLAGS for C++, older CFLAGS.
            env=dict(
                os.environ,
                PATH=path,
                MMCV_WITH_OPS='1',
                CFLAGS=cflags,
                CXXFLAGS=cflags,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            start_new_session=True,
        ) as process,
    ):
        try:
            for line in process.stdout:
                file.write(line)
                step = re.match(r'\s*\[(\d+)/(\d+)\]', line)
                now = time.monotonic() - start
                if step and (terminal or now - shown > 15):
                    shown = now
                    progress = f'{step[1]}/{step[2]} files, {now:.0f} s'
                    if terminal:
                        sys.stderr.write(f'\r[mmcv]   {progress}')
                        sys.stderr.flush()
                    else:
                        say(f'  {progress}')
        except BaseException:
            # The compilers run in a session of their own: end them with us.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            raise
        finally:
            if terminal:
                print(file=sys.stderr)
    return process.returncode == 0


def cached_wheel(requirement: str) -> Path:
    """Return the wheel for this torch and Python; build it if it is missing.

    Args:
        requirement (str): mmcv and its version, as pip takes it.

    Raises:
        SystemExit: If the build fails.
    """
    folder = cache_folder(requirement)
    with lock(folder / 'lock'):
        for wheel in folder.glob('*.whl'):
            say(f'using the wheel built earlier: {wheel}')
            return wheel
        source = unpack_source(requirement, folder, STANDARD)
        out = folder / 'build'
        out.mkdir(exist_ok=True)
        header = precompile_header(folder)
        if not header:
            say('no precompiled header with this compiler: this takes longer')
        built = build_wheel(source, out, f'{CFLAGS} {header}')
        if header and not built:
            say('the build with the precompiled header failed; without it:')
            shutil.rmtree(source / 'build', ignore_errors=True)
            built = build_wheel(source, out, CFLAGS)
        if not built:
            tail = (out / 'build.log').read_text().splitlines()[-30:]
            sys.exit('\n'.join(['[mmcv] error: mmcv did not compile:', *tail]))
        (wheel,) = out.glob('*.whl')
        # Visible under its final name only when it is whole.
        final = wheel.rename(folder / wheel.name)
        shutil.rmtree(source)
        shutil.rmtree(out)
        for header_file in folder.glob('torch_pch.h*'):
            header_file.unlink()
        return final


def install(wheel: Path) -> bool:
    """Install a wheel and its requirements; return whether its ops load."""
    commands = [
        # An mmcv of the same version may be there, built for another torch.
        [*PIP, 'install', '--quiet', '--force-reinstall', '--no-deps', wheel],
        [*PIP, 'install', '--quiet', wheel],
        [sys.executable, '-c', LOAD_OPS],
    ]
    return all(interrupts.run(command) == 0 for command in commands)


def main() -> None:
    """Build mmcv if needed, and install it."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'family',
        nargs='?',
        choices=REQUIREMENTS,
        default='openmmlab',
        help="whose mmcv: OpenMMLab's, or the maintained fork's "
        '(default: %(default)s)',
    )
    requirement = REQUIREMENTS[parser.parse_args().family]
    wheel = cached_wheel(requirement)
    if not install(wheel):
        say('the wheel does not load; building it again')
        wheel.unlink()
        wheel = cached_wheel(requirement)
        if not install(wheel):
            sys.exit(f'[mmcv] error: {wheel} does not load; see above')
    say(f'installed {wheel.name}')


if __name__ == '__main__':
    interrupts.raise_on_stop()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('\n[mmcv] interrupted; the same command continues from here')
    except DownloadError as error:
        sys.exit(f'[mmcv] error: {error}')
    except subprocess.CalledProcessError as error:
        sys.exit(
            f'[mmcv] error: command failed: {shlex.join(map(str, error.cmd))}'
        )
