import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmbiformer.reliable.batches import (
    make_resumable,
    seed_batches,
    seed_generators,
)


class Draws(Dataset):
    """Samples that say what each generator drew for them."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), float(torch.rand(()))


def batches(count, workers, sampler, skip=0, epoch=0, persistent=False):
    """Return the first batches, over as many epochs as it takes."""
    config = dict(
        dataset=Draws(),
        batch_size=3,
        num_workers=workers,
        persistent_workers=persistent,
        sampler=dict(type=sampler),
    )
    loader = Runner.build_dataloader(
        make_resumable(config, seed=5, epoch=epoch, skip=skip), seed=5
    )
    seed_batches(loader)
    found = []
    while len(found) < count:
        found += [batch for batch, _ in zip(loader, range(count))]  # noqa: B905
    return found[:count]


@pytest.mark.parametrize('workers', [0, 2])
def test_epochs_start_in_their_middle(workers):
    """Four batches an epoch, and the same draws for any workers."""
    whole = batches(12, 0, DefaultSampler)
    assert whole[:4] != whole[4:8]
    for start in (0, 3, 4, 6):
        epoch, skip = divmod(start, 4)
        found = batches(
            12 - start, workers, DefaultSampler, skip, epoch, workers > 0
        )
        assert found == whole[start:]


@pytest.mark.parametrize('workers', [0, 2])
def test_iterations_start_anywhere(workers):
    """Without end, and over several epochs of a sampler that has some."""
    for sampler in (InfiniteSampler, DefaultSampler):
        whole = batches(14, 0, sampler)
        assert batches(14 - 9, workers, sampler, skip=9) == whole[9:]


def test_every_sample_and_batch_draws_its_own():
    drawn = [sample[1:] for batch in batches(8, 0, DefaultSampler)
             for sample in zip(*batch, strict=True)]  # fmt: skip
    assert len(set(drawn)) == len(drawn)


def test_keys_give_other_streams():
    streams = set()
    for key in [(0, 1), (1, 0), (0, 1, 1), (0, 2), (0, 2**31)]:
        seed_generators(*key)
        streams.add((random.random(), np.random.rand(), float(torch.rand(()))))
    assert len(streams) == 5
