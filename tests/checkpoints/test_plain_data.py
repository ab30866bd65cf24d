import pickle
from collections import OrderedDict, defaultdict, deque
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import Runner
from toy import toy_runner

from mmbiformer.checkpoints.io import load_checkpoint
from mmbiformer.checkpoints.plain_data import to_plain


class Level(IntEnum):
    HIGH = 2


class Name(str):
    """A string of a class of its own."""


def saved(value, path):
    """What torch alone loads of some plain data."""
    torch.save(to_plain(value), path)
    return torch.load(path, weights_only=True)


def test_history_buffers_keep_all_but_their_functions(tmp_path):
    buffer = HistoryBuffer([1.0, 2.0], [1, 3], max_length=7)
    loaded = saved(dict(loss=buffer), tmp_path / 'a.pth')['loss']
    assert type(loaded) is HistoryBuffer
    assert [list(part) for part in loaded.data] == [[1, 2], [1, 3]]
    assert loaded.max_length == 7
    assert loaded.mean() == buffer.mean()
    assert loaded.statistics('max') == 2
    # As mmengine leaves them after it has pickled them once.
    pickle.dumps(buffer)
    assert saved(buffer, tmp_path / 'a.pth').current() == 2


@pytest.mark.parametrize(
    ('value', 'plain'),
    [
        (ConfigDict(a=ConfigDict(b=[1])), dict(a=dict(b=[1]))),
        ({np.int64(3): np.float32(0.5)}, {3: 0.5}),
        ((np.str_('a'), np.bool_(True)), ('a', True)),
        (np.array(['cat', 'dog']), ['cat', 'dog']),
        (Path('work/best.pth'), 'work/best.pth'),
        (dict(anneal=max, by=lambda: 0, kept=1), dict(kept=1)),
        ({'a', 'b'}, {'a', 'b'}),
        (frozenset('a'), {'a'}),
        (deque([1, range(2)]), [1, [0, 1]]),
        (defaultdict(int, a=1), dict(a=1)),
        (Level.HIGH, 2),
        (Name('cat'), 'cat'),
        ([[np.uint8(255)]], [[255]]),
        (np.array(['a', None], object), ['a', None]),
        (np.ones(2, np.longdouble), [1.0, 1.0]),
        (torch.Size([2]), torch.Size([2])),
        (torch.float16, torch.float16),
        (torch.device('cpu'), torch.device('cpu')),
        (dict(kept=1, made=[1, map(abs, [1])]), dict(kept=1)),
    ],
)
def test_other_types_become_plain(value, plain, tmp_path):
    loaded = saved(value, tmp_path / 'a.pth')
    assert loaded == plain
    assert type(loaded) is type(plain)


@pytest.mark.parametrize('kind', ['bool', 'uint8', 'int64', 'float16', 'f8'])
def test_arrays_of_numbers_stay_arrays(kind, tmp_path):
    array = np.ones((2, 3), kind)
    loaded = saved(dict(palette=array), tmp_path / 'a.pth')['palette']
    assert loaded.dtype == array.dtype
    assert (loaded == array).all()


def test_what_is_left_out_is_named():
    left_out = {}
    value = dict(a=dict(b=[object()]), c=dict(f=abs), d=iter(()))
    assert to_plain(value, left_out) == dict(a={}, c={})
    assert left_out == {'a.b': 'object', 'd': 'tuple_iterator'}
    with pytest.raises(TypeError, match='object of type object'):
        to_plain([object()])


def test_state_dicts_stay_as_they_are(tmp_path):
    state = torch.nn.BatchNorm2d(2).state_dict()
    plain = to_plain(state)
    assert type(plain) is OrderedDict
    assert plain._metadata == state._metadata
    assert all(plain[name] is value for name, value in state.items())


@pytest.mark.parametrize(
    'scheduler',
    [
        dict(type='CosineAnnealingLR', T_max=2),
        # Holds a function.
        dict(type='OneCycleLR', eta_max=0.1, total_steps=99, by_epoch=False),
        dict(type='ReduceOnPlateauLR', monitor='acc'),
    ],
)
def test_torch_and_mmengine_take_what_our_runner_saves(tmp_path, scheduler):
    options = dict(param_scheduler=scheduler)
    toy_runner(tmp_path / 'ours', **options).train()
    path = tmp_path / 'ours/epoch_3.pth'
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    checkpoint = torch.load(path, weights_only=True)
    hub = MessageHub('loaded')
    hub.load_state_dict(checkpoint['message_hub'])
    assert hub.get_scalar('train/loss').data[0].shape == (12,)
    options.update(runner_type='Runner', load_from=str(path), resume=True)
    runner = toy_runner(tmp_path / 'theirs', **options)
    assert type(runner) is Runner
    runner.train_loop._max_epochs = 4
    runner.train()
    assert runner.iter == 16


def test_all_that_hooks_and_data_sets_add_can_be_loaded(tmp_path):
    """What has a type of its own is left out, and named once."""

    class Add(Hook):
        def before_save_checkpoint(self, runner, checkpoint):
            checkpoint['mine'] = dict(count=np.int64(3), by=iter(()))

    runner = toy_runner(tmp_path)
    runner.train_dataloader.dataset.metainfo = dict(
        classes=np.array(['cat', 'dog']),
        palette=[np.zeros(3, np.uint8)],
        reader=object(),
    )
    runner.register_hook(Add())
    runner.train()
    checkpoint = load_checkpoint(tmp_path / 'epoch_3.pth')
    assert checkpoint['mine'] == dict(count=3)
    meta = checkpoint['meta']['dataset_meta']
    assert meta['classes'] == ['cat', 'dog']
    assert meta['palette'][0].tolist() == [0, 0, 0]
    assert set(meta) == {'classes', 'palette'}
    log = next(tmp_path.glob('*/*.log')).read_text()
    for key in ('mine.by', 'meta.dataset_meta.reader'):
        assert log.count(f'{key} is not saved in checkpoints') == 1
    resumed = toy_runner(tmp_path, resume=True, **{'train_cfg.max_epochs': 4})
    resumed.train()
    assert resumed.epoch == 4
