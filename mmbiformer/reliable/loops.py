"""mmengine's training loops, starting where a run goes on."""

from typing import Any, Iterator, Optional, Sequence

from mmengine.runner import EpochBasedTrainLoop


class ResumableEpochBasedTrainLoop(EpochBasedTrainLoop):
    """mmengine's loop, whose first epoch may start in its middle.

    Args:
        *args: As mmengine's ``EpochBasedTrainLoop``.
        skipped (int): Batches of the first epoch that the dataloader leaves
            out. Default: 0.
        **kwargs: As mmengine's ``EpochBasedTrainLoop``.
    """

    def __init__(self, *args: Any, skipped: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._skipped = skipped

    def run_epoch(self) -> None:
        """Run one epoch, or what is left of the first."""
        super().run_epoch()
        self._skipped = 0

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Run one iteration.

        Args:
            idx (int): Number of the batch among those that were read.
            data_batch (Sequence[dict]): The batch.
        """
        super().run_iter(idx + self._skipped, data_batch)


class SkippedBatches:
    """The batches of a loop by iterations that starts in mid-run.

    mmengine's loop first takes all batches before the start and drops them,
    which reads every image of them. The dataloader has left them out already,
    so it gets blanks.

    Args:
        skipped (int): Batches that were left out.
        batches (Iterator): Those from the start on.
    """

    def __init__(self, skipped: int, batches: Iterator) -> None:
        self._skipped = skipped
        self._batches = batches

    def __iter__(self) -> 'SkippedBatches':
        """Return the iterator itself."""
        return self

    def __next__(self) -> Optional[Sequence[dict]]:
        """Return the next batch, or a blank."""
        if self._skipped:
            self._skipped -= 1
            return None
        return next(self._batches)

    def skip_iter(self, count: int) -> None:
        """Skip batches, as the loop of the maintained fork does.

        Args:
            count (int): How many; all were left out already.
        """
        self._skipped = 0
