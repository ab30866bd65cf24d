import random
import sys
import threading

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from mmbiformer.reliable.batches import (
    ResumableBatchSampler,
    RunDataLoader,
    make_resumable,
    seed_generators,
    shield_workers,
)


class Draws(Dataset):
    """Samples that say what each generator drew for them."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), float(torch.rand(()))


def build(config):
    loader = Runner.build_dataloader(config, seed=5)
    loader.__class__ = RunDataLoader
    return loader


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
    loader = build(config)
    make_resumable(loader, seed, epoch, skip)
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


@pytest.mark.parametrize(('drop_last', 'count'), [(True, 3), (False, 4)])
def test_an_incomplete_batch_can_be_dropped(drop_last, count):
    """Ten images in batches of three."""
    found = batches(count, 0, DefaultSampler, drop_last=drop_last)
    assert (len(found[-1][0]) == 3) == drop_last


@pytest.mark.parametrize(
    'config',
    [
        dict(batch_size=3, drop_last=True),
        dict(batch_size=3, batch_sampler=dict(type=BatchSampler,
                                              drop_last=True)),
        dict(batch_size=3, num_workers=1, persistent_workers=True,
             prefetch_factor=3, pin_memory=False, timeout=9),
        dict(batch_size=3, num_batch_per_epoch=2),
        dict(),
    ],
)  # fmt: skip
def test_hooks_see_a_dataloader_as_torch_built_it(config):
    config = dict(dataset=Draws(), sampler=dict(type=DefaultSampler), **config)
    theirs = Runner.build_dataloader(config, seed=5)
    ours = build(config)
    before = dict(vars(ours))
    make_resumable(ours, seed=5)
    assert isinstance(ours, DataLoader)
    assert len(ours) == len(theirs)
    for name, value in vars(theirs).items():
        if isinstance(value, (int, float, str, type(None))):
            assert getattr(ours, name) == value, name
        else:
            assert getattr(ours, name) is before[name], name
    assert type(ours.sampler) is type(theirs.sampler)
    assert type(ours.batch_sampler) is BatchSampler
    assert type(ours.dataset) is type(theirs.dataset)


def test_data_without_an_order_stay_as_they_are():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    stream = build(dict(dataset=Stream(), sampler=None, batch_size=2))
    single = build(
        dict(dataset=Draws(), sampler=dict(type=DefaultSampler),
             batch_size=None)
    )  # fmt: skip
    for loader in (stream, single):
        make_resumable(loader, seed=0, skip=1)
        assert loader.resumable is None
    assert list(stream) == [[0, 1], [2]]
    assert len(list(single)) == 10


def test_each_epoch_has_its_own_order():
    """Also where mmengine does not count epochs, in training by iteration."""
    sampler = DefaultSampler(Draws(), seed=0)
    batch_sampler = ResumableBatchSampler(
        BatchSampler(sampler, 10, False), seed=0
    )
    orders = [tuple(batch) for _ in range(3) for batch in batch_sampler]
    assert len(set(orders)) == 3


def test_a_function_of_the_user_that_starts_workers_is_kept():
    config = dict(worker_init_fn=dict(type='mine'))
    assert shield_workers(config, 5) is config
    assert shield_workers({}, None) == {}
    assert shield_workers({}, 5)['worker_init_fn']['seed'] == 5


class ErrorsInThreads(Dataset):
    """Samples while which a thread of the worker fails."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        thread = threading.Thread(
            target=lambda: sys.excepthook(*ERRORS[index], None)
        )
        thread.start()
        thread.join()
        return index


ERRORS = [
    (BrokenPipeError, BrokenPipeError('left by the main process')),
    (ValueError, ValueError('of the thread')),
]


def test_workers_do_not_show_that_the_main_process_left(capfd):
    config = dict(
        dataset=ErrorsInThreads(),
        sampler=dict(type=DefaultSampler, shuffle=False),
        num_workers=1,
        batch_size=1,
    )
    list(build(shield_workers(config, 5)))
    shown = capfd.readouterr().err
    assert 'of the thread' in shown
    assert 'left by the main process' not in shown
