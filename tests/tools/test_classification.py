"""The tools on a classifier, as processes on three folders of photographs."""

import json
import os
import pickle
import re

import cv2
import flowers
import numpy as np
import pytest
import torch

import mmbiformer  # noqa: F401 (teaches torch what mmengine saves)

pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.classification


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('flowers')
    flowers.write(folder)
    return folder


@pytest.fixture(scope='module')
def trained(folder, run_tool):
    """A work directory after two epochs."""
    work_dir = folder / 'work'
    run_tool('train.py', folder / 'flowers.py', '--work-dir', work_dir)
    return work_dir


def read_log(work_dir):
    return max(work_dir.glob('*/*.log')).read_text()


def test_training_leaves_checkpoints_and_logs(trained):
    log = read_log(trained)
    assert re.search(r'Epoch\(train\) +\[2\]\[3/3\].*loss: \d', log)
    assert re.search(r'Epoch\(val\) \[2\].*accuracy/top1: \d', log)
    meta = torch.load(trained / 'epoch_2.pth', weights_only=True)['meta']
    assert tuple(meta['dataset_meta']['classes']) == flowers.CLASSES


def test_testing_shows_top_1_and_top_k(trained, folder, tmp_path, run_tool):
    out, pictures = tmp_path / 'predictions.pkl', tmp_path / 'pictures'
    result = run_tool(
        'test.py', folder / 'flowers.py', trained / 'epoch_2.pth',
        '--work-dir', tmp_path, '--out', out, '--show-dir', pictures,
    )  # fmt: skip
    top1, top2 = (
        float(re.search(rf'accuracy/top{k}: ([\d.]+)', result.stdout)[1])
        for k in (1, 2)
    )
    # Three colours, which it learns in six steps.
    assert 60 <= top1 <= top2 <= 100
    (path,) = tmp_path.glob('2*/2*.json')
    metrics = json.loads(path.read_text())
    assert metrics['accuracy/top1'] == pytest.approx(top1, abs=1e-3)
    predictions = pickle.loads(out.read_bytes())
    right = [
        int(one['pred_score'].argmax()) == one['gt_label'].item()
        for one in predictions
    ]
    assert 100 * np.mean(right) == pytest.approx(top1, abs=1e-3)
    # Images of the same name in several folders.
    found = [path.relative_to(pictures) for path in pictures.rglob('*.jpg')]
    assert sorted(map(str, found)) == [
        f'{name}/{index}.jpg' for name in flowers.CLASSES for index in (0, 1)
    ]
    picture = cv2.imread(str(pictures / 'rose/0.jpg'))
    # The text is in a corner, and the colours are those of the image.
    assert picture.shape[:2] == (320, 426)
    corner = picture[-100:, -100:].reshape(-1, 3).mean(axis=0)
    assert corner.argmax() == flowers.CLASSES.index('rose')


def test_mirror_images_are_merged(trained, folder, tmp_path, run_tool):
    out = tmp_path / 'predictions.pkl'
    result = run_tool(
        'test.py', folder / 'flowers.py', trained / 'epoch_2.pth',
        '--work-dir', tmp_path, '--tta', '--out', out,
    )  # fmt: skip
    assert 'accuracy/top1' in result.stdout
    assert "type='AverageClsScoreTTA'" in result.stdout
    for one in pickle.loads(out.read_bytes()):
        assert one['pred_score'].sum().item() == pytest.approx(1, abs=1e-5)


def test_resuming_gives_the_same_weights(trained, folder, tmp_path, run_tool):
    os.link(trained / 'epoch_1.pth', tmp_path / 'epoch_1.pth')
    run_tool(
        'train.py', folder / 'flowers.py', '--work-dir', tmp_path, '--resume'
    )
    assert 'resumed epoch: 1, iter: 3' in read_log(tmp_path)
    whole, resumed = (
        torch.load(path / 'epoch_2.pth', weights_only=True)['state_dict']
        for path in (trained, tmp_path)
    )
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name])


def test_resuming_with_mixed_images_and_repeats(folder, tmp_path, run_tool):
    """The recipe of ImageNet draws partners, forms and a moving average."""
    config = tmp_path / 'mixed.py'
    config.write_text(
        f"""
_base_ = '{folder}/flowers.py'
model = dict(
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
    ),
    backbone=dict(drop_path_rate=0.3),
)
train_dataloader = dict(
    num_workers=1, sampler=dict(_delete_=True, type='RepeatAugSampler')
)
flips = _base_.train_dataloader.dataset.pipeline
flips.insert(1, dict(type='RandomFlip', prob=0.5))
train_dataloader['dataset'] = dict(pipeline=flips)
custom_hooks = [
    dict(type='EMAHook', momentum=0.1, update_buffers=True)
]
"""
    )
    whole, half = tmp_path / 'whole', tmp_path / 'half'
    run_tool('train.py', config, '--work-dir', whole)
    half.mkdir()
    os.link(whole / 'epoch_1.pth', half / 'epoch_1.pth')
    run_tool('train.py', config, '--work-dir', half, '--resume')
    for key in ('state_dict', 'ema_state_dict'):
        one, two = (
            torch.load(path / 'epoch_2.pth', weights_only=True)[key]
            for path in (whole, half)
        )
        assert one.keys() == two.keys()
        for name, value in one.items():
            assert torch.equal(value, two[name]), name


