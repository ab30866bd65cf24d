"""Packaging; the folder ``.mim`` follows OpenMMLab's MIM."""

import platform
import shutil
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_FILES = ('configs', 'tools', 'model-index.yml')


def read_version() -> str:
    """Return the version without importing the package."""
    scope = {}
    exec((ROOT / 'mmbiformer/version.py').read_text(encoding='utf-8'), scope)
    return scope['__version__']


def read_requirements(name: str) -> list:
    """Return the requirements in ``requirements/<name>.txt``."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [
        line
        for line in map(str.strip, lines)
        if line and not line.startswith('#')
    ]


def native_extensions() -> list:
    """Return the compiled attention, for each kind of vector unit.

    Not modules of Python: plain libraries of C++, which need neither torch
    nor its headers, and OpenMP's symbols as torch brings them. Without a
    compiler that knows them, mmbiformer installs and runs without.
    """
    flags = {'': []}
    if platform.machine().lower() in ('x86_64', 'amd64'):
        flags['_avx2'] = ['-mavx2', '-mfma']
        flags['_avx512'] = [
            f'-mavx512{part}' for part in ('f', 'bw', 'dq', 'vl')
        ] + ['-mfma']
    common = ['-O3', '-g0', '-std=c++17', '-fopenmp', '-Wno-psabi']
    return [
        Extension(
            f'mmbiformer.ops.backends._native{name}',
            ['csrc/routed_attention.cpp'],
            extra_compile_args=common + flags[name],
            language='c++',
            optional=True,
        )
        for name in flags
    ]


class BuildWithMim(build_py):
    """Build the package with configs, tools and model index in ``.mim``."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            mim = ROOT / 'mmbiformer/.mim'
            mim.mkdir(exist_ok=True)
            for name in MIM_FILES:
                link = mim / name
                link.unlink(missing_ok=True)
                link.symlink_to(Path('../..') / name)
            return
        mim = Path(self.build_lib) / 'mmbiformer/.mim'
        if mim.exists():
            shutil.rmtree(mim)
        mim.mkdir(parents=True)
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

    def get_outputs(self, include_bytecode: bool = True) -> list:
        """Add the files in ``.mim`` to those that belong to the package."""
        mim = Path(self.build_lib) / 'mmbiformer/.mim'
        files = [str(path) for path in mim.rglob('*') if path.is_file()]
        return super().get_outputs(include_bytecode) + files


setup(
    name='mmbiformer',
    version=read_version(),
    description='The BiFormer backbone for MMDetection and MMSegmentation',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    ext_modules=native_extensions(),
    packages=find_packages(include=('mmbiformer', 'mmbiformer.*')),
    package_data={'mmbiformer.visualization': ['page.html']},
    python_requires='>=3.10',
    # Neither torch nor any package of OpenMMLab: the originals and their
    # maintained forks share import names and must not be installed together.
    # mim install reads requirements/mminstall.txt.
    install_requires=read_requirements('runtime'),
    extras_require={
        'mim': read_requirements('mminstall'),
        'optional': read_requirements('optional'),
        'tests': read_requirements('tests'),
    },
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False,
)
