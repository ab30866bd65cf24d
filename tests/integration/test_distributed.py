"""tools/dist_*.sh and tools/slurm_*.sh: several processes, as one."""

import json
import os
import pickle
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import flowers
import numpy as np
import pytest
import tiny_run
import torch

from mmbiformer.reliable.runner import build_runner
from mmbiformer.utils.config import load_config

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / 'configs/detection/maskrcnn_biformer_digits.py'
needs_no_gpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason='is of gloo, and runs without a GPU'
)

# Writes the losses of each process, which the log has of the first only, and
# lets one process fail.
HOOKS = """
import os
import pickle
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
        # mmengine would go on with one of that name that another test made.
        cfg.visualizer.name = str(work_dir)
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
    metrics = json.loads(path.read_text().splitlines()[-1])
    return {name: metrics[name] for name in ('aAcc', 'mIoU', 'mAcc')}


def assert_same_weights(one, two, **tolerance):
    one, two = (
        torch.load(path, weights_only=True)['state_dict']
        for path in (one, two)
    )
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], **tolerance)


@needs_no_gpu
@pytest.mark.slow
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
    assert last[1] == 'train.py: error: ValueError: the second process fails'
    # It is the developer's error, so its traceback stands above.
    assert error.count('Traceback (most recent call last)') == 1
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


@needs_no_gpu
@pytest.mark.slow
@pytest.mark.classification
def test_two_processes_classify_as_one(tiny, tmp_path, python_path):
    pytest.importorskip('mmpretrain')
    base = flowers.write(tmp_path, images=dict(train=4, val=3))
    config = write_config(tmp_path / 'config.py', base, dict(type='Losses'))
    found = []
    for processes in (1, 2):
        work_dir = tmp_path / str(processes)
        run(
            'dist_train.sh', config, processes, '--work-dir', work_dir,
            '--cfg-options', f'train_dataloader.batch_size={4 // processes}',
            PYTHONPATH=python_path,
        )  # fmt: skip
        # Nine images: one process of two sees one of them twice.
        out = tmp_path / f'{processes}.pkl'
        text = run(
            'dist_test.sh', config, work_dir / 'epoch_2.pth', processes,
            '--work-dir', tmp_path / 'test', '--out', out,
            PYTHONPATH=python_path,
        )  # fmt: skip
        top1 = re.findall(r'accuracy/top1: ([\d.]+)', text)
        scores = [one['pred_score'] for one in pickle.loads(out.read_bytes())]
        found.append((read_losses(work_dir), top1, torch.stack(scores)))
    one, two = found
    assert len(one[0]) == 6
    np.testing.assert_allclose(two[0], one[0], rtol=1e-4)
    assert one[1] == two[1] and len(one[1]) == 1
    assert one[2].shape == (9, 3)
    torch.testing.assert_close(two[2], one[2], rtol=1e-4, atol=1e-5)


@needs_no_gpu
@pytest.mark.slow
class TestThoroughly:
    """What takes a start of several processes for each case."""

    @pytest.mark.parametrize('optimizer', ['SGD', 'AdamW'])
    def test_longer_curves(self, tiny, tmp_path, python_path, optimizer):
        # Every region is routed to every other: a choice among them could
        # turn by a difference in the last bit.
        rate = dict(SGD=0.1, AdamW=1e-3)[optimizer]
        config = tmp_path / 'config.py'
        config.write_text(
            f"_base_ = ['{tiny}']\n"
            f'optimizer = dict(_delete_=True, type={optimizer!r}, lr={rate})\n'
            'optim_wrapper = dict(optimizer=optimizer)\n'
            'model = dict(backbone=dict(topks=(16, 16, 16, -2)))\n'
            'train_cfg = dict(max_iters=40, val_interval=40)\n'
        )
        run(
            'dist_train.sh', config, 1, '--work-dir', tmp_path / 'one',
            PYTHONPATH=python_path,
        )  # fmt: skip
        run(
            'dist_train.sh', config, 2, '--work-dir', tmp_path / 'two',
            '--cfg-options', 'train_dataloader.batch_size=2',
            PYTHONPATH=python_path,
        )  # fmt: skip
        one, two = (read_losses(tmp_path / name) for name in ('one', 'two'))
        assert len(one) == 40
        assert one[-5:].mean() < 0.8 * one[:5].mean()
        difference = np.abs(one - two) / one
        print(f'{optimizer}: up to {difference.max():.1e} of the loss')
        assert difference.max() < 1e-3

    @pytest.mark.parametrize('processes', [2, 3])
    def test_detections(self, digits, tmp_path, processes):
        run(
            'dist_train.sh', DIGITS, processes, '--work-dir', tmp_path,
            '--cfg-options', f'train_dataloader.dataset.data_root={digits}/',
            f'val_dataloader.dataset.data_root={digits}/',
            f'val_evaluator.ann_file={digits}/annotations/instances_val.json',
            'train_cfg.max_epochs=1',
        )  # fmt: skip
        weights = tmp_path / 'epoch_1.pth'
        loader = 'test_dataloader.dataset'
        annotations = digits / 'annotations/instances_train.json'
        found = {}
        for count in (1, processes):
            out = tmp_path / f'{count}.pkl'
            # Five of the images: no number of processes here divides them.
            text = run(
                'dist_test.sh', DIGITS, weights, count, '--out', out,
                '--work-dir', tmp_path / str(count), '--cfg-options',
                f'{loader}.data_root={digits}/', f'{loader}.indices=5',
                'test_dataloader.batch_size=1',
                f'{loader}.ann_file=annotations/{annotations.name}',
                f'{loader}.data_prefix.img=images/train/',
                f'test_evaluator.ann_file={annotations}',
                'model.test_cfg.rcnn.score_thr=0.0',
            )  # fmt: skip
            found[count] = (
                pickle.loads(out.read_bytes()),
                re.findall(r'coco/\w+: +(\S+)', text),
            )
        (one, metrics), (several, others) = found.values()
        ids = [prediction['img_id'] for prediction in one]
        assert len(set(ids)) == len(ids) == 5
        assert [prediction['img_id'] for prediction in several] == ids
        for first, second in zip(one, several, strict=True):
            first, second = (p['pred_instances'] for p in (first, second))
            assert len(first['scores']) > 0
            for key in ('bboxes', 'scores', 'labels'):
                torch.testing.assert_close(first[key], second[key])
        assert len(metrics) == 12
        assert others == metrics

    @pytest.mark.parametrize('rank', [0, 1])
    def test_a_killed_process_ends_the_run(
        self, tiny, tmp_path, python_path, rank
    ):
        config = write_config(
            tmp_path / 'config.py', tiny,
            dict(type='Fail', rank=rank, how='killed'),
        )  # fmt: skip
        work_dir = tmp_path / 'work'
        process = start(
            'dist_train.sh', config, 2, '--work-dir', work_dir,
            PYTHONPATH=python_path,
        )  # fmt: skip
        seconds, error = seconds_from(work_dir / 'failed', process)
        assert process.returncode == 1
        last = error.strip().splitlines()[-1]
        assert re.search(
            rf'process {rank} \(pid \d+\) was killed by SIGKILL', last
        )
        assert seconds < 60
        print(f'{seconds:.1f} s from the kill to the end')

    def test_one_that_fails_before_they_have_met(
        self, tiny, tmp_path, python_path
    ):
        # The first process waits for the second, which finds no data.
        (tmp_path / 'rank0').symlink_to(tiny.parent)
        config = tmp_path / 'config.py'
        config.write_text(
            f"_base_ = ['{tiny}']\n"
            f"root = '{tmp_path}/rank{{{{$RANK:0}}}}'\n"
            'train_dataloader = dict(dataset=dict(data_root=root))\n'
        )
        began = time.monotonic()
        process = start(
            'dist_train.sh', config, 2, '--work-dir', tmp_path / 'work',
            PYTHONPATH=python_path,
        )  # fmt: skip
        _, error = finish(process)
        assert process.returncode == 1
        assert time.monotonic() - began < 60
        assert 'process 1' in error
        last = error[error.rindex('dist_run.py: error') :]
        assert 'train.py: error: the data set is not there' in last

    def test_two_machines(self, tiny, tmp_path, python_path):
        # First to the end, then with a process of the second one killed.
        train_alone(tiny, tmp_path / 'one')
        config = write_config(
            tmp_path / 'config.py', tiny,
            dict(type='Fail', rank=1, how='killed'),
        )  # fmt: skip
        for name, how in (('good', tiny), ('bad', config)):
            work_dir = tmp_path / name
            port = str(free_port())
            machines = [
                start(
                    'dist_train.sh', how, 1, '--work-dir', work_dir,
                    '--cfg-options', 'train_dataloader.batch_size=2',
                    PYTHONPATH=python_path, PORT=port, NNODES='2',
                    NODE_RANK=str(rank),
                )
                for rank in (0, 1)
            ]  # fmt: skip
            if name == 'good':
                for machine in machines:
                    _, error = finish(machine)
                    assert machine.returncode == 0, error[-3000:]
                np.testing.assert_allclose(
                    read_losses(work_dir),
                    read_losses(tmp_path / 'one'),
                    rtol=1e-5,
                )
                continue
            seconds, error = seconds_from(work_dir / 'failed', machines[1])
            assert 'killed by SIGKILL' in error
            more, error = seconds_from(work_dir / 'failed', machines[0])
            assert machines[0].returncode == 1
            assert 'dist_run.py: error: process 0' in error
            assert seconds + more < 60
            print(f'{seconds:.1f} and {more:.1f} s later both have ended')


def seconds_from(sign, process):
    """Return the seconds from when a file is made to a process's end.

    Also what it wrote to stderr.
    """
    _, error = finish(process)
    assert sign.is_file(), error[-3000:]
    return time.time() - sign.stat().st_mtime, error


SRUN = """#!/usr/bin/env python
import json
import subprocess
import sys

