"""Checkpoint files: loaded without running code, written whole or not."""

import contextlib
import hashlib
import io
import os
import pickle
import re
import threading
import zipfile
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Tuple

import numpy as np
import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.infer import BaseInferencer
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmbiformer.utils.files import atomic_write, check_output

from .download import cache_path, download
from .file_kinds import check_kind

try:
    from numpy._core.multiarray import scalar
except ImportError:  # numpy 1
    from numpy.core.multiarray import scalar

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


def _empty_array(
    subtype: type, shape: Tuple[int, ...], typecode: bytes
) -> np.ndarray:
    """Stand in for what begins every pickled array: an empty one.

    numpy's own function makes arrays of any size, which a forged file could
    ask for.

    Args:
        subtype (type): Only numpy's array is allowed.
        shape (tuple[int, ...]): Only (0,), as numpy writes it.
        typecode (bytes): Any type; the array's state replaces it.

    Returns:
        np.ndarray: Empty array of shape (0,).

    Raises:
        pickle.UnpicklingError: If another type or shape is asked for.
    """
    if subtype is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError(f'{subtype!r} of shape {shape!r}')
    return np.empty(0, 'b')


MMENGINE_TYPES = [
    HistoryBuffer,
    (_history_statistic, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
    # Either name of numpy's module, as numpy 1 and numpy 2 write them.
    (_empty_array, 'numpy.core.multiarray._reconstruct'),
    (_empty_array, 'numpy._core.multiarray._reconstruct'),
    (scalar, 'numpy.core.multiarray.scalar'),
    (scalar, 'numpy._core.multiarray.scalar'),
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
        kind = 'a folder' if path.is_dir() else 'not a file'
        raise FileNotFoundError(
            f'checkpoint={str(filename)!r} is {kind} (looked for '
            f'{path.resolve()})'
        )
    check_kind(path, str(filename))
    try:
        return _load(path, map_location)
    except pickle.UnpicklingError as error:
        found = str(error)
        if zipfile.is_zipfile(path):
            with contextlib.suppress(pickle.UnpicklingError):
                globals_ = torch.serialization.get_unsafe_globals_in_checkpoint
                found = ', '.join(sorted(globals_(path))) or found
        raise _refusal(str(filename), found) from None
    except Exception as error:
        raise RuntimeError(
            f'checkpoint={str(filename)!r} ({path.stat().st_size} bytes) '
            'cannot be read; it may be truncated or damaged: '
            f'{error or type(error).__name__}'
        ) from error


def _load(
    file: Any, map_location: Any = None, weights_only: Optional[bool] = None
) -> Any:
    """Load weights and plain data, whatever the caller asks for."""
    torch.serialization.add_safe_globals(MMENGINE_TYPES)
    return torch.load(file, map_location=map_location, weights_only=True)


def _refusal(filename: str, found: str) -> RuntimeError:
    """Make the error of a file that could run code.

    torch's own message advises to load unsafely instead.
    """
    match = re.search(r'GLOBAL (\S+)', found)
    return RuntimeError(
        f'checkpoint={filename!r} was not loaded: it holds more than weights '
        'and plain data, which could run code '
        f'({match[1] if match else found})'
    )


def load_from_http(
    filename: str, map_location: Any = None, model_dir: Optional[str] = None
) -> Any:
    """Download a checkpoint once and load it as :func:`load_from_local` does.

    Args:
        filename (str): URL of the file. Where its name has a hash, the file
            must have it, see :func:`mmbiformer.checkpoints.download.download`.
        map_location (Any): As in :func:`torch.load`. Default: None.
        model_dir (str, optional): Folder to keep the file in. Default: None,
            which means torch hub's.

    Returns:
        Any: What the file holds.

    Raises:
        OSError: If it cannot be downloaded.
        RuntimeError: As :func:`load_from_local`.
        ValueError: If it has another hash than its name.
    """
    folder = Path(model_dir or Path(torch.hub.get_dir()) / 'checkpoints')
    path = cache_path(filename, folder)
    try:
        if get_local_rank() == 0:
            download(filename, path)
    finally:
        # The others are not left waiting for a download that failed.
        barrier()
    return load_from_local(str(path), map_location)


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
    check_output(path, 'path', force or add_hash)
    # Through a file object: torch writes a file's name into the file, and the
    # same weights are to have the same hash.
    content = io.BytesIO()
    torch.save(checkpoint, content)
    if add_hash:
        digest = hashlib.sha256(content.getbuffer()).hexdigest()
        path = path.with_name(f'{path.stem}-{digest[:8]}.pth')
        check_output(path, 'path', force)
    with atomic_write(path) as scratch:
        scratch.write_bytes(content.getbuffer())
    return path


# What register_safe_loading() replaces.
_mmengine_load = CheckpointLoader.load_checkpoint.__func__
_mmengine_init_model = BaseInferencer._init_model

# What torch reads from the environment, which all threads share.
_SAFE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
_UNSAFE = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
_lock = threading.RLock()


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Have torch load nothing but weights, even where it is told to."""
    with _lock:
        before = {key: os.environ.pop(key, None) for key in (_SAFE, _UNSAFE)}
        os.environ[_SAFE] = '1'
        try:
            yield
        finally:
            del os.environ[_SAFE]
            os.environ.update({k: v for k, v in before.items() if v})


def _load_checkpoint(
    cls: type, filename: str, map_location: Any = None, logger: str = 'current'
) -> Any:
    """Load a checkpoint by any scheme; stands in for mmengine's method."""
    torch.serialization.add_safe_globals(MMENGINE_TYPES)
    with _weights_only():
        try:
            loaded = _mmengine_load(cls, filename, map_location, logger)
        except pickle.UnpicklingError as error:
            raise _refusal(filename, str(error)) from None
    _disarm(loaded, filename)
    return loaded


def _disarm(checkpoint: Any, filename: str) -> None:
    """Take out of a checkpoint what a Runner that resumes would obey.

    It runs ``meta.config`` as the text of a config; mmengine itself writes no
    such entry. And it deletes the best checkpoint so far, a path, when there
    is a better one; that is left where it lies beside this checkpoint.
    """
    if not isinstance(checkpoint, dict):
        return
    meta = checkpoint.get('meta')
    if isinstance(meta, dict):
        meta.pop('config', None)
    hub = checkpoint.get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, dict) else None
    if isinstance(info, dict):
        folder = Path(filename).expanduser().resolve().parent
        for key in [k for k in info if str(k).startswith('best_ckpt')]:
            best = Path(str(info[key]))
            if (
                best.resolve().parent != folder
                or not best.name.startswith('best_')
                or best.suffix != '.pth'
            ):
                del info[key]


def _init_model(
    self: BaseInferencer, cfg: dict, weights: Optional[str], *args, **kwargs
) -> torch.nn.Module:
    """Build an inferencer's model; stands in for mmengine's method."""
    if not cfg:
        raise ValueError(
            f'weights={weights!r} without a model: the config would be taken '
            'out of the checkpoint, and configs are code. Name the config, '
            'too: model=CONFIG'
        )
    return _mmengine_init_model(self, cfg, weights, *args, **kwargs)


def register_safe_loading() -> None:
    """Make every load of mmengine from a file or URL a safe one.

    mmengine itself downloads with ``weights_only=False``; its maintained fork
    falls back to that where a safe load fails, and allows ``getattr``. Both
    run the text of a config that they find in a checkpoint.
    """
    torch.serialization.add_safe_globals(MMENGINE_TYPES)
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(
        ('http://', 'https://'), load_from_http, force=True
    )
    # The other schemes of mmengine (model zoos, stores) end in one of these;
    # the second is the fork's.
    mmengine_checkpoint.load_from_http = load_from_http
    mmengine_checkpoint._safe_torch_load = _load
    CheckpointLoader.load_checkpoint = classmethod(_load_checkpoint)
    BaseInferencer._init_model = _init_model