def test_inference(trained, folder, tmp_path, run_tool):
    out = tmp_path / 'out'
    images = sorted(str(path) for path in folder.glob('val/*/*.jpg'))
    run_tool(
        'infer.py', *images, folder / 'flowers.py', trained / 'epoch_2.pth',
        '--out-dir', out, '--batch-size', 4,
    )  # fmt: skip
    index = json.loads((out / 'predictions.json').read_text())
    assert index['task'] == 'classification'
    assert tuple(index['classes']) == flowers.CLASSES
    assert [one['image'] for one in index['images']] == images
    names = set()
    for entry in index['images']:
        record = json.loads((out / entry['prediction']).read_text())
        scores = record['pred_scores']
        label = record['pred_label']
        assert len(scores) == 3
        assert sum(scores) == pytest.approx(1)
        assert scores[label] == max(scores) == record['pred_score']
        assert record['pred_class'] == flowers.CLASSES[label]
        assert [one['score'] for one in record['top5']] == sorted(
            scores, reverse=True
        )
        assert record['top5'][0]['name'] == record['pred_class']
        assert cv2.imread(str(out / entry['picture'])).shape[0] == 320
        names.update((entry['prediction'], entry['picture']))
    assert len(names) == 12


def test_the_check_of_the_data(folder, tmp_path, run_tool):
    whole = run_tool(
        'misc/check_dataset.py', folder / 'flowers.py', '--workers', 1
    )
    assert re.search(r'rose +33\.33% +4', whole.stdout)
    assert 'nothing would stop training or testing' in whole.stdout
    broken = flowers.write(tmp_path)
    (tmp_path / 'val/tulip').rename(tmp_path / 'val/tulips')
    for tool, arguments in (
        ('misc/check_dataset.py', ('--workers', 1)),
        ('train.py', ('--work-dir', tmp_path / 'work')),
    ):
        result = run_tool(tool, broken, *arguments, check=False)
        assert result.returncode == 1
        assert 'Traceback' not in result.stderr
        assert "has 'tulips' (did you mean 'tulip'?)" in (
            result.stdout + result.stderr
        )
    assert not (tmp_path / 'work').exists()


def test_curves_and_routing(trained, folder, tmp_path, run_tool):
    curves = tmp_path / 'curves.svg'
    run_tool('analysis_tools/plot_log.py', trained, '--out', curves)
    assert curves.stat().st_size > 10_000
    picture, page = tmp_path / 'routing.png', tmp_path / 'routing.html'
    run_tool(
        'visualization/routing.py', folder / 'val/rose/0.jpg',
        folder / 'flowers.py', '--checkpoint', trained / 'epoch_2.pth',
        '--stage', 1, '--out', picture, '--html', page,
    )  # fmt: skip
    assert cv2.imread(str(picture)) is not None
    assert page.stat().st_size > 10_000
    # 64 px high and 85 wide, and the centre of 48 px is seen.
    result = run_tool(
        'visualization/routing.py', folder / 'val/rose/0.jpg',
        folder / 'flowers.py', '--point', '2,30', '--out', picture,
        check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert 'cuts off: x must be at least 17.' in result.stderr


def test_publishing_and_printing(trained, folder, tmp_path, run_tool):
    printed = run_tool('misc/print_config.py', folder / 'flowers.py').stdout
    assert "type='ImageClassifier'" in printed
    run_tool(
        'model_converters/publish_model.py', trained / 'epoch_2.pth',
        tmp_path / 'flowers.pth',
    )  # fmt: skip
    (path,) = tmp_path.glob('flowers-*.pth')
    result = run_tool(
        'test.py', folder / 'flowers.py', path, '--work-dir', tmp_path / 'test'
    )
    assert 'accuracy/top1' in result.stdout


@pytest.mark.parametrize(
    ('script', 'options', 'said'),
    [
        (
            'train.py', ['model.head.in_channels=32'],
            'model.head.in_channels=32, but model.neck gives 1 maps of [64]',
        ),
        (
            'train.py', ['train_dataloader.dataset.data_root=nowhere'],
            'train_dataloader.dataset.data_prefix: ',
        ),
        (
            'train.py', ['model.head.num_classes=4'],
            'model.head.num_classes=4, but the folder ',
        ),
    ],
)  # fmt: skip
def test_bad_settings_are_one_line(
    folder, tmp_path, run_tool, script, options, said
):
    result = run_tool(
        script, folder / 'flowers.py', '--work-dir', tmp_path / 'work',
        '--cfg-options', *options, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    assert said in result.stderr
    assert not (tmp_path / 'work').exists()


def test_a_broken_image_is_named(tmp_path, run_tool):
    config = flowers.write(tmp_path)
    path = tmp_path / 'train/rose/1.jpg'
    path.write_bytes(path.read_bytes()[:200])
    result = run_tool(
        'train.py', config, '--work-dir', tmp_path / 'work', check=False
    )
    assert result.returncode == 1
    assert str(path) in result.stderr.strip().splitlines()[-1]
