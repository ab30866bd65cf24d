"""The tools, cut off at any moment, and where something is wrong."""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio.backends import LocalBackend
from slow_writes import SlowWrites
from tool_server import ToolServer

import mmbiformer  # noqa: F401 (teaches torch what mmengine saves)
from mmbiformer.reliable.resume import find_checkpoint

ROOT = Path(__file__).resolve().parents[2]

# Everything that a run has a state of: two workers that draw random numbers,
# batch statistics, drop path, a moving average, two schedulers.
DETECTION = """
_base_ = '{root}/configs/detection/maskrcnn_biformer_digits.py'
custom_imports = dict(imports=['mmbiformer', 'slow_writes'])
model = dict(
    backbone=dict(
        arch=dict(depths=(1, 1, 1, 1), dims=(32, 32, 32, 32)),
        drop_path_rate=0.3,
        n_win=4,
    ),
    neck=dict(in_channels=[32] * 4, out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=32),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(num_convs=1, in_channels=32, conv_out_channels=32),
    ),
)
train_dataloader = dict(
    num_workers=2,
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        data_root='{data}/',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(
                type='RandomChoiceResize',
                scales=[(64, 64), (80, 80), (96, 96)],
            ),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackDetInputs'),
        ],
    ),
)
val_dataloader = dict(dataset=dict(data_root='{data}/'))
val_evaluator = dict(
    ann_file='{data}/annotations/instances_val.json', metric='bbox'
)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=3, val_interval=2)
custom_hooks = [
    dict(type='EMAHook', momentum=0.1),
    dict(type='SlowWrites'),
]
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=1)
)
"""

SEGMENTATION = """
_base_ = '{root}/configs/segmentation/sfpn_biformer.py'
custom_imports = dict(imports=['mmbiformer', 'slow_writes'])
crop_size = (64, 64)
classes = ('background', *'0123456789')
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        _delete_=True,
        type='BiFormer',
        arch=dict(depths=(1, 1, 1, 1), dims=(32, 32, 32, 32)),
        drop_path_rate=0.3,
        n_win=4,
    ),
    neck=dict(in_channels=[32] * 4, out_channels=32),
    decode_head=dict(
        in_channels=[32] * 4, channels=32, num_classes=len(classes)
    ),
)

def dataset(split, pipeline):
    return dict(
        _delete_=True,
        type='BaseSegDataset',
        data_root='{data}',
        metainfo=dict(classes=classes),
        data_prefix=dict(
            img_path='images/' + split, seg_map_path='labels/' + split
        ),
        img_suffix='.png',
        pipeline=pipeline,
    )

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    dataset=dataset(
        'train',
        [
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(
                type='RandomResize',
                scale=(160, 160),
                ratio_range=(0.5, 2.0),
                keep_ratio=True,
            ),
            dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dataset(
        'val',
        [
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=14, val_interval=7)
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=3, max_keep_ckpts=2)
)
custom_hooks = [dict(type='SlowWrites')]
randomness = dict(seed=3)
del dataset
"""
CONFIGS = dict(detection=DETECTION, segmentation=SEGMENTATION)
LAST = dict(detection='epoch_3.pth', segmentation='iter_14.pth')


@pytest.fixture(scope='module')
def tool_server(tmp_path_factory):
    server = ToolServer(tmp_path_factory.mktemp('server'))
    yield server
    server.close()


