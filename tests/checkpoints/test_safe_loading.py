import os
import subprocess
import sys

import pytest
import torch
from payload import Payload

CODE = """
import sys

import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import load_checkpoint

Config.fromfile(sys.argv[1])
load_checkpoint(torch.nn.Linear(1, 1), sys.argv[2])
"""


@pytest.mark.parametrize('strict', [False, True])
def test_the_import_makes_every_load_strict(tmp_path, strict):
    """Without it, mmengine and the environment decide."""
    names = ['mmbiformer', 'mmbiformer.checkpoints.safe_loading']
    config = tmp_path / 'config.py'
    config.write_text(
        f'custom_imports = dict(imports={names[: 1 + strict]})\n'
    )
    weights = dict(torch.nn.Linear(1, 1).state_dict())
    evil = tmp_path / 'evil.pth'
    torch.save(dict(weights, x=Payload(tmp_path / 'trap')), evil)
    result = subprocess.run(
        [sys.executable, '-c', CODE, config, evil],
        capture_output=True,
        text=True,
        env=dict(os.environ, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD='1'),
    )
    assert (tmp_path / 'trap').exists() == (not strict), result.stderr
    if strict:
        last = result.stderr.strip().splitlines()[-1]
        assert 'could run code (posix.mkdir)' in last
        assert str(evil) in last
