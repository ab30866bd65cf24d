"""Resumable dataloaders with deterministic random numbers.

The random numbers of an iteration depend only on the seed and the iteration.
The images of a batch and their augmentation depend only on the seed, the
epoch and the index of the batch. A resumed run thus equals an uninterrupted
one, no matter how many batches the workers had prefetched, or whether there
was a validation in between.
"""

import ctypes
import functools
import os
import random
import signal
import sys
from contextlib import suppress
from typing import Callable, Iterator, List, Optional, Sequence

import numpy as np
import torch
from mmengine.dataset import worker_init_fn
from mmengine.dist import get_rank
from torch.multiprocessing import get_start_method
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

# Purpose of a key, so that equal numbers give different random streams.
ITERATION, BATCH = range(2)

# From linux/prctl.h: the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


def seed_generators(*key: int) -> None:
    """Seed the random generators of Python, NumPy and torch, on all devices.

    Args:
        *key (int): Non-negative numbers; different keys give different
            random streams.
    """
    python, numpy, torch_ = np.random.SeedSequence(key).generate_state(
        3, np.uint64
    )
    random.seed(int(python))
    np.random.seed(int(numpy) % 2**32)
    torch.manual_seed(int(torch_))


class SeededBatch(list):
    """The indices of a batch, and the key of its random numbers."""

    def __init__(self, indices: Sequence[int], key: Sequence[int]) -> None:
        super().__init__(indices)
        self.key = tuple(key)


class ResumableBatchSampler:
    """Batches of a batch sampler, from the middle of a run on.

    Args:
        batches (Sampler): The batch sampler, such as torch's ``BatchSampler``
            or mmdet's ``AspectRatioBatchSampler``.
        seed (int): Seed of the run.
        epoch (int): Epoch to start in. Default: 0.
        skip (int): Number of batches to skip first; it may exceed an epoch.
            Default: 0.
    """

    def __init__(
        self, batches: Sampler, seed: int, epoch: int = 0, skip: int = 0
    ) -> None:
        self.batches = batches
        self.seed = seed
        self.epoch = epoch
        self.skip = skip

    def __len__(self) -> int:
        """Return the number of batches of a full epoch."""
        return len(self.batches)

    def __iter__(self) -> Iterator[SeededBatch]:
        """Yield the batches of an epoch; endlessly for an infinite sampler.

        Yields:
            SeededBatch: The indices of a batch.
        """
        sampler = getattr(self.batches, 'sampler', None)
        while True:
            # In iteration-based training, mmengine counts the epochs from
            # where the run was resumed.
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(self.epoch)
            drawn = 0
            for indices in self.batches:
                drawn += 1
                if drawn > self.skip:
                    key = (BATCH, self.seed, get_rank(), self.epoch, drawn)
                    yield SeededBatch(indices, key)
            self.epoch += 1
            left = self.skip - drawn
            self.skip = max(left, 0)
            if left < 0 or not drawn:
                return


class RunDataLoader(DataLoader):
    """torch's dataloader in a run that can be interrupted and resumed.

    All attributes are those of torch's class, with the sampler and the batch
    sampler of the config.

    Attributes:
        resumable (ResumableBatchSampler, optional): Where its batches come
            from instead of ``batch_sampler``, see :func:`make_resumable`.
    """

    resumable: Optional[ResumableBatchSampler] = None

    @property
    def _index_sampler(self) -> Sampler:
        return self.resumable or super()._index_sampler

    def __iter__(self) -> Iterator:
        """Start the workers, if there are any, and iterate over the batches.

        Until a worker has a process group of its own, Ctrl-C is held back
        from it; see :func:`_start_worker`.
        """
        shielded = getattr(self.worker_init_fn, 'func', None) is _start_worker
        if not shielded or get_start_method() != 'fork':
            return super().__iter__()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _SeededFetch:
    """Seed the random numbers of a batch, then load its samples."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.fetch = getattr(dataset, '__getitems__', None)

    def __call__(self, batch: List[int]) -> list:
        if isinstance(batch, SeededBatch):
            seed_generators(*batch.key)
        if self.fetch is not None:
            return self.fetch(batch)
        return [self.dataset[index] for index in batch]


def make_resumable(
    loader: RunDataLoader, seed: int, epoch: int = 0, skip: int = 0
) -> None:
    """Let a dataloader start in the middle of a run, with seeded batches.

    Dataloaders of an ``IterableDataset`` and those without batches
    (``batch_size=None``) are not changed: they have no order to resume.

    Args:
        loader (RunDataLoader): The dataloader; changed in place.
        seed (int): Seed of the run.
        epoch (int): Epoch to start in. Default: 0.
        skip (int): Number of batches to skip first. Default: 0.
    """
    dataset = loader.dataset
    if loader.batch_sampler is None or isinstance(dataset, IterableDataset):
        return
    loader.resumable = ResumableBatchSampler(
        loader.batch_sampler, seed, epoch, skip
    )
    # torch loads a batch by this method if the data set has it. A plain list
    # takes no attribute, and draws no random numbers.
    if not isinstance(getattr(dataset, '__getitems__', None), _SeededFetch):
        with suppress(AttributeError):
            dataset.__getitems__ = _SeededFetch(dataset)


def shield_workers(dataloader: dict, seed: Optional[int]) -> dict:
    """Return the config of a dataloader whose workers outlive a signal.

    Args:
        dataloader (dict): Config of a dataloader. It is returned unchanged if
            it has a ``worker_init_fn``.
        seed (int, optional): Seed of the run. If None, the config is returned
            unchanged, too.

    Returns:
        dict: The config.
    """
    if seed is None or 'worker_init_fn' in dataloader:
        return dataloader
    dataloader = dict(dataloader)
    dataloader['worker_init_fn'] = dict(
        type=_start_worker,
        num_workers=dataloader.get('num_workers', 0),
        rank=get_rank(),
        seed=seed,
        disable_subprocess_warning=dataloader.pop(
            'disable_subprocess_warning', False
        ),
    )
    return dataloader


def _start_worker(worker_id: int, **kwargs) -> None:
    """Initialize a worker as mmengine does, and bind it to the run.

    Signals such as a terminal's Ctrl-C are sent to the whole process group,
    but the main process needs its workers to end in order. If it is killed,
    the workers must end, too.
    """
    if hasattr(os, 'setpgid'):
        os.setpgid(0, 0)
    if sys.platform == 'linux':
        # torch's workers detect that their parent is dead, but may then block
        # forever on unsent data, as another worker keeps the pipe open.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if hasattr(signal, 'pthread_sigmask'):
        # A Ctrl-C that was held back is dropped by ignoring it.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    sys.excepthook = functools.partial(_report_unless_left, sys.excepthook)
    worker_init_fn(worker_id, **kwargs)


def _report_unless_left(hook: Callable, kind: type, *error) -> None:
    """Show an error of a thread of a worker, as ``hook`` does.

    Tensors are handed over by a thread. Ctrl-C may end the main process while
    it receives one, and it has shown by then that it was interrupted.
    """
    if not issubclass(kind, (ConnectionError, EOFError)):
        hook(kind, *error)
