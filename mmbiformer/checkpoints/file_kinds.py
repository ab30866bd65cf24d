"""What a file is that should be a checkpoint, told before it is opened."""

import struct
import zipfile
from pathlib import Path
from typing import List, Optional

from mmbiformer.utils.text import list_some

# What torch wrote before its version 1.6: pickles, of this number first.
_PICKLE = b'\x80'
_LEGACY = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'

# How other files begin that end up under a checkpoint's name.
_SIGNATURES = {
    b'version https://git-lfs': 'a pointer of Git LFS, which stands for the '
    "file; fetch that by 'git lfs pull'",
    b'\x1f\x8b': 'a gzip archive; unpack it first',
    b'BZh': 'a bzip2 archive; unpack it first',
    b'\xfd7zXZ\0': 'an xz archive; unpack it first',
    b"7z\xbc\xaf'\x1c": 'a 7z archive; unpack it first',
    b'Rar!': 'a RAR archive; unpack it first',
    b'\x89HDF': 'an HDF5 file, such as the weights of Keras',
    b'\x93NUMPY': 'an array of NumPy (.npy)',
    b'%PDF': 'a PDF document',
    b'\x89PNG': 'a PNG image',
    b'\xff\xd8\xff': 'a JPEG image',
    _PICKLE: 'a pickle that torch did not write; pickles can run code, and '
    'are not opened',
}
_PAGE_STARTS = (b'<!doctype html', b'<html', b'<head', b'<body')


def check_kind(path: Path, name: str) -> None:
    """Refuse a file that is no checkpoint, or would unpack to more than it is.

    Nothing of it is unpacked or unpickled.

    Args:
        path (Path): The file.
        name (str): What to call it.

    Raises:
        RuntimeError: If it is not what ``torch.save`` writes; the message
            tells what it is instead.
    """
    size = path.stat().st_size
    with open(path, 'rb') as file:
        head = file.read(1024)
    # Behind the sign of a pickle comes its protocol.
    legacy = head[:1] == _PICKLE and head[2:].startswith(_LEGACY)
    if legacy or path.suffix == '.safetensors':
        return
    if head.startswith(b'PK'):
        problem = _archive_problem(path, size)
    else:
        problem = f'is not a PyTorch checkpoint, but {_describe(head)}'
    if problem:
        raise RuntimeError(f'checkpoint={name!r} ({size} bytes) {problem}')


def _describe(head: bytes) -> str:
    """Tell what a file is by its beginning."""
    if not head.strip(b'\0'):
        return 'empty' if not head else 'nothing but zeros'
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    if head[257:262] == b'ustar':
        return (
            'a tar archive; unpack it first, or save it anew where torch '
            'before 0.1.10 wrote it'
        )
    text = head.removeprefix(b'\xef\xbb\xbf').lstrip()
    if text.lower().startswith(_PAGE_STARTS):
        return 'a web page (HTML), as a failed download leaves one'
    if text.startswith(b'<?xml'):
        return 'XML, such as the error of a storage server'
    try:
        # A character may be cut off at the end.
        beginning = repr(text.decode(errors='strict')[:40])
    except UnicodeDecodeError as error:
        if error.start < len(text) - 3:
            return f'something that begins with the bytes {head[:16]}'
        beginning = repr(text[: error.start].decode()[:40])
    return f'text that begins with {beginning}'


def _archive_problem(path: Path, size: int) -> Optional[str]:
    """Tell what is wrong with a zip archive, if anything is."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (
        zipfile.BadZipFile, struct.error,
        EOFError, NotImplementedError, OSError, OverflowError, ValueError,
    ) as error:  # fmt: skip
        return f'is a truncated or damaged archive: {error}'
    kind = _describe_content([record.filename for record in records])
    if kind:
        return f'is not a PyTorch checkpoint, but {kind}'
    # torch stores its records as they are. Where sizes do not add up, the
    # file would take memory that it has no bytes for.
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED:
            return (
                f'was not loaded: its {record.filename!r} is compressed, '
                f'{record.file_size} bytes to {record.compress_size}, and '
                'torch.save compresses nothing'
            )
    declared = sum(record.file_size for record in records)
    if declared > size:
        return f'was not loaded: it claims to hold {declared} bytes'
    return None


def _describe_content(names: List[str]) -> Optional[str]:
    """Tell what a zip archive holds, if that is no checkpoint."""
    # torch puts all of it into one folder.
    records = {name.partition('/')[2] for name in names}
    if 'constants.pkl' in records:
        return (
            'a TorchScript archive, which holds code; save the state_dict of '
            'the model instead'
        )
    if 'data.pkl' in records:
        return None
    if '[Content_Types].xml' in names:
        return 'an office document (docx, xlsx or pptx)'
    if names and all(name.endswith('.npy') for name in names):
        return 'arrays of NumPy (.npz)'
    held = list_some(names, 4) or 'nothing'
    return f'a zip archive that holds {held}; unpack it if they are in there'
