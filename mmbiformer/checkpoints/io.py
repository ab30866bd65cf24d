"""Load checkpoints strictly, and save them atomically.

Strictly: nothing of a file runs when it is loaded, whatever other code or the
environment allows. mmengine's own loaders are not changed; see
:mod:`mmbiformer.checkpoints.strict` for that.
"""

import contextlib
import hashlib
import io
import os
import pickle
import re
import sys
import threading
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import Any, Iterator, Optional, Union
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmbiformer.utils.errors import CheckpointError, MissingFileError
from mmbiformer.utils.files import atomic_write, check_output

from .allowed_types import STRICT_TYPES
from .file_kinds import check_kind

# Torch's allow-list and the environment belong to the whole process.
_lock = threading.RLock()
_FORCE_STRICT = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
_FORCE_UNSAFE = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'

# The first digits of a file's sha256, where model zoos put them in its name.
# Eight digits there can be a date, too.
_HASH = re.compile(r'-([0-9a-f]{8,64})\.\w+$')
_DATE = re.compile(r'(19|20)\d\d[01]\d[0-3]\d')


def load_checkpoint(
    filename: Union[str, Path], map_location: Any = None
) -> Any:
    """Load a checkpoint from any place that mmengine knows, strictly.

    Args:
        filename (str | Path): Path, URL, or name with a scheme of mmengine,
            such as ``'torchvision://resnet50'``.
        map_location (Any): As in :func:`torch.load`. Default: None.

    Returns:
        Any: What the file holds, without ``meta.config`` and paths of best
        checkpoints elsewhere, which a runner that resumes would run or delete.

    Raises:
        CheckpointError: If the file cannot be downloaded or read, or holds
            anything but weights and plain data.
        MissingFileError: If there is no such file.
    """
    filename = os.fspath(filename)
    loader = CheckpointLoader._get_checkpoint_loader(filename)
    own = {
        'load_from_local': load_from_local,
        'load_from_http': load_from_http,
    }
    if loader.__module__ == mmengine_checkpoint.__name__:
        loader = own.get(loader.__name__, loader)
    if loader in own.values():
        checkpoint = loader(filename, map_location)
    else:
        try:
            with _strict_torch():
                checkpoint = loader(filename, map_location)
        except pickle.UnpicklingError as error:
            raise _refusal(filename, str(error)) from None
    _disarm(checkpoint, filename)
    return checkpoint


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Load a checkpoint file strictly.

    Args:
        filename (str): Path of the file.
        map_location (Any): As in :func:`torch.load`. Default: None.

    Returns:
        Any: What the file holds.

    Raises:
        CheckpointError: If the file is truncated, is no checkpoint, or holds
            anything but weights and plain data.
        MissingFileError: If there is no such file.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        kind = 'a folder' if path.is_dir() else 'not a file'
        raise MissingFileError(
            f'checkpoint={str(filename)!r} is {kind} (looked for '
            f'{path.resolve()})'
        )
    check_kind(path, str(filename))
    try:
        return load_strictly(path, map_location)
    except pickle.UnpicklingError as error:
        raise _refusal(str(filename), _unsafe_names(path, error)) from None
    except Exception as error:
        raise CheckpointError(
            f'checkpoint={str(filename)!r} ({path.stat().st_size} bytes) '
            'cannot be read; it may be truncated or damaged: '
            f'{error or type(error).__name__}'
        ) from error


def load_from_http(
    filename: str,
    map_location: Any = None,
    model_dir: Optional[str] = None,
    **_: Any,
) -> Any:
    """Download a checkpoint once, and load it strictly.

    A file that cannot be loaded is deleted, so that the next call downloads
    it again.

    Args:
        filename (str): URL of the file. If its name ends in digits of its
            sha256, as in OpenMMLab's and torchvision's model zoos, these are
            checked.
        map_location (Any): As in :func:`torch.load`. Default: None.
        model_dir (str, optional): Folder to keep the file in. Default: None,
            which means torch hub's.

    Returns:
        Any: What the file holds.

    Raises:
        CheckpointError: If it cannot be downloaded, has another hash than its
            name, or cannot be loaded.
    """
    folder = Path(model_dir or Path(torch.hub.get_dir()) / 'checkpoints')
    path = _cache_path(filename, folder)
    try:
        if get_local_rank() == 0 and not path.is_file():
            _download(filename, path)
    finally:
        # Other processes must not wait for a download that failed.
        barrier()
    try:
        return load_from_local(str(path), map_location)
    except CheckpointError as error:
        path.unlink(missing_ok=True)
        raise CheckpointError(
            f'{error}. It was downloaded from {filename}, and is deleted'
        ) from error


