"""Checkpoint files: loaded without running code, written whole or not."""

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, Callable, Optional
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

try:
    from numpy._core.multiarray import _reconstruct, scalar
except ImportError:  # numpy 1
    from numpy.core.multiarray import _reconstruct, scalar

_STATISTICS = ('current', 'max', 'mean', 'min')


def _history_statistic(owner: type, name: str) -> Callable:
    """Stand in for ``getattr`` in checkpoints of mmengine.

    A pickled history buffer looks its statistics up by ``getattr``, which
    would open every attribute of every allowed type to a forged file.

    Args:
        owner (type): Where to look; only the history buffer is allowed.
        name (str): One of its statistics.

    Returns:
        Callable: The statistic.

    Raises:
        pickle.UnpicklingError: If anything else is looked up.
    """
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(f'getattr of {owner!r}, {name!r}')
    return getattr(HistoryBuffer, name)


MMENGINE_TYPES = [
    HistoryBuffer,
    (_history_statistic, 'builtins.getattr'),
    _reconstruct,
    scalar,
    np.ndarray,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
]
"""list: What mmengine's own checkpoints hold beside weights: the log of the
training, as history buffers over numpy arrays, and numpy scalars."""


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Load a checkpoint file without running anything that it contains.

    Args:
        filename (str): Path of the file.
        map_location (Any): As in :func:`torch.load`. Default: None.

    Returns:
        Any: What the file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        RuntimeError: If the file is truncated, is no checkpoint, or holds
            anything but weights and plain data.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f'checkpoint={str(filename)!r} is not a file (looked for '
            f'{path.resolve()})'
        )
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to load unsafely instead.
        if not zipfile.is_zipfile(path):
            raise RuntimeError(
                f'checkpoint={str(filename)!r} is not a PyTorch checkpoint, '
                'or one of before torch 1.6 that holds more than weights'
            ) from None
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        raise RuntimeError(
            f'checkpoint={str(filename)!r} was not loaded: it holds more '
            'than weights and plain data, which could run code '
            f'({", ".join(found) or error})'
        ) from None
    except (EOFError, RuntimeError, ValueError, KeyError, OSError) as error:
        raise RuntimeError(
            f'checkpoint={str(filename)!r} ({path.stat().st_size} bytes) '
            'cannot be read; it may be truncated or not be a PyTorch '
            f'checkpoint: {error or type(error).__name__}'
        ) from error


def load_from_http(
    filename: str, map_location: Any = None, model_dir: Optional[str] = None
) -> Any:
    """Download a checkpoint once and load it as :func:`load_from_local` does.

    Args:
        filename (str): URL of the file.
        map_location (Any): As in :func:`torch.load`. Default: None.
        model_dir (str, optional): Folder to keep the file in. Default: None,
            which means torch hub's.

    Returns:
        Any: What the file holds.
    """
    folder = Path(model_dir or Path(torch.hub.get_dir()) / 'checkpoints')
    path = folder / Path(urlparse(filename).path).name
    if get_local_rank() == 0 and not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(filename, str(path))
    barrier()
    return load_from_local(str(path), map_location)


def check_output(path: Path, force: bool) -> None:
    """Refuse to overwrite a file, or to write where there is no folder.

    Args:
        path (Path): File to write.
        force (bool): Whether it may exist.

    Raises:
        FileExistsError: If it exists and may not.
        NotADirectoryError: If its folder is not there.
    """
    if path.is_dir() or (path.exists() and not force):
        raise FileExistsError(
            f'{str(path)!r} exists already; name another file'
            + ('' if path.is_dir() else ', or overwrite it by --force')
        )
    if not path.parent.is_dir():
        raise NotADirectoryError(f'{str(path.parent)!r} is not a folder')


def save_atomically(
    checkpoint: Any, path: Path, force: bool = False, add_hash: bool = False
) -> Path:
    """Save a checkpoint, visible under its name only when it is whole.

    Args:
        checkpoint (Any): What to save.
        path (Path): File to write.
        force (bool): Whether it may exist. Default: False.
        add_hash (bool): Put the first eight digits of the file's sha256 into
            its name, as OpenMMLab's model zoos do: ``name-0123abcd.pth``.
            Default: False.

    Returns:
        Path: The file.

    Raises:
        FileExistsError: If it exists and may not.
        NotADirectoryError: If its folder is not there.
    """
    check_output(path, force or add_hash)
    scratch = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        # Through a file object, as torch writes a file's name into it, and
        # the same weights are to have the same hash.
        with open(scratch, 'xb') as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        if add_hash:
            digest = hashlib.sha256()
            with open(scratch, 'rb') as file:
                while block := file.read(2**20):
                    digest.update(block)
            path = path.with_name(f'{path.stem}-{digest.hexdigest()[:8]}.pth')
        check_output(path, force)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def register_safe_loading() -> None:
    """Make every load of mmengine from a file or URL a safe one.

    mmengine itself passes no ``weights_only``, and its maintained fork falls
    back to unsafe loading where the safe one fails.
    """
    torch.serialization.add_safe_globals(MMENGINE_TYPES)
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(
        ('http://', 'https://'), load_from_http, force=True
    )
