"""Find the checkpoint to resume from, and protect those of other runs."""

import logging
from pathlib import Path
from typing import Iterator, List, Optional, Union

from mmengine.config import Config
from mmengine.logging import print_log

from mmbiformer.checkpoints.io import load_from_local
from mmbiformer.utils.errors import CheckpointError, OutputError
from mmbiformer.utils.files import atomic_write, check_writable

INTERRUPTED = 'interrupted.pth'
"""str: Checkpoint of a run that was interrupted between two others."""


def _last_named(work_dir: Path) -> Optional[Path]:
    """Return the checkpoint that ``last_checkpoint`` names, if it is there."""
    try:
        name = (work_dir / 'last_checkpoint').read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    # The folder may have been moved since, or the name be relative to another.
    for path in (Path(name), work_dir / Path(name).name):
        if name and path.is_file():
            return path
    return None


def _candidates(work_dir: Path) -> List[Path]:
    """Return the checkpoints of a run: the named last one, then by age."""
    named = _last_named(work_dir)
    folders = {work_dir, *([named.parent] if named else [])}
    files = [
        path
        for folder in folders
        for path in folder.glob('*.pth')
        # Hidden ones are what a killed run was writing.
        if not path.name.startswith(('best_', '.'))
        and not (named and path.samefile(named))
    ]
    files.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [*([named] if named else []), *files]


def _resumable(paths: List[Path], named: bool) -> Iterator[tuple]:
    """Yield the checkpoints that can be read, with their iterations."""
    for path in paths:
        try:
            checkpoint = load_from_local(str(path))
        except CheckpointError as error:
            print_log(f'{error}. It is skipped', 'current', logging.WARNING)
            continue
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
        if not isinstance(meta, dict) or 'iter' not in meta:
            continue
        # The named one counts even without an optimizer: why it cannot be
        # resumed is said when it is loaded.
        if 'optimizer' in checkpoint or (named and path is paths[0]):
            yield path, meta['iter']


def _is_readable(path: Path) -> bool:
    """Tell whether a checkpoint can be loaded."""
    try:
        load_from_local(str(path))
    except CheckpointError:
        return False
    return True


def find_checkpoint(work_dir: Union[str, Path]) -> Optional[str]:
    """Find the last good checkpoint of a run.

    It is the one that the file ``last_checkpoint`` names, unless a run was
    killed before it could write that file. Those that cannot be read are
    skipped with a warning.

    Args:
        work_dir (str | Path): Folder of the run.

    Returns:
        str, optional: Path of the checkpoint; None if there is none.

    Raises:
        CheckpointError: If some cannot be read, and there is no good one.
    """
    paths = _candidates(Path(work_dir))
    named = _last_named(Path(work_dir)) is not None
    path, iteration = next(_resumable(paths, named), (None, None))
    if path is None:
        broken = [path.name for path in paths if not _is_readable(path)]
        if broken:
            raise CheckpointError(
                f'none of the checkpoints in work_dir={str(work_dir)!r} can '
                f'be resumed, and these cannot be read: {", ".join(broken)}. '
                'To start from the beginning, name another work directory, '
                'or remove them'
            )
        return None
    age = path.stat().st_mtime_ns
    newer = [
        other
        for other in paths[1:]
        if other != path and other.stat().st_mtime_ns > age
    ]
    for other, reached in _resumable(newer, False):
        if reached > iteration:
            return str(other)
    return str(path)


def write_last_checkpoint(work_dir: str, path: str) -> None:
    """Name the last checkpoint of a run, in one step.

    Args:
        work_dir (str): Folder of the run.
        path (str): The checkpoint.
    """
    with atomic_write(Path(work_dir, 'last_checkpoint')) as scratch:
        scratch.write_text(path)


def check_work_dir(cfg: Config, training: bool) -> None:
    """Check that a run can write to its folder, and overwrites no other run.

    Args:
        cfg (Config): Config of the run.
        training (bool): Whether it will write checkpoints.

    Raises:
        OutputError: If it cannot write there, or there are checkpoints of
            another run.
    """
    folder = Path(cfg.work_dir).absolute()
    check_writable(Path(cfg.work_dir), 'work_dir')
    if not training or not folder.is_dir():
        return
    inside = cfg.get('load_from') and folder in (
        Path(cfg.load_from).absolute().parents
    )
    if cfg.get('resume') and (cfg.get('load_from') is None or inside):
        return
    last = _last_named(folder)
    if last is not None:
        raise OutputError(
            f'work_dir={cfg.work_dir!r} holds checkpoints of another run, '
            f'such as {last.name}, which would be overwritten. Resume that '
            'run by --resume, name another folder by --work-dir, or delete '
            'this one'
        )
