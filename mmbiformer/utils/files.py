"""Files: checked before any work, and written whole or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional, Sequence, Union

from .errors import ConfigError, MissingFileError, OutputError


def is_local(path: object) -> bool:
    """Tell whether a path is on this machine, and not a URL or a bucket.

    Args:
        path (object): A value of a config.

    Returns:
        bool: Whether it is a non-empty string without a scheme.
    """
    return isinstance(path, str) and bool(path) and ':' not in path[2:]


@contextmanager
def atomic_write(path: Union[str, Path]) -> Iterator[Path]:
    """Write a file that appears under its name only when it is complete.

    The block writes to a hidden file in the same folder and with the same
    suffix. At its end that file is flushed to disk and renamed; if the block
    raises, it is deleted, and a file that existed before is unchanged.

    Args:
        path (str | Path): File to write; an existing one is replaced.

    Yields:
        Path: The hidden file to write to.

    Raises:
        OSError: If the file cannot be written.

    Example:
        >>> with atomic_write('results.json') as scratch:
        ...     scratch.write_text('{}')
    """
    path = Path(path)
    scratch = path.with_name(f'.{os.getpid()}.{path.name}')
    try:
        yield scratch
        with open(scratch, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def remove_leftovers(folder: Union[str, Path], suffix: str) -> None:
    """Delete the hidden files that killed processes left in a folder.

    Args:
        folder (str | Path): Where :func:`atomic_write` writes to; no other
            process may be writing there.
        suffix (str): Suffix of the files, such as ``'.pth'``.
    """
    for path in Path(folder).glob(f'.[0-9]*.*{suffix}'):
        pid = path.name.split('.')[1]
        if pid.isdigit() and pid != str(os.getpid()):
            path.unlink(missing_ok=True)


def check_output(
    path: Path,
    argument: str,
    force: Optional[bool] = None,
    suffixes: Optional[Sequence[str]] = None,
) -> None:
    """Check that a file can be written, before any work.

    Args:
        path (Path): The file.
        argument (str): The argument that names it, for messages.
        force (bool, optional): Whether it may exist, by the tool's
            ``--force``. Default: None, for tools without that flag, where it
            may not.
        suffixes (Sequence[str], optional): Suffixes that are allowed.
            Default: None, which allows any.

    Raises:
        ConfigError: If it has another suffix.
        OutputError: If it exists and may not, is a folder, or its folder
            does not exist or is read-only.
    """
    value = f'{argument}={str(path)!r}'
    if suffixes is not None and path.suffix.lower() not in suffixes:
        raise ConfigError(
            f'{argument} must end in {" or ".join(suffixes)}, got {value}'
        )
    if path.is_dir():
        raise OutputError(f'{value} is a folder; name a file')
    if path.exists() and not force:
        hint = '' if force is None else ', or overwrite it by --force'
        raise OutputError(f'{value} exists already; name another file{hint}')
    if not path.parent.is_dir():
        raise OutputError(
            f'{value}: {str(path.parent.resolve())!r} is not a folder'
        )
    check_writable(path.parent, argument)


def check_writable(folder: Path, argument: str) -> None:
    """Check that files can be written to a folder, which need not exist.

    Args:
        folder (Path): The folder.
        argument (str): The argument that names it, for messages.

    Raises:
        OutputError: If it, or what it would be created in, is a file or
            read-only.
    """
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(
            f'{argument}={str(folder)!r} cannot be created: {existing} is '
            'not a folder'
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(
            f'{argument}={str(folder)!r} cannot be written to: {existing} is '
            'read-only'
        )


def check_checkpoint(path: str, argument: str = 'checkpoint') -> None:
    """Check that a checkpoint exists; URLs are not looked up.

    Args:
        path (str): Path or URL.
        argument (str): The argument that names it, for messages. Default:
            ``'checkpoint'``.

    Raises:
        MissingFileError: If it is a path, and not a file.
    """
    full = Path(path).expanduser().absolute()
    if is_local(path) and not full.is_file():
        kind = 'a folder, not a file' if full.is_dir() else 'not a file'
        raise MissingFileError(
            f'{argument}={path!r} is {kind} (looked for {full})'
        )
