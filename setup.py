"""The parts of the build that need code; pyproject.toml has all others.

These are the compiled attention and the folder ``.mim``, where OpenMMLab's MIM
and mmengine look for configs and tools.
"""

import platform
import shutil
import sys
from pathlib import Path
from typing import List, Tuple

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / 'csrc'
MIM_FILES = ('configs', 'tools', 'model-index.yml')
# mmbiformer/ops/backends/native.py loads the libraries by these names.
LIBRARY_SUFFIX = {'win32': '.dll', 'darwin': '.dylib'}.get(sys.platform, '.so')


def native_extensions() -> List[Extension]:
    """Return the compiled attention, one library per kind of vector unit.

    They are plain C++ libraries, not Python modules: they need neither torch
    nor its headers, and take OpenMP's symbols from the process that loads
    them. They are optional: where the compiler is missing or does not know
    the flags, mmbiformer installs and runs without them.
    """
    flags = {'': []}
    if platform.machine().lower() in ('x86_64', 'amd64'):
        flags['_avx2'] = ['-mavx2', '-mfma']
        flags['_avx512'] = [
            f'-mavx512{part}' for part in ('f', 'bw', 'dq', 'vl')
        ] + ['-mfma']
    headers = [str(p.relative_to(ROOT)) for p in sorted(CSRC.rglob('*.h'))]
    # By the name of a library: what it is built from, and by which flags. The
    # operators for onnxruntime use its threads instead of OpenMP's.
    libraries = {
        '_native': ('*.cpp', ['-fopenmp']),
        '_ort': ('onnxruntime/*.cpp', []),
    }
    common = ['-O3', '-g0', '-std=c++17', '-Wno-psabi']
    return [
        Extension(
            f'mmbiformer.ops.backends.{name}{kind}',
            [str(p.relative_to(ROOT)) for p in sorted(CSRC.glob(sources))],
            depends=headers,
            extra_compile_args=common + threads + flags[kind],
            language='c++',
            optional=True,
        )
        for name, (sources, threads) in libraries.items()
        for kind in flags
    ]


class BuildLibraries(build_ext):
    """Build extensions as libraries that do not depend on CPython."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name a library without the version of the Python that builds it."""
        return str(Path(*fullname.split('.'))) + LIBRARY_SUFFIX

    def get_export_symbols(self, ext: Extension) -> List[str]:
        """Leave out the ``PyInit_…`` of a Python module."""
        return ext.export_symbols


class PlatformWheel(bdist_wheel):
    """Tag the wheel for every Python 3 on the platform of its libraries."""

    def get_tag(self) -> Tuple[str, str, str]:
        """Return ``py3-none-<platform>``; ``any`` without libraries."""
        libraries = self.get_finalized_command('build_ext').get_outputs()
        compiled = any(Path(library).is_file() for library in libraries)
        return 'py3', 'none', super().get_tag()[2] if compiled else 'any'


class BuildWithMim(build_py):
    """Build the package with configs, tools and model index in ``.mim``."""

    def run(self) -> None:
        """Build into an empty folder, or link ``.mim`` to the checkout."""
        if self.editable_mode:
            super().run()
            mim = ROOT / 'mmbiformer/.mim'
            mim.mkdir(exist_ok=True)
            for name in MIM_FILES:
                link = mim / name
                link.unlink(missing_ok=True)
                link.symlink_to(Path('../..') / name)
            return
        # The wheel would also contain what earlier builds left there.
        package = Path(self.build_lib) / 'mmbiformer'
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        mim = package / '.mim'
        # An editable install has left links there, which setuptools copies.
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir()
        for name in MIM_FILES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(
                    source,
                    mim / name,
                    ignore=shutil.ignore_patterns('__pycache__'),
                )
            else:
                shutil.copy2(source, mim / name)

    def get_outputs(self, include_bytecode: bool = True) -> List[str]:
        """Add the files in ``.mim`` to those that belong to the package."""
        mim = Path(self.build_lib) / 'mmbiformer/.mim'
        files = [str(path) for path in mim.rglob('*') if path.is_file()]
        return super().get_outputs(include_bytecode) + files


setup(
    ext_modules=native_extensions(),
    cmdclass={
        'bdist_wheel': PlatformWheel,
        'build_ext': BuildLibraries,
        'build_py': BuildWithMim,
    },
)
