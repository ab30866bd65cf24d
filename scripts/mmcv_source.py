"""Which mmcv is built, where its wheels are kept, and its source.

This module needs only the standard library.
"""

import os
import sys
import tarfile
import tempfile
from pathlib import Path

from simple_index import download_sdist

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = {
    # mmdet 3.3.0 and mmsegmentation 1.2.2 refuse mmcv >= 2.2.0.
    'openmmlab': 'mmcv==2.1.0',
    'onedl': 'onedl-mmcv==2.3.6',
}
# From Python 3.13 on (PEP 667), exec adds nothing to locals().
EXEC = """        exec(compile(f.read(), version_file, 'exec'))
    return locals()['__version__']
"""
EXEC_MENDED = """        names = {}
        exec(compile(f.read(), version_file, 'exec'), names)
    return names['__version__']
"""


def cache_root() -> Path:
    """Return the folder of all wheels: the user's cache, or the project's.

    The latter is for users whose home cannot be written.
    """
    cache = Path(os.getenv('XDG_CACHE_HOME') or Path.home() / '.cache')
    folder = cache / 'mmbiformer'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return ROOT / '.cache/mmbiformer'


def python_tag() -> str:
    """Return the part of a wheel's name that stands for this Python."""
    return f'cp{sys.version_info.major}{sys.version_info.minor}'


def mend(source: Path, standard: str) -> None:
    """Change in mmcv's source what newer Pythons and torch no longer take.

    Args:
        source (Path): Its folder.
        standard (str): The C++ of torch's headers, such as ``'c++17'``.
    """
    setup = source / 'setup.py'
    text = setup.read_text(encoding='utf-8').replace(EXEC, EXEC_MENDED)
    text = text.replace('-std=c++17', f'-std={standard}')
    setup.write_text(text, encoding='utf-8')


def unpack_source(requirement: str, folder: Path, standard: str) -> Path:
    """Return the folder of mmcv's source; download it if it is missing.

    A folder that exists has the object files of an interrupted build.

    Args:
        requirement (str): Name and version.
        folder (Path): Where to put it.
        standard (str): The C++ to compile it as, such as ``'c++17'``.

    Returns:
        Path: The folder of ``setup.py``.

    Raises:
        DownloadError: If there is no such sdist.
    """
    source = folder / 'source'
    if source.is_dir():
        return source
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        archive = download_sdist(requirement, Path(scratch))
        # Refuses files outside of the folder; older Pythons do not know it.
        safe = hasattr(tarfile, 'data_filter')
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, **({'filter': 'data'} if safe else {}))
        (unpacked,) = filter(Path.is_dir, Path(scratch).iterdir())
        mend(unpacked, standard)
        unpacked.rename(source)
    return source
