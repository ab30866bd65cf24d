"""tools/dist_*.sh and tools/slurm_*.sh: several processes, as one."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch

from mmbiformer.engine.config import load_config
from mmbiformer.engine.runner import build_runner

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / 'configs/detection/maskrcnn_biformer_digits.py'
needs_no_gpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason='is of gloo, and runs without a GPU'
)

# Writes the losses of each process, which the log has of the first only, and
# lets one process fail.
HOOKS = """
import os
import signal

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Losses(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        with open(f'{runner.work_dir}/losses{get_rank()}.txt', 'a') as file:
            print(outputs['loss'].item(), file=file)


@HOOKS.register_module()
class Fail(Hook):
    def __init__(self, rank, how, at='after_train_iter'):
        self.rank, self.how = rank, how
        setattr(self, at, self.fail)

    def fail(self, runner, *args, **kwargs):
        if get_rank() != self.rank:
            return
        with open(f'{runner.work_dir}/failed', 'w'):
            pass
        if self.how == 'killed':
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError('the second process fails')
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def start(script, *arguments, **environment):
    """Start one of the scripts as a user would."""
    python = Path(sys.executable).parent
    path = [str(python), os.environ['PATH']]
    environment = dict(
        os.environ,
        **{'PORT': str(free_port()), 'PATH': os.pathsep.join(path)}
        | environment,
    )
    return subprocess.Popen(
        [ROOT / 'tools' / script, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # An outer test run's own processes must not be signalled.
        start_new_session=True,
    )


def finish(process, timeout=300):
    """Return what it wrote to stdout and stderr."""
    try:
        return process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        out, error = process.communicate()
        raise AssertionError(f'it hangs:\n{error[-3000:]}') from None


def run(script, *arguments, **environment):
    """Run one of the scripts to its end, which must be good."""
    process = start(script, *arguments, **environment)
    out, error = finish(process)
    assert process.returncode == 0, error[-3000:]
    return out


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """A config that keeps the losses; its folder is to be in PYTHONPATH."""
    folder = tmp_path_factory.mktemp('tiny')
    base = tiny_run.write(folder)
    (folder / 'tiny_hooks.py').write_text(HOOKS)
    return write_config(folder / 'config.py', base, dict(type='Losses'))


def write_config(path, base, *hooks):
    """Write a config with these hooks; return its path."""
    path.write_text(
        f"_base_ = ['{base}']\n"
        "custom_imports = dict(imports=['mmbiformer', 'tiny_hooks'])\n"
        f'custom_hooks = {list(hooks)}\n'
    )
    return path


@pytest.fixture
def python_path(tiny):
    return os.pathsep.join(
        filter(None, [str(tiny.parent), os.environ.get('PYTHONPATH')])
    )


def train_alone(config, work_dir, *options):
    """Train in this process."""
    sys.path.insert(0, str(Path(config).parent))
    try:
        cfg = load_config(str(config), dict(options), str(work_dir))
        build_runner(cfg).train()
    finally:
        sys.path.pop(0)


def read_losses(work_dir):
    """Return the losses, as means over the processes."""
    return np.mean(
        [np.loadtxt(path) for path in work_dir.glob('losses*.txt')], axis=0
    )


def read_metrics(work_dir):
    """Return the metrics of the last evaluation."""
    path = max(work_dir.glob('*/*/scalars.json'), key=os.path.getmtime)
    return json.loads(path.read_text().splitlines()[-1])


def assert_same_weights(one, two, **tolerance):
    one, two = (
        torch.load(path, weights_only=True)['state_dict']
        for path in (one, two)
    )
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], **tolerance)


@needs_no_gpu
def test_two_processes_are_as_one(tiny, tmp_path, python_path):
    one, two = tmp_path / 'one', tmp_path / 'two'
    train_alone(tiny, one)
    # After all else one process fails: its error must come last.
    failing = write_config(
        tmp_path / 'failing.py', tiny, dict(type='Losses'),
        dict(type='Fail', rank=1, how='error', at='after_train'),
    )  # fmt: skip
    process = start(
        'dist_train.sh', failing, 2, '--work-dir', two, '--cfg-options',
        'train_dataloader.batch_size=2', PYTHONPATH=python_path,
    )  # fmt: skip
    _, error = finish(process)
    assert process.returncode == 1
    last = error.strip().splitlines()[-2:]
    assert re.fullmatch(
        r'dist_run.py: error: process 1 \(pid \d+\) failed with exit code 1:',
        last[0],
    )
    assert last[1] == 'ValueError: the second process fails'
    assert 'ChildFailedError' not in error

    losses = read_losses(one)
    assert len(losses) == 6
    np.testing.assert_allclose(read_losses(two), losses, rtol=1e-5)
    assert_same_weights(
        one / 'iter_6.pth', two / 'iter_6.pth', rtol=1e-4, atol=1e-6
    )
    # Five images, so that one process sees one of them twice. A model that
    # sees nothing but background would have 24.
    metrics = read_metrics(one)
    assert metrics['mIoU'] > 25
    assert read_metrics(two) == metrics

    # tools/dist_test.sh, too.
    maps = tmp_path / 'maps'
    run(
        'dist_test.sh', tiny, one / 'iter_6.pth', 2, '--work-dir', tmp_path,
        '--out', maps, PYTHONPATH=python_path,
    )  # fmt: skip
    (path,) = tmp_path.glob('2*/2*.json')
    assert json.loads(path.read_text())['mIoU'] == metrics['mIoU']
    assert len(list(maps.iterdir())) == tiny_run.IMAGES['val']
