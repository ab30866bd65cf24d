"""Training loops that resume in the middle of an epoch."""

from typing import Any, Iterator, Optional, Sequence

from mmengine.runner import EpochBasedTrainLoop


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
