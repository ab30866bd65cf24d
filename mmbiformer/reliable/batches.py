"""Resumable dataloaders with deterministic random numbers.

The random numbers of an iteration depend only on the seed and the iteration.
The images of a batch and their augmentation depend only on the seed, the
epoch and the index of the batch. A resumed run thus equals an uninterrupted
one, no matter how many batches the workers had prefetched, or whether there
was a validation in between.
"""

import ctypes
import os
import random
import signal
import sys
from typing import Iterator, List, Optional, Sequence

import numpy as np
import torch
from mmengine.dataset import worker_init_fn
from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

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
    """Batch sampler that can start in the middle of a run.

    Args:
        sampler (Sampler): Sampler of the image indices.
        batch_size (int): Number of images in a batch.
        seed (int): Seed of the run.
        batch_sampler (dict, optional): Config of the batch sampler that groups
            the indices, such as mmdet's ``AspectRatioBatchSampler``. Default:
            None, which means torch's ``BatchSampler``.
        drop_last (bool): Whether to drop an incomplete last batch. Default:
            False.
        epoch (int): Epoch to start in. Default: 0.
        skip (int): Number of batches to skip first; it may exceed an epoch.
            Default: 0.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        seed: int,
        batch_sampler: Optional[dict] = None,
        drop_last: bool = False,
        epoch: int = 0,
        skip: int = 0,
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.batches = (
            BatchSampler(sampler, batch_size, drop_last)
            if batch_sampler is None
            else DATA_SAMPLERS.build(
                batch_sampler,
                default_args=dict(sampler=sampler, batch_size=batch_size),
            )
        )
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
        while True:
            # In iteration-based training, mmengine counts the epochs from
            # where the run was resumed.
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(self.epoch)
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


class _SeededFetch:
    """Seed the random numbers of a batch, then load its samples."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __call__(self, batch: List[int]) -> list:
        if isinstance(batch, SeededBatch):
            seed_generators(*batch.key)
        fetch = getattr(type(self.dataset), '__getitems__', None)
        if fetch is not None:
            return fetch(self.dataset, batch)
        return [self.dataset[index] for index in batch]


def make_resumable(
    dataloader: dict, seed: int, epoch: int = 0, skip: int = 0
) -> dict:
    """Return the config of a dataloader that can start in the middle of a run.

    Args:
        dataloader (dict): Config of a dataloader.
        seed (int): Seed of the run.
        epoch (int): Epoch to start in. Default: 0.
        skip (int): Number of batches to skip first. Default: 0.

    Returns:
        dict: The config, with a :class:`ResumableBatchSampler`.
    """
    dataloader = dict(dataloader)
    dataloader['batch_sampler'] = dict(
        type=ResumableBatchSampler,
        batch_sampler=dataloader.get('batch_sampler'),
        drop_last=dataloader.pop('drop_last', False),
        seed=seed,
        epoch=epoch,
        skip=skip,
    )
    return dataloader


def seed_batches(loader: DataLoader) -> None:
    """Seed each batch in the process that loads it.

    Args:
        loader (DataLoader): The dataloader; its data set is modified in
            place, unless it has no :class:`ResumableBatchSampler`.
    """
    if isinstance(loader.batch_sampler, ResumableBatchSampler):
        # torch loads a batch by this method if the data set has it.
        loader.dataset.__getitems__ = _SeededFetch(loader.dataset)


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
    worker_init_fn(worker_id, **kwargs)