options, command = [], sys.argv[1:]
while command[0].startswith('--'):
    options.append(command.pop(0))
with open('{seen}', 'w') as file:
    json.dump(options, file)
sys.exit(subprocess.run(command).returncode)
"""


@needs_no_gpu
@pytest.mark.slow
@pytest.mark.parametrize('tool', ['train', 'test'])
def test_slurm(tiny, tmp_path, python_path, tool):
    """Under an srun that keeps its options and runs the command once."""
    srun = tmp_path / 'bin/srun'
    srun.parent.mkdir()
    srun.write_text(SRUN.format(seen=tmp_path / 'seen.json'))
    srun.chmod(0o755)
    weights = tmp_path / 'weights.pth'
    torch.save(dict(state_dict={}), weights)
    arguments = dict(
        train=[tmp_path / 'work', '--resume'],
        test=[weights, '--work-dir', tmp_path / 'work'],
    )[tool]
    process = start(
        f'slurm_{tool}.sh', 'gpu', 'a_name', tiny, *arguments,
        PYTHONPATH=python_path, GPUS='16', SRUN_ARGS='--time=60 --quiet',
        PATH=os.pathsep.join(
            [str(srun.parent), str(Path(sys.executable).parent),
             os.environ['PATH']]
        ),
    )  # fmt: skip
    _, error = finish(process)
    assert json.loads((tmp_path / 'seen.json').read_text()) == [
        '--partition=gpu', '--job-name=a_name', '--gres=gpu:8', '--ntasks=16',
        '--ntasks-per-node=8', '--cpus-per-task=5', '--kill-on-bad-exit=1',
        '--time=60', '--quiet',
    ]  # fmt: skip
    # The tool took its arguments, and came as far as to miss the GPUs.
    assert process.returncode == 1
    assert f'{tool}.py: error: --launcher=slurm needs GPUs' in error
