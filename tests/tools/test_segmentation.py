"""tools/train.py and tools/test.py on the label PNGs of a tiny digits set."""

import json
import re
import shutil
from pathlib import Path

import cv2
import pytest
import tiny_run

ROOT = Path(__file__).resolve().parents[2]

# Semantic FPN and its recipe's pipelines, cut down to seconds.
CONFIG = """
_base_ = '{root}/configs/segmentation/sfpn_biformer.py'

crop_size = (96, 96)
classes = ('background', *'0123456789')
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        _delete_=True,
        type='BiFormer',
        arch=dict(depths=(1, 1, 1, 1), dims=(32, 32, 64, 64)),
        n_win=4,
    ),
    neck=dict(in_channels=[32, 32, 64, 64], out_channels=32),
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

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(150, 150), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]['transforms'][0] = [
    dict(type='Resize', scale=(side, side), keep_ratio=True)
    for side in (120, 160)
]
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dataset('train', train_pipeline),
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dataset('val', test_pipeline),
)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=4, val_interval=4)
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=4)
)
del dataset
"""


@pytest.fixture(scope='module')
def config(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp('configs') / 'sfpn_digits.py'
    path.write_text(CONFIG.format(root=ROOT, data=digits))
    return path


@pytest.fixture(scope='module')
def trained(config, tmp_path_factory, run_tool):
    work_dir = tmp_path_factory.mktemp('work_dirs') / 'sfpn_digits'
    run_tool('train.py', config, '--work-dir', work_dir)
    return work_dir


def read_metrics(work_dir):
    (path,) = work_dir.glob('*/*.json')
    return json.loads(path.read_text())


def test_training_evaluates_and_saves(trained):
    assert (trained / 'iter_4.pth').is_file()
    (log,) = trained.glob('*/*.log')
    log = log.read_text()
    assert re.search(r'Iter\(train\) \[4/4\].*decode\.loss_ce: \d', log)
    assert re.search(r'Iter\(val\) \[2/2\].*mIoU: \d', log)


def test_testing_writes_label_maps(trained, config, tmp_path, run_tool):
    run_tool(
        'test.py', config, trained / 'iter_4.pth', '--work-dir', tmp_path,
        '--out', tmp_path / 'labels', '--show-dir', tmp_path / 'pictures',
    )  # fmt: skip
    assert 0 <= read_metrics(tmp_path)['mIoU'] <= 100
    maps = sorted((tmp_path / 'labels').iterdir())
    assert [path.name for path in maps] == ['000000.png', '000001.png']
    label = cv2.imread(str(maps[0]), cv2.IMREAD_UNCHANGED)
    assert label.shape == (160, 160)
    assert label.max() <= 10
    assert len(list((tmp_path / 'pictures').rglob('*.png'))) == 2


def test_tta_is_of_all_scales_and_flips(trained, config, tmp_path, run_tool):
    result = run_tool(
        'test.py', config, trained / 'iter_4.pth', '--work-dir', tmp_path,
        '--tta', '--out', tmp_path / 'labels',
    )  # fmt: skip
    assert 'SegTTAModel' in result.stdout
    assert 0 <= read_metrics(tmp_path)['mIoU'] <= 100
    assert len(list((tmp_path / 'labels').iterdir())) == 2


def test_a_label_outside_the_classes_is_named(
    config, digits, tmp_path, run_tool
):
    labels = tmp_path / 'labels'
    shutil.copytree(digits / 'labels/train', labels)
    wrong = labels / '000003.png'
    label = cv2.imread(str(wrong), cv2.IMREAD_UNCHANGED)
    label[:] = 42
    cv2.imwrite(str(wrong), label)
    result = run_tool(
        'train.py', config, '--work-dir', tmp_path / 'work', '--cfg-options',
        f'train_dataloader.dataset.data_prefix.seg_map_path={labels}',
        check=False,
    )  # fmt: skip
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert f'{wrong} holds the label values [42]' in last
    assert '11 classes are 0 to 10' in last


@pytest.mark.slow
def test_configs_in_pure_python(tmp_path, run_tool):
    """Their types are classes; each tool takes them."""
    tiny_run.write(tmp_path)
    config = tiny_run.write_pure_python(tmp_path)
    work_dir = tmp_path / 'run'
    checkpoint = work_dir / 'iter_6.pth'
    image = tmp_path / 'val/images/0.png'
    run_tool('train.py', config, '--work-dir', work_dir)
    maps = tmp_path / 'maps'
    run_tool(
        'test.py', config, checkpoint, '--out', maps, '--show-dir',
        tmp_path / 'shown', '--work-dir', tmp_path / 'tested',
    )  # fmt: skip
    assert len(list(maps.iterdir())) == tiny_run.IMAGES['val']
    # Of the config that the runner has written, too.
    for path in (config, work_dir / config.name):
        run_tool(
            'infer.py', image, path, checkpoint, '--out-dir',
            tmp_path / 'inferred', '--force',
        )  # fmt: skip
    run_tool('misc/print_config.py', config)
    run_tool('misc/check_dataset.py', config)
    run_tool('analysis_tools/get_flops.py', config)
