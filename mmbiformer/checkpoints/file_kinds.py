"""Tell what a file is that should be a checkpoint, before it is loaded."""

import struct
import zipfile
from pathlib import Path
from typing import List, Optional

from mmbiformer.utils.errors import CheckpointError
from mmbiformer.utils.text import list_some

# How files begin that torch wrote before its version 1.6, and others that are
# often found under the name of a checkpoint.
_PICKLE = b'\x80'
_LEGACY = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
_SIGNATURES = {
    b'version https://git-lfs': 'a pointer of Git LFS, which stands for the '
    "file; fetch that by 'git lfs pull'",
    b'\x1f\x8b': 'a gzip archive; unpack it first',
    _PICKLE: 'a pickle that torch did not write; pickles can run code, and '
    'are not opened',
}


def check_kind(path: Path, name: str) -> None:
    """Refuse a file that ``torch.save`` did not write.

    Nothing of it is unpacked or unpickled.

    Args:
        path (Path): The file.
        name (str): What to call it in messages.

    Raises:
        CheckpointError: If it is something else, damaged, or would take more
            memory than it has bytes; the message says which.
    """
    size = path.stat().st_size
    with open(path, 'rb') as file:
        head = file.read(512)
    # The byte after the mark of a pickle is its protocol.
    legacy = head[:1] == _PICKLE and head[2:].startswith(_LEGACY)
    if legacy or path.suffix == '.safetensors':
        return
    if head.startswith(b'PK'):
        problem = _archive_problem(path, size)
    else:
        problem = f'is not a PyTorch checkpoint, but {_describe(head)}'
    if problem:
        raise CheckpointError(f'checkpoint={name!r} ({size} bytes) {problem}')


def _describe(head: bytes) -> str:
    """Tell what a file is by its beginning."""
    if not head:
        return 'empty'
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    if head[257:262] == b'ustar':
        return 'a tar archive; unpack it first'
    if b'<html' in head.lower() or b'<!doctype html' in head.lower():
        return 'a web page (HTML), as a failed download leaves one'
    return f'something that begins with {head[:40]}'


def _archive_problem(path: Path, size: int) -> Optional[str]:
    """Tell why a zip archive is not a checkpoint, if it is not."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (
        zipfile.BadZipFile, struct.error,
        EOFError, NotImplementedError, OSError, OverflowError, ValueError,
    ) as error:  # fmt: skip
        return f'is a truncated or damaged archive: {error}'
    kind = _other_content([record.filename for record in records])
    if kind:
        return f'is not a PyTorch checkpoint, but {kind}'
    # torch compresses nothing. Where sizes do not add up, the file would take
    # more memory than it has bytes.
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


def _other_content(names: List[str]) -> Optional[str]:
    """Tell what a zip archive holds that is not a checkpoint."""
    # torch puts all of it into one folder.
    records = {name.partition('/')[2] for name in names}
    if 'constants.pkl' in records:
        return (
            'a TorchScript archive, which holds code; save the state_dict of '
            'the model instead'
        )
    if 'data.pkl' in records:
        return None
    held = list_some(names, 4) or 'nothing'
    return f'a zip archive that holds {held}; unpack it if they are in there'
