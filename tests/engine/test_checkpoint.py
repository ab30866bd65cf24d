import os

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner.checkpoint import CheckpointLoader

from mmbiformer.engine.checkpoint import MMENGINE_TYPES, save_atomically


class Payload:
    """What an attacker would put into a checkpoint."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def load(path):
    return CheckpointLoader.load_checkpoint(str(path))


@pytest.fixture
def mmengine_checkpoint(tmp_path):
    """A checkpoint with all that mmengine writes beside weights."""
    hub = MessageHub('test')
    hub.update_scalar('train/loss', torch.tensor(2.0))
    hub.update_info('best_score', np.float64(0.5))
    hub.update_info('iter', np.int64(3))
    path = tmp_path / 'a.pth'
    weights = dict(weight=torch.rand(2))
    torch.save(dict(state_dict=weights, message_hub=hub.state_dict()), path)
    return path


def test_what_mmengine_saves_loads(mmengine_checkpoint):
    hub = MessageHub('loaded')
    hub.load_state_dict(load(mmengine_checkpoint)['message_hub'])
    assert hub.get_scalar('train/loss').mean() == 2
    assert hub.get_info('iter') == 3


@pytest.mark.parametrize('index', range(len(MMENGINE_TYPES)))
def test_each_allowed_type_is_needed(mmengine_checkpoint, index):
    before = torch.serialization.get_safe_globals()
    kept = [t for i, t in enumerate(MMENGINE_TYPES) if i != index]
    others = [t for t in before if t not in MMENGINE_TYPES]
    try:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others + kept)
        with pytest.raises(RuntimeError, match='was not loaded'):
            load(mmengine_checkpoint)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


class Lookup:
    """Looks up an attribute when it is loaded."""

    def __init__(self, owner, name):
        self.call = getattr, (owner, name)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    'lookup', [Lookup(HistoryBuffer, '__init__'), Lookup(np.ndarray, 'tofile')]
)
def test_no_other_attribute_can_be_looked_up(tmp_path, lookup):
    torch.save(dict(state_dict=lookup), tmp_path / 'a.pth')
    with pytest.raises(RuntimeError, match='getattr of'):
        load(tmp_path / 'a.pth')


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    trap = tmp_path / 'trap'
    torch.save(dict(state_dict=Payload(str(trap))), tmp_path / 'a.pth')
    with pytest.raises(RuntimeError, match='was not loaded') as error:
        load(tmp_path / 'a.pth')
    assert 'posix.mkdir' in str(error.value)
    assert 'weights_only' not in str(error.value)
    assert not trap.exists()


def test_a_truncated_file_is_said_to_be_so(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save(dict(state_dict=dict(weight=torch.rand(1000))), path)
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(RuntimeError, match=r'a\.pth.*(truncated|not a)'):
            load(path)


def test_another_file_is_said_to_be_so(tmp_path):
    path = tmp_path / 'a.pth'
    path.write_text('<html>404 Not Found</html>')
    with pytest.raises(RuntimeError, match='not a PyTorch checkpoint'):
        load(path)


def test_saving_overwrites_only_when_told(tmp_path):
    path = tmp_path / 'a.pth'
    save_atomically(dict(x=1), path)
    with pytest.raises(FileExistsError, match=r'a\.pth.*--force'):
        save_atomically(dict(x=2), path)
    assert load(path) == dict(x=1)
    save_atomically(dict(x=2), path, force=True)
    assert load(path) == dict(x=2)
    with pytest.raises(NotADirectoryError, match='nowhere'):
        save_atomically(dict(x=1), tmp_path / 'nowhere/a.pth')
    with pytest.raises(AttributeError):
        save_atomically(lambda: None, path, force=True)
    assert load(path) == dict(x=2)
    assert os.listdir(tmp_path) == ['a.pth']
