"""Random numbers and batches that depend on the seed and the time alone.

What an iteration draws follows from the seed and its number, and what a batch
is and how it is augmented from the seed, the epoch and its place in it. So a
run goes on from a checkpoint as if it had never stopped, whatever the workers
had read ahead and whether it was validated in between.
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

# What a key is for, so that equal numbers give different streams.
ITERATION, BATCH = range(2)

# Of linux/prctl.h: the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


def seed_generators(*key: int) -> None:
    """Seed the generators of Python, numpy and torch, on all devices.

    Args:
        *key (int): Numbers from 0; every other key gives other streams.
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
    """Batches of a sampler that may start in the middle of a run.

    Args:
        sampler (Sampler): Gives the indices of images.
        batch_size (int): Images of a batch.
        seed (int): Seed of the run.
        batch_sampler (dict, optional): Config of another way to make batches
            of indices, such as mmdet's ``AspectRatioBatchSampler``. Default:
            None.
        drop_last (bool): Whether to drop a last batch that is not full.
            Default: False.
        epoch (int): Epoch to start in. Default: 0.
        skip (int): Batches to leave out before the first; they may be those
            of several epochs. Default: 0.
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
        """Return how many batches a whole epoch has."""
        return len(self.batches)

    def __iter__(self) -> Iterator[SeededBatch]:
        """Yield the batches of an epoch; without end, if the sampler has none.

        Yields:
            SeededBatch: The indices of a batch.
        """
        while True:
            # mmengine counts the epochs of a run by iterations from where it
            # was resumed.
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
    """Read the samples of a batch, once its random numbers are seeded."""

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
    """Return the config of a dataloader that may start in mid-run.

    Args:
        dataloader (dict): Config of a dataloader.
        seed (int): Seed of the run.
        epoch (int): Epoch to start in. Default: 0.
        skip (int): Batches to leave out before the first. Default: 0.

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
    """Seed each batch where it is read: in a worker, or in this process.

    Args:
        loader (DataLoader): A loader; its data set is changed in place. One
            without a :class:`ResumableBatchSampler` is left alone.
    """
    if isinstance(loader.batch_sampler, ResumableBatchSampler):
        # Torch's loaders read a batch by this method where there is one.
        loader.dataset.__getitems__ = _SeededFetch(loader.dataset)


def shield_workers(dataloader: dict, seed: Optional[int]) -> dict:
    """Return the config of a dataloader whose workers outlive a signal.

    Args:
        dataloader (dict): Config of a dataloader. One with a
            ``worker_init_fn`` of its own is left alone.
        seed (int, optional): Seed of the run; None leaves it alone, too.

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
    """Start a worker as mmengine does, that ends with the run and not before.

    Signals that end a run, as a terminal's Ctrl-C, go to a whole group of
    processes, and a run can only end in order with its workers there. But
    when a run is killed, they must not stay.
    """
    if hasattr(os, 'setpgid'):
        os.setpgid(0, 0)
    if sys.platform == 'linux':
        # Torch's workers look after their parent, but then wait for ever for
        # what they had to send, as another worker keeps the pipe open.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    worker_init_fn(worker_id, **kwargs)
