"""Files from the web: whole, checked, and not taken for others."""

import hashlib
import os
import re
import shutil
from http.client import HTTPException
from pathlib import Path
from typing import Optional
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from rich.progress import wrap_file

# The model zoos of OpenMMLab and torchvision put the first digits of a file's
# sha256 behind the last hyphen. Eight digits there can be a date, too.
_HASH = re.compile(r'-([0-9a-f]{8,64})\.\w+$')
_DATE = re.compile(r'(19|20)\d\d[01]\d[0-3]\d')
TIMEOUT = 60
"""int: Seconds that a server may be silent."""


def hash_in_name(name: str) -> Optional[str]:
    """Return the digits of the sha256 that a file's name ends in.

    Args:
        name (str): Such as ``'resnet50-0676ba61.pth'``.

    Returns:
        Optional[str]: The digits, or None where there are none.
    """
    match = _HASH.search(name)
    if match is None or _DATE.fullmatch(match[1]):
        return None
    return match[1]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file.

    Args:
        path (Path): The file.

    Returns:
        str: Its 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def cache_path(url: str, folder: Path) -> Path:
    """Return where the file of a URL is kept.

    A name with a hash says what is in the file. Any other may mean another
    file elsewhere, so that it is kept in a folder of its URL.

    Args:
        url (str): URL of the file.
        folder (Path): Folder of all such files.

    Returns:
        Path: The file, which need not be there.

    Raises:
        ValueError: If the URL names no file.
    """
    name = Path(urlparse(url).path).name
    if not name:
        raise ValueError(f'checkpoint={url!r} names no file')
    if hash_in_name(name):
        return folder / name
    return folder / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def download(url: str, path: Path) -> None:
    """Download a file, unless it is there already.

    It is visible under its name only when it is whole.

    Args:
        url (str): URL of the file.
        path (Path): File to write. Where its name has a hash, the file must
            have it; one that is there and has another is fetched anew.

    Raises:
        OSError: If it cannot be fetched or written, or less comes than the
            server announced.
        ValueError: If it has another hash than its name.
    """
    expected = hash_in_name(path.name)
    if path.is_file() and (
        not expected or sha256_of(path).startswith(expected)
    ):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        _fetch(url, scratch)
        found = sha256_of(scratch)
        if expected and not found.startswith(expected):
            raise ValueError(
                f'checkpoint={url!r} is not the file that its name says: its '
                f'sha256 should begin with {expected}, and is {found}'
            )
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _fetch(url: str, path: Path) -> None:
    """Write what a server sends to a new file."""
    request = Request(url, headers={'User-Agent': 'mmbiformer'})
    try:
        with urlopen(request, timeout=TIMEOUT) as response:
            length = response.headers.get('Content-Length')
            length = int(length) if length else None
            with (
                open(path, 'xb') as file,
                wrap_file(
                    response, total=length or 0, description=path.name[1:]
                ) as source,
            ):
                shutil.copyfileobj(source, file, 2**20)
    except (HTTPException, OSError, ValueError) as error:
        raise OSError(
            f'checkpoint={url!r} cannot be downloaded: '
            f'{error or type(error).__name__}'
        ) from error
    received = path.stat().st_size
    # http.client takes a connection that ends early for the end of the file.
    if length is not None and received != length:
        raise OSError(
            f'checkpoint={url!r} was not downloaded: the connection ended '
            f'after {received} of {length} bytes'
        )
