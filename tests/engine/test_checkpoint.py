import os

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

import mmbiformer  # noqa: F401


class Payload:
    """What an attacker would put into a checkpoint."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def load(path):
    return CheckpointLoader.load_checkpoint(str(path))


def test_what_mmengine_saves_loads(tmp_path):
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    content = dict(
        state_dict=dict(weight=torch.rand(2)),
        message_hub=dict(
            log_scalars=dict(loss=buffer),
            runtime_info=dict(lr=np.float64(0.1), iter=np.int64(3)),
        ),
    )
    torch.save(content, tmp_path / 'a.pth')
    loaded = load(tmp_path / 'a.pth')
    assert loaded['message_hub']['log_scalars']['loss'].current() == 2
    assert loaded['message_hub']['runtime_info']['iter'] == 3


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    trap = tmp_path / 'trap'
    torch.save(dict(state_dict=Payload(str(trap))), tmp_path / 'a.pth')
    with pytest.raises(RuntimeError, match='was not loaded'):
        load(tmp_path / 'a.pth')
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
