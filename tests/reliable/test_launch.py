"""How the processes of a run start, and what torchrun is told of errors."""

import json

import pytest
import torch.distributed as dist

from mmbiformer.reliable import launch
from mmbiformer.reliable.launch import ErrorRecord, init_cpu_process_group
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
