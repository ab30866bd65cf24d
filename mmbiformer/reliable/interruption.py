"""Signals end training in order, and reach no process that it forks."""

import functools
import os
import signal
import threading
from types import FrameType
from typing import List, Optional

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmbiformer.utils.errors import TrainingInterrupted

from .hooks import optim_wrappers
from .resume import INTERRUPTED, write_last_checkpoint

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""tuple: Signals that end training in order: Ctrl-C, and a scheduler's."""

# The runs that take signals now, and the signals that each thread that forks
# has blocked before.
_active: List['Interruption'] = []
_forking = threading.local()


def _before_fork() -> None:
    """Hold the signals back until the child has its own handlers."""
    if _active:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork() -> None:
    """Let the signals in again."""
    mask = vars(_forking).pop('mask', None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    """Give a child the handlers that it would have without a run of ours.

    A worker of a pool that notes SIGTERM and lives on would be waited for
    without end.
    """
    while _active:
        _active.pop().restore()
    _after_fork()


@functools.cache
def _register_at_fork() -> None:
    """Register the three functions above, once in a process."""
    if hasattr(os, 'register_at_fork'):
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=_after_fork,
            after_in_child=_after_fork_in_child,
        )


def spare_children(interruption: 'Interruption') -> None:
    """Keep the signal handlers of a run out of the processes that it forks.

    Args:
        interruption (Interruption): What takes the signals of the run.
    """
    _register_at_fork()
    _active.append(interruption)


class Interruption(Hook):
    """End training at the next iteration after a signal, and save its state.

    As a context manager it takes the signals; a second one ends the run at
    once. Several processes agree on when to stop every tenth iteration.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.signum: Optional[int] = None
        self.running = False
        self._former = {}

    def __enter__(self) -> 'Interruption':
        """Take the signals, as far as this thread can."""
        if threading.current_thread() is threading.main_thread():
            self._former = {
                signum: signal.signal(signum, self._handle)
                for signum in SIGNALS
            }
            spare_children(self)
        return self

    def __exit__(self, *_) -> None:
        """Restore the former signal handlers."""
        self.running = False
        if self._former:
            _active.remove(self)
            self.restore()

    def restore(self) -> None:
        """Restore the former signal handlers."""
        for signum, handler in self._former.items():
            # None stands for one that Python did not set and cannot restore.
            signal.signal(
                signum, signal.SIG_DFL if handler is None else handler
            )
        self._former = {}

    def _handle(self, signum: int, frame: Optional[FrameType]) -> None:
        """Stop after this iteration; at a second signal, at once."""
        if not self.running or self.signum is not None:
            raise TrainingInterrupted(signum, 'ended at once, without saving')
        self.signum = signum
        # Not by the logger, which may be what was interrupted.
        os.write(
            2,
            f'\n{signal.Signals(signum).name}: training ends after this '
            'iteration and saves its state; a second one ends it at once\n'
            .encode(),
        )  # fmt: skip

    def before_train(self, runner: Runner) -> None:
        """Save the state from now on, if a signal ends the run."""
        self.running = True

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Stop after an iteration that stepped."""
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        position = dict(epoch=runner.epoch, iter=runner.iter + 1)
        if by_epoch:
            if self.end_of_epoch(loop.dataloader, batch_idx):
                return
            position['batch'] = batch_idx + 1
        if self._agreed(runner.iter) and all(
            wrapper.should_update() for wrapper in optim_wrappers(runner)
        ):
            self._stop(runner, position)

    def after_train_epoch(self, runner: Runner) -> None:
        """Stop after an epoch."""
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if by_epoch and self._agreed():
            self._stop(runner, dict(epoch=runner.epoch + 1, iter=runner.iter))

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Stop in a validation; its metrics are lost, no weights are."""
        # Processes may have different numbers of batches to validate.
        if self.running and get_world_size() == 1 and self.signum is not None:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    # It swaps the trained weights in again.
                    hook.after_val_epoch(runner)
            self._stop(runner, dict(epoch=runner.epoch, iter=runner.iter))

    def _agreed(self, iteration: int = -1) -> bool:
        """Tell whether to stop, in all processes alike."""
        if get_world_size() == 1:
            return self.signum is not None
        if (iteration + 1) % 10:
            return False
        signum = torch.tensor(float(self.signum or 0))
        all_reduce(signum, 'max')
        self.signum = int(signum) or None
        return self.signum is not None

    def _stop(self, runner: Runner, position: dict) -> None:
        """Save the state, if no checkpoint has it, and end."""
        if (position['epoch'], position['iter']) != runner.saved_position:
            runner.save_checkpoint(
                runner.work_dir, INTERRUPTED, meta=position, by_epoch=False
            )
            if is_main_process():
                write_last_checkpoint(
                    runner.work_dir, os.path.join(runner.work_dir, INTERRUPTED)
                )
        raise TrainingInterrupted(
            self.signum,
            f'after iteration {position["iter"]}; its state is in '
            f'{runner.last_checkpoint}. Resume it by --resume',
        )