@pytest.fixture(scope='module')
def configs(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp('configs')
    paths = {}
    for task, text in CONFIGS.items():
        paths[task] = folder / f'{task}.py'
        paths[task].write_text(text.format(root=ROOT, data=digits))
    return paths


class WholeRuns(dict):
    """Work directories of runs that nothing cut off, and their seconds.

    A task is trained when it is first asked for.
    """

    def __init__(self, configs, tool_server, folder):
        super().__init__()
        self._configs = configs
        self._tool_server = tool_server
        self._folder = folder

    def __missing__(self, task):
        start = time.monotonic()
        work_dir = self._folder / task
        self._tool_server.run(
            'train.py', self._configs[task], '--work-dir', work_dir
        )
        self[task] = (work_dir, time.monotonic() - start)
        return self[task]


@pytest.fixture(scope='module')
def whole(configs, tool_server, tmp_path_factory):
    return WholeRuns(configs, tool_server, tmp_path_factory.mktemp('whole'))


def load(path):
    return torch.load(path, weights_only=True)


def assert_same(first, second, where=''):
    """Two states are the same, to the bit."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f'{where}.{key}')
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f'{where}.{index}')
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, np.ndarray):
        np.testing.assert_array_equal(first, second, where)
    else:
        assert first == second, where


def assert_ends_alike(task, whole, work_dir):
    """A run that was cut off has the last state of one that was not."""
    first, second = (
        load(folder / LAST[task]) for folder in (whole[task][0], work_dir)
    )
    for key in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(first[key], second[key], key)
    assert ('ema_state_dict' in first) == (task == 'detection')
    assert_same(first.get('ema_state_dict'), second.get('ema_state_dict'))
    assert first['meta']['iter'] == second['meta']['iter']


def assert_whole(work_dir):
    """What is there under the name of a checkpoint is one."""
    for path in work_dir.glob('[!.]*.pth'):
        assert 'state_dict' in load(path), path


def test_writes_are_slow_only_while_such_a_run_trains():
    # The module of the hook is imported.
    before = LocalBackend.put
    assert before.__module__.startswith('mmengine.')
    hook = SlowWrites()
    assert LocalBackend.put is before
    hook.before_train(None)
    assert LocalBackend.put is not before
    hook.after_train(None)
    assert LocalBackend.put is before


def kill_often(task, kills, whole, config, tool_server, work_dir, seed):
    """Kill a run at random moments until it was killed that often.

    Every third time while a checkpoint is written, if it comes to that.
    """
    rng = random.Random(seed)
    seconds = whole[task][1]
    killed = {'anywhere': 0, 'writing': 0}
    starts = 0
    while sum(killed.values()) < kills:
        starts += 1
        assert starts < 4 * kills
        run = tool_server.start(
            'train.py', config, '--work-dir', work_dir, '--resume', 'auto'
        )
        writing = starts % 3 == 0
        if writing:
            run.wait_until(lambda: list(work_dir.glob('.*.pth')))
            time.sleep(rng.uniform(0, 0.2))
        else:
            end = time.monotonic() + rng.uniform(0, 1) * seconds
            run.wait_until(lambda end=end: time.monotonic() > end)
        was_writing = bool(list(work_dir.glob('.*.pth')))
        workers = children(run.pid)
        run.kill()
        if run.wait() == -signal.SIGKILL:
            killed['writing' if was_writing else 'anywhere'] += 1
        else:
            # It had come to its end: from the beginning again.
            assert_ends_alike(task, whole, work_dir)
            for path in work_dir.glob('*.pth'):
                path.unlink()
        assert_gone(workers)
        assert_whole(work_dir)
    tool_server.run(
        'train.py', config, '--work-dir', work_dir, '--resume', 'auto'
    )
    return killed


@pytest.mark.parametrize(
    ('task', 'kills'),
    [
        pytest.param('detection', 2, marks=pytest.mark.slow),
        pytest.param('segmentation', 2, marks=pytest.mark.slow),
        pytest.param('detection', 10, marks=pytest.mark.slow),
        pytest.param('segmentation', 10, marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_moment(
    task, kills, whole, configs, tool_server, tmp_path
):
    killed = kill_often(
        task, kills, whole, configs[task], tool_server, tmp_path / 'run', kills
    )
    print(f'{task}: killed {killed}')
    assert_ends_alike(task, whole, tmp_path / 'run')


def children(pid):
    """Return the processes that a process started, workers among them."""
    task = Path(f'/proc/{pid}/task/{pid}/children')
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in task.read_text().split()]
    return []


def assert_gone(pids, seconds=10):
    """Processes end in a moment, and leave no zombies."""
    end = time.monotonic() + seconds
    while any(Path(f'/proc/{pid}').exists() for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ('task', 'signum', 'moment'),
    [
        pytest.param(
            'detection',
            signal.SIGINT,
            'Epoch(train) [2][2/4]',
            marks=pytest.mark.slow,
        ),
        ('segmentation', signal.SIGTERM, 'Iter(train) [ 5/14]'),
    ],
)
def test_a_signal_ends_training_in_order(
    task, signum, moment, whole, configs, tool_server, tmp_path
):
    arguments = [configs[task], '--work-dir', tmp_path]
    run = tool_server.start('train.py', *arguments)
    run.wait_until(lambda: moment in ' '.join(run.text().split(' ' * 2)))
    workers = children(run.pid)
    assert len(workers) >= 2
    # As a terminal does.
    os.killpg(run.pid, signum)
    assert run.wait() == 128 + signum
    assert 'Traceback' not in run.text()
    assert_gone(workers)
    (last,) = re.findall(
        r'^train.py: interrupted after iteration \d+; its state is in (.*)\. '
        r'Resume it by --resume\Z',
        run.text().strip(),
        re.MULTILINE,
    )
    assert find_checkpoint(tmp_path) == last
    tool_server.run('train.py', *arguments, '--resume')
    assert_ends_alike(task, whole, tmp_path)
    assert not (tmp_path / 'interrupted.pth').exists()


def test_ctrl_c_ends_testing(whole, configs, tool_server, tmp_path):
    config = tmp_path / 'long.py'
    config.write_text(
        f"_base_ = '{configs['segmentation']}'\n"
        'test_dataloader = dict(num_workers=2, dataset=dict(_delete_=True, '
        "type='RepeatDataset', times=1000, "
        'dataset=_base_.test_dataloader.dataset))\n'
    )
    run = tool_server.start(
        'test.py', config, whole['segmentation'][0] / 'iter_14.pth',
        '--work-dir', tmp_path,
    )  # fmt: skip
    run.wait_until(lambda: 'Iter(test)' in run.text())
    workers = children(run.pid)
    assert len(workers) == 2
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait() == 130
    assert 'Traceback' not in run.text()
    assert_gone(workers)


def resident(pid):
    """Return the MiB that a process and its workers occupy."""
    pages = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for one in (pid, *children(pid)):
            pages += int(Path(f'/proc/{one}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


@pytest.mark.slow
def test_memory_is_flat_over_2000_images(
    digits, whole, configs, tool_server, tmp_path
):
    """The eight scenes, each under 250 names."""
    content = json.loads(
        (digits / 'annotations/instances_train.json').read_text()
    )
    images, annotations = [], []
    (tmp_path / 'images').mkdir()
    for index in range(2000):
        image = content['images'][index % len(content['images'])]
        name = f'{index:06d}.png'
        os.link(digits / 'images/train' / image['file_name'],
                tmp_path / 'images' / name)  # fmt: skip
        images.append(dict(image, id=index, file_name=name))
        annotations += [
            dict(annotation, image_id=index, id=0)
            for annotation in content['annotations']
            if annotation['image_id'] == image['id']
        ]
    for index, annotation in enumerate(annotations, 1):
        annotation['id'] = index
    (tmp_path / 'test.json').write_text(
        json.dumps(dict(content, images=images, annotations=annotations))
    )
    run = tool_server.start(
        'test.py', configs['detection'], whole['detection'][0] / 'epoch_3.pth',
        '--work-dir', tmp_path / 'run', '--cfg-options',
        'test_dataloader.num_workers=2',
        # Masks of many objects take most of the time.
        'model.test_cfg.rpn.max_per_img=20',
        'model.test_cfg.rcnn.max_per_img=5',
        f'test_dataloader.dataset.data_root={tmp_path}/',
        'test_dataloader.dataset.ann_file=test.json',
        'test_dataloader.dataset.data_prefix.img=images/',
        f'test_evaluator.ann_file={tmp_path}/test.json',
    )  # fmt: skip
    samples = []
    while run.poll() is None:
        done = re.findall(r'Epoch\(test\) +\[ *(\d+)/500\]', run.text())
        if done and done[-1] != '500':
            samples.append((int(done[-1]), resident(run.pid)))
    assert run.returncode == 0, run.text()[-3000:]
    assert 'coco/bbox_mAP' in run.text()

    def mean(low, high):
        values = [mib for done, mib in samples if low <= done < high]
        return sum(values) / len(values)

    middle, end = mean(250, 300), mean(450, 500)
    peak = max(mib for _, mib in samples)
    print(f'MiB: middle {middle:.0f}, end {end:.0f}, peak {peak:.0f}')
    assert end < 1.02 * middle


def test_a_checkpoint_that_is_cut_off_is_skipped(
    whole, configs, tool_server, tmp_path
):
    work_dir = tmp_path / 'run'
    shutil.copytree(whole['segmentation'][0], work_dir)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_14.pth'))
    os.truncate(work_dir / 'iter_14.pth', 1000)
    run = tool_server.run(
        'train.py', configs['segmentation'], '--work-dir', work_dir,
        '--resume', 'auto',
    )  # fmt: skip
    assert 'iter_14.pth' in run.text()
    assert 'It is skipped' in run.text()
    assert_ends_alike('segmentation', whole, work_dir)


class TestErrors:
    """Each ends with a line, and leaves nothing."""

    def refused(self, run, *parts):
        assert run.returncode == 1, run.text()[-3000:]
        assert 'Traceback' not in run.text()
        *_, message = run.text().rpartition('.py: error: ')
        for part in parts:
            assert str(part) in message

    @pytest.mark.parametrize(
        ('option', 'parts'),
        [
            ('model.backbone.arch=huge', ["arch='huge'"]),
            ('model.backbone.topks=(1,2,99,-2)', ['topks[2]=99']),
            (
                'model.backbone.topk=3',
                ['model.backbone.topk=3', "did you mean 'topks'", 'n_win'],
            ),
            (
                'model.backbone.type=BiFormr',
                ["model.backbone.type='BiFormr'", "did you mean 'BiFormer'"],
            ),
            (
                'train_dataloader.dataset.ann_fil=x',
                ["train_dataloader.dataset.ann_fil='x'", "'ann_file'"],
            ),
            ('train_cfg.max_epoch=3', ['train_cfg.max_epoch=3', 'max_epochs']),
            ('train_dataloader.dataset.indices=0', ['is empty']),
            (
                'optim_wrapper.optimizer.type=AdamZ',
                ["optim_wrapper.optimizer.type='AdamZ'", "'Adam'"],
            ),
        ],
    )
    def test_wrong_settings(
        self, configs, tool_server, tmp_path, option, parts
    ):
        work_dir = tmp_path / 'run'
        run = tool_server.run(
            'train.py', configs['detection'], '--work-dir', work_dir,
            '--cfg-options', option, check=False,
        )  # fmt: skip
        self.refused(run, *parts)
        assert not work_dir.exists()

    def test_a_checkpoint_that_is_cut_off(
        self, whole, configs, tool_server, tmp_path
    ):
        checkpoint = tmp_path / 'iter_14.pth'
        shutil.copy(whole['segmentation'][0] / 'iter_14.pth', checkpoint)
        os.truncate(checkpoint, 1000)
        for arguments in (
            ['test.py', configs['segmentation'], checkpoint],
            ['train.py', configs['segmentation'], '--resume', checkpoint],
        ):
            run = tool_server.run(
                *arguments, '--work-dir', tmp_path / 'run', check=False
            )
            self.refused(run, checkpoint, '1000 bytes')
            assert not (tmp_path / 'run').exists()

    def test_the_folder_of_another_run(self, whole, configs, tool_server):
        work_dir = whole['segmentation'][0]
        before = sorted(work_dir.rglob('*'))
        run = tool_server.run(
            'train.py', configs['segmentation'], '--work-dir', work_dir,
            check=False,
        )  # fmt: skip
        self.refused(run, 'iter_14.pth', '--resume')
        # Nor is it resumed with another model.
        run = tool_server.run(
            'train.py', configs['segmentation'], '--work-dir', work_dir,
            '--resume', '--cfg-options', 'model.neck.out_channels=16',
            'model.decode_head.in_channels=(16,16,16,16)', check=False,
        )  # fmt: skip
        self.refused(run, 'size mismatch for neck')
        assert sorted(work_dir.rglob('*')) == before

    def test_a_loss_that_is_not_finite(self, configs, tool_server, tmp_path):
        run = tool_server.run(
            'train.py', configs['segmentation'], '--work-dir', tmp_path,
            '--cfg-options', 'optim_wrapper.optimizer.lr=1e30',
            check=False,
        )  # fmt: skip
        self.refused(run, 'not finite', 'images/train/', 'loss')
        (log,) = tmp_path.glob('*/*.log')
        assert 'Traceback' in log.read_text()

    @pytest.mark.parametrize('tool', ['train.py', 'test.py'])
    def test_help_is_there_at_once(self, tool):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run(
            [sys.executable, ROOT / 'tools' / tool, '--help'],
            check=True,
            capture_output=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        assert after - before < 1
