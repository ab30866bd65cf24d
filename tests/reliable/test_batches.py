import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmbiformer.reliable.batches import (
    ResumableBatchSampler,
    make_resumable,
    seed_batches,
    seed_generators,
    shield_workers,
)


class Draws(Dataset):
    """Samples that say what each generator drew for them."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), float(torch.rand(()))


def batches(
    count, workers, sampler, skip=0, epoch=0, persistent=False, seed=5,
    **settings,
):  # fmt: skip
    """Return the first batches, over as many epochs as it takes."""
    config = dict(
        dataset=Draws(),
        batch_size=3,
        num_workers=workers,
        persistent_workers=persistent,
        sampler=dict(type=sampler),
        **settings,
    )
    loader = Runner.build_dataloader(
        make_resumable(config, seed=seed, epoch=epoch, skip=skip), seed=5
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


def test_seeds_and_processes_draw_their_own(monkeypatch):
    drawn = [batches(4, 0, DefaultSampler, seed=seed) for seed in (5, 6)]
    monkeypatch.setattr('mmbiformer.reliable.batches.get_rank', lambda: 1)
    drawn.append(batches(4, 0, DefaultSampler))
    numbers = [sample[1:] for run in drawn for batch in run
               for sample in zip(*batch, strict=True)]  # fmt: skip
    assert len(set(numbers)) == len(numbers)


def test_an_incomplete_batch_can_be_dropped():
    """Ten images in batches of three."""
    loader = make_resumable(dict(drop_last=True), seed=0)
    assert 'drop_last' not in loader
    for drop_last, count in ((True, 3), (False, 4)):
        batch_sampler = ResumableBatchSampler(
            DefaultSampler(Draws()), 3, seed=0, drop_last=drop_last
        )
        assert len(batch_sampler) == len(list(batch_sampler)) == count
    assert loader['batch_sampler']['drop_last']


def test_each_epoch_has_its_own_order():
    """Also where mmengine does not count epochs, in training by iteration."""
    sampler = DefaultSampler(Draws(), seed=0)
    batch_sampler = ResumableBatchSampler(sampler, 10, seed=0)
    orders = [tuple(batch) for _ in range(3) for batch in batch_sampler]
    assert len(set(orders)) == 3


def test_a_function_of_the_user_that_starts_workers_is_kept():
    config = dict(worker_init_fn=dict(type='mine'))
    assert shield_workers(config, 5) is config
    assert shield_workers({}, None) == {}
    assert shield_workers({}, 5)['worker_init_fn']['seed'] == 5
