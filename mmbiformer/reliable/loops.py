"""Training loops that resume in the middle of an epoch."""

from collections.abc import Sized
from contextlib import suppress
from typing import Any, Iterator, Optional, Sequence

from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop

from mmbiformer.utils.errors import ConfigError

# Samplers of mmengine and mmdet that never end an epoch.
_ENDLESS = ('InfiniteSampler', 'MultiSourceSampler')


class ResumableEpochBasedTrainLoop(EpochBasedTrainLoop):
    """Epoch-based training loop whose first epoch can start in its middle.

    Args:
        *args: As mmengine's ``EpochBasedTrainLoop``.
        skipped (int): Number of batches of the first epoch that the
            dataloader skips. Default: 0.
        **kwargs: As mmengine's ``EpochBasedTrainLoop``.
    """

    def __init__(self, *args: Any, skipped: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._skipped = skipped

    def run_epoch(self) -> None:
        """Run one epoch, or the rest of the first one."""
        super().run_epoch()
        self._skipped = 0

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Run one iteration.

        Args:
            idx (int): Index of the batch among the loaded ones.
            data_batch (Sequence[dict]): The batch.
        """
        super().run_iter(idx + self._skipped, data_batch)


def check_loop(loop: BaseLoop) -> None:
    """Check that a training loop trains, and that its epochs end.

    Loops of other types are not checked: they may end an epoch themselves.

    Args:
        loop (BaseLoop): The loop.

    Raises:
        ConfigError: If it has no iteration, or epochs without end.
    """
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    if not by_epoch and not isinstance(loop, IterBasedTrainLoop):
        return
    name = 'max_epochs' if by_epoch else 'max_iters'
    if getattr(loop, name) < 1:
        raise ConfigError(
            f'train_cfg.{name} must be at least 1, got '
            f'train_cfg.{name}={getattr(loop, name)}'
        )
    loader = loop.dataloader
    with suppress(TypeError):  # of samplers that have no length
        if isinstance(loader.dataset, Sized) and not len(loader):
            raise ConfigError(
                'train_dataloader has no batch: of the '
                f'{len(loader.dataset)} samples, its sampler and '
                f'batch_size={loader.batch_size} with '
                f'drop_last={loader.drop_last} leave none'
            )
    own = (EpochBasedTrainLoop, ResumableEpochBasedTrainLoop)
    # Batch samplers of other packages may end where their sampler does not.
    source = type(loader.batch_sampler).__module__.partition('.')[0]
    if type(loop) in own and source in ('torch', 'mmdet'):
        sampler = getattr(loader.batch_sampler, 'sampler', None)
        kinds = {kind.__name__ for kind in type(sampler).__mro__}
        if kinds & set(_ENDLESS):
            raise ConfigError(
                f'train_dataloader.sampler.type={type(sampler).__name__!r} '
                'never ends an epoch: training by epochs needs '
                "'DefaultSampler', and this one train_cfg.by_epoch=False "
                'with train_cfg.max_iters'
            )


class SkippedBatches:
    """Batch iterator of an iteration-based loop that resumes.

    mmengine's loop first fetches and drops all batches before the start, which
    loads all their images. As the dataloader has skipped these batches, the
    loop gets None in their place.

    Args:
        skipped (int): Number of batches that the dataloader has skipped.
        batches (Iterator): The batches from the start on.
    """

    def __init__(self, skipped: int, batches: Iterator) -> None:
        self._skipped = skipped
        self._batches = batches

    def __iter__(self) -> 'SkippedBatches':
        """Return the iterator itself."""
        return self

    def __next__(self) -> Optional[Sequence[dict]]:
        """Return the next batch, or None for a skipped one."""
        if self._skipped:
            self._skipped -= 1
            return None
        return next(self._batches)

    def skip_iter(self, count: int) -> None:
        """Skip batches; called by the loop of the maintained fork.

        Args:
            count (int): Number of batches, all of which are skipped already.
        """
        self._skipped = 0