def load_strictly(
    file: Any, map_location: Any = None, weights_only: Optional[bool] = None
) -> Any:
    """Load a file with torch, allowing nothing but :data:`STRICT_TYPES`.

    Args:
        file (Any): As in :func:`torch.load`.
        map_location (Any): As in :func:`torch.load`. Default: None.
        weights_only (bool, optional): Ignored; the mmengine function that this
            one replaces has the argument. Default: None.

    Returns:
        Any: What the file holds.

    Raises:
        pickle.UnpicklingError: If it holds other types or functions.
    """
    with _only_strict_types():
        return torch.load(file, map_location=map_location, weights_only=True)


def save_atomically(
    checkpoint: Any, path: Path, force: bool = False, add_hash: bool = False
) -> Path:
    """Save a checkpoint, visible under its name only when it is complete.

    Args:
        checkpoint (Any): What to save.
        path (Path): File to write.
        force (bool): Whether to overwrite an existing file. Default: False.
        add_hash (bool): Append the first eight digits of the file's sha256 to
            its name, as OpenMMLab's model zoos do: ``name-0123abcd.pth``.
            Default: False.

    Returns:
        Path: The file.

    Raises:
        OutputError: If the file exists and must not be overwritten, or its
            folder does not exist.
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


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of a module or class inside a block.

    It is restored at the end, unless other code has replaced it since.

    Args:
        owner (Any): The module or class; one that does not have the attribute
            is not changed.
        name (str): The attribute.
        value (Any): Its value inside the block.
    """
    if name not in vars(owner):
        yield
        return
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        if vars(owner)[name] is value:
            setattr(owner, name, before)


@contextlib.contextmanager
def _only_strict_types() -> Iterator[None]:
    """Allow torch to load :data:`STRICT_TYPES` and nothing else.

    What other code allows under the same name, such as the real ``getattr``,
    could be used instead of ours, so it is taken off the list for the block.
    """
    with _lock:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            with torch.serialization.safe_globals(STRICT_TYPES):
                yield
        finally:
            torch.serialization.add_safe_globals(before)


@contextlib.contextmanager
def _strict_torch() -> Iterator[None]:
    """Make mmengine's loaders for other schemes strict, inside a block.

    They call :func:`torch.load` themselves, some with ``weights_only=False``,
    and the loader for URLs, which does not check hashes.
    """
    with _lock, _only_strict_types(), contextlib.ExitStack() as stack:
        before = {
            key: os.environ.pop(key)
            for key in (_FORCE_STRICT, _FORCE_UNSAFE)
            if key in os.environ
        }
        os.environ[_FORCE_STRICT] = '1'
        for name, function in MMENGINE_FUNCTIONS.items():
            stack.enter_context(replaced(mmengine_checkpoint, name, function))
        try:
            yield
        finally:
            del os.environ[_FORCE_STRICT]
            os.environ.update(before)


MMENGINE_FUNCTIONS = {
    'load_from_local': load_from_local,
    'load_from_http': load_from_http,
    # Of mmengine's maintained fork; it falls back to an unsafe load.
    '_safe_torch_load': load_strictly,
}
"""dict[str, Callable]: Strict functions for those of the same names in
``mmengine.runner.checkpoint``."""


def _refusal(filename: str, found: str) -> CheckpointError:
    """Return the error for a file that could run code.

    torch's own message recommends to load the file unsafely.
    """
    match = re.search(r'GLOBAL (\S+)', found)
    return CheckpointError(
        f'checkpoint={filename!r} was not loaded: it holds more than weights '
        'and plain data, which could run code '
        f'({match[1] if match else found})'
    )


def _unsafe_names(path: Path, error: Exception) -> str:
    """Name the types and functions for which a file is refused."""
    if zipfile.is_zipfile(path):
        with contextlib.suppress(Exception), _only_strict_types():
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            return ', '.join(sorted(names)) or str(error)
    return str(error)


def _disarm(checkpoint: Any, filename: str) -> None:
    """Remove what would make a runner that resumes run code or delete files.

    It runs ``meta.config`` as the text of a config; mmengine itself writes no
    such entry. It also deletes the previous best checkpoint when there is a
    better one, so only a path beside this checkpoint is kept as that.
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


def _hash_in_name(name: str) -> Optional[str]:
    """Return the digits of the sha256 in a file's name, if there are any."""
    match = _HASH.search(name)
    return match[1] if match and not _DATE.fullmatch(match[1]) else None


def _cache_path(url: str, folder: Path) -> Path:
    """Return where the file of a URL is kept.

    A file without a hash in its name is kept in a folder named after its URL,
    because files of several URLs can have the same name.
    """
    name = Path(urlparse(url).path).name
    if not name:
        raise CheckpointError(f'checkpoint={url!r} names no file')
    if _hash_in_name(name):
        return folder / name
    return folder / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def _download(url: str, path: Path) -> None:
    """Download a file, visible under its name only at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(
            url,
            str(path),
            hash_prefix=_hash_in_name(path.name),
            progress=sys.stderr.isatty(),
        )
    except (HTTPException, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f'checkpoint={url!r} cannot be downloaded: '
            f'{error or type(error).__name__}'
        ) from error
