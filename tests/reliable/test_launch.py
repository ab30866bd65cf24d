"""How the processes of a run start, and what torchrun is told of errors."""

import gc
import json
import weakref

import pytest
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmbiformer.reliable import launch
from mmbiformer.reliable.launch import (
    ErrorRecord,
    init_cpu_process_group,
    leave_process_group,
)
from mmbiformer.utils.errors import ConfigError


def test_torchrun_gets_the_line(tmp_path, monkeypatch):
    record = tmp_path / 'error.json'
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(record))
    ErrorRecord('tool.py').record_exception(ConfigError('no such arch'))
    line = 'tool.py: error: no such arch'
    assert json.loads(record.read_text())['message'] == line


def test_launchers_that_cannot_work_are_named(monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(ConfigError, match='--launcher=pytorch.*dist_train.sh'):
        init_cpu_process_group('pytorch')
    for name in ('slurm', 'mpi'):
        with pytest.raises(ConfigError, match=f'--launcher={name} needs GPUs'):
            init_cpu_process_group(name)
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ('name', 'device'), [('none', 'cpu'), ('slurm', 'cuda')]
)
def test_nothing_is_started_where_mmengine_can(monkeypatch, name, device):
    monkeypatch.setattr(launch, 'get_device', lambda: device)
    init_cpu_process_group(name)
    assert not dist.is_initialized()


def test_a_model_does_not_outlive_the_process_group():
    """Threads of a group that is still there abort the interpreter's exit."""
    dist.init_process_group(
        'gloo', store=dist.HashStore(), rank=0, world_size=1
    )
    group = weakref.ref(dist.group.WORLD)
    model = DistributedDataParallel(nn.Linear(2, 2))
    model.runner = [model]
    gc.disable()
    try:
        del model
        leave_process_group()
        assert group() is None
    finally:
        gc.enable()
    assert not dist.is_initialized()
