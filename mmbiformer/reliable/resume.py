"""Find the checkpoint to resume from, and protect those of other runs."""

import inspect
import logging
import warnings
from pathlib import Path
from typing import Iterator, List, Optional, Set, Union

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import (
    OptimWrapperDict,
    ReduceOnPlateauParamScheduler,
    _ParamScheduler,
)
from mmengine.runner import EpochBasedTrainLoop, Runner

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


class Schedule:
    """The schedule of a config, before resuming replaces it.

    mmengine restores the schedulers of the checkpoint with all of their
    settings, so that a config with more epochs keeps the schedule of fewer.

    Args:
        runner (Runner): A runner whose optimizer and schedulers are built.
    """

    def __init__(self, runner: Runner) -> None:
        self._states = [one.state_dict() for one in _schedulers(runner)]
        self._groups = [dict(group) for group in _param_groups(runner)]

    def differences(self, runner: Runner) -> List[str]:
        """Say how the schedule of the checkpoint differs.

        Args:
            runner (Runner): The runner, resumed.

        Returns:
            list[str]: Such as ``'CosineAnnealingLR.T_max=12 (24 in the
            config)'``.
        """
        found = []
        for scheduler, state in zip(
            _schedulers(runner), self._states, strict=True
        ):
            name = type(scheduler).__name__
            found += [
                f'{name}.{key}={value!r} ({state[key]!r} in the config)'
                for key, value in scheduler.state_dict().items()
                if key in _settings(scheduler) and value != state.get(key)
            ]
        return found

    def follow(self, runner: Runner) -> None:
        """Let a resumed run follow the schedule of the config.

        The schedulers step from the start to where the run resumes. Those
        that depend on metrics keep the state of the checkpoint.

        Args:
            runner (Runner): The runner, resumed.
        """
        for group, before in zip(
            _param_groups(runner), self._groups, strict=True
        ):
            for key in [one for one in group if f'initial_{one}' in group]:
                group[key] = before[key]
                group[f'initial_{key}'] = before[f'initial_{key}']
        schedulers = []
        for scheduler, state in zip(
            _schedulers(runner), self._states, strict=True
        ):
            if not isinstance(scheduler, ReduceOnPlateauParamScheduler):
                scheduler.load_state_dict(state)
                schedulers.append(scheduler)
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        with warnings.catch_warnings():
            # The optimizer has stepped, but not in this process.
            warnings.simplefilter('ignore')
            for iteration in range(1, runner.iter + 1):
                ends = by_epoch and iteration % len(loop.dataloader) == 0
                for scheduler in schedulers:
                    if not scheduler.by_epoch or ends:
                        scheduler.step()


def _schedulers(runner: Runner) -> List[_ParamScheduler]:
    """Return the schedulers of all optimizers of a runner."""
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        return [one for several in schedulers.values() for one in several]
    return list(schedulers)


def _param_groups(runner: Runner) -> List[dict]:
    """Return the parameter groups of all optimizers of a runner."""
    wrapper = runner.optim_wrapper
    several = isinstance(wrapper, OptimWrapperDict)
    return [
        group
        for one in (wrapper.values() if several else [wrapper])
        for group in one.optimizer.param_groups
    ]


def _settings(scheduler: _ParamScheduler) -> Set[str]:
    """Return the names of the arguments of a scheduler, but its position."""
    names = {
        name
        for one in type(scheduler).__mro__
        for name in inspect.signature(one.__init__).parameters
    }
    return names - {'last_step'}
