"""The configs of docs/custom_data.md, on folders laid out as it says."""

import json
import re
import shutil
from pathlib import Path

import cv2
import flowers
import numpy as np
import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from mmbiformer.datacheck.checks import check_classes, check_data
from mmbiformer.reliable.batches import seed_generators
from mmbiformer.reliable.runner import CheckedRunner
from mmbiformer.utils.config import read_config

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs/custom_data.md').read_text()
# Neither size nor depth of the recipes, for which seconds would not do.
REDUCED = {
    'model.backbone.init_cfg': None,
    'model.backbone.arch': dict(
        _delete_=True, depths=(1, 1, 1, 1), dims=(64, 128, 256, 512)
    ),
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'test_dataloader.num_workers': 0,
    'test_dataloader.persistent_workers': False,
}
PIPELINES = {
    'train_dataloader.dataset.pipeline.2.scale': (96, 96),
    'val_dataloader.dataset.pipeline.1.scale': (96, 96),
    'test_dataloader.dataset.pipeline.1.scale': (96, 96),
    'train_cfg.max_epochs': 1,
}
SCALES = {
    'voc': PIPELINES,
    'maskrcnn': PIPELINES,
    'sfpn': {
        'model.data_preprocessor.size': (64, 64),
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.pipeline.2.scale': (96, 96),
        'train_dataloader.dataset.pipeline.3.crop_size': (64, 64),
        'val_dataloader.dataset.pipeline.1.scale': (96, 96),
        'test_dataloader.dataset.pipeline.1.scale': (96, 96),
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.interval': 2,
    },
}
SCALES['ignore'] = SCALES['sfpn']


def write_voc(root, split, content):
    """Write the same objects as PASCAL VOC's XML."""
    names = {one['id']: one['name'] for one in content['categories']}
    for folder in ('JPEGImages', 'Annotations'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    listed = []
    for image in content['images']:
        name = f'{split}_{image["id"]}'
        listed.append(name)
        # A slip of the mouse, as in public data sets; training skips it.
        objects = (
            '<object><name>oak</name><bndbox><xmin>9</xmin><ymin>9</ymin>'
            '<xmax>9</xmax><ymax>30</ymax></bndbox></object>'
        ) * (split == 'train' and image['id'] < 3)
        for item in content['annotations']:
            if item['image_id'] == image['id']:
                x, y, width, height = item['bbox']
                objects += (
                    f'<object><name>{names[item["category_id"]]}</name>'
                    f'<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>'
                    f'<xmax>{x + width + 1}</xmax>'
                    f'<ymax>{y + height + 1}</ymax></bndbox></object>'
                )
        (root / f'Annotations/{name}.xml').write_text(
            '<annotation><size><width>100</width><height>80</height></size>'
            f'{objects}</annotation>'
        )
        path = root.parent / 'leaves' / split / image['file_name']
        shutil.copy(path, root / f'JPEGImages/{name}.jpg')
    (root / f'{split}.txt').write_text('\n'.join(listed))


@pytest.fixture
def leaves(tmp_path):
    """Dark images with a bright square each; the last one has none."""
    root = tmp_path / 'data/leaves'
    for split, count in (('train', 4), ('val', 2)):
        content = dict(images=[], annotations=[], categories=[])
        # The order counts, not the numbers.
        for number, name in ((7, 'oak'), (3, 'maple'), (5, 'birch')):
            content['categories'].append(dict(id=number, name=name))
        for folder in (split, f'images/{split}', f'labels/{split}'):
            (root / folder).mkdir(parents=True)
        (root / 'annotations').mkdir(exist_ok=True)
        for index in range(count):
            name = f'{index:04d}'
            image = np.full((80, 100, 3), 20, np.uint8)
            labels = np.zeros((80, 100), np.uint8)
            labels[:5] = 255
            info = dict(
                id=index, file_name=f'{name}.jpg', width=100, height=80
            )
            content['images'].append(info)
            if index < count - 1:
                x, y, side = 10 + 8 * index, 20, 40
                image[y : y + side, x : x + side] = 200
                labels[y : y + side, x : x + side] = 1 + index % 2
                corners = (x, y), (x + side, y), (x + side, y + side)
                corners += ((x, y + side),)
                content['annotations'].append(
                    dict(
                        id=index,
                        image_id=index,
                        category_id=(3, 5, 7)[index],
                        bbox=[x, y, side, side],
                        area=side * side,
                        iscrowd=0,
                        segmentation=[list(np.ravel(corners).tolist())],
                    )
                )
            for path in (f'{split}/{name}.jpg', f'images/{split}/{name}.jpg'):
                cv2.imwrite(str(root / path), image)
            cv2.imwrite(str(root / f'labels/{split}/{name}.png'), labels)
        path = root / f'annotations/{split}.json'
        path.write_text(json.dumps(content))
        write_voc(root.parent / 'leaves_voc', split, content)
    return root


def config_of(name, folder):
    """Write a config of the page into a folder; return it."""
    name = name if name == 'flowers' else f'leaves_{name}'
    (code,) = (
        block
        for block in re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
        if block.startswith(f'# {name}.py')
    )
    path = folder / f'{name}.py'
    path.write_text(code.replace("'configs/", f"'{ROOT}/configs/"))
    return path


def lines_of(path):
    """Return the lines that say something."""
    lines = path.read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


@pytest.fixture
def first_batch(leaves, tmp_path, monkeypatch):
    """Train a step with a config of the page; return config and batch."""

    def run(name):
        monkeypatch.chdir(tmp_path)
        path = config_of(name, tmp_path)
        assert len(lines_of(path)) <= 15
        cfg = read_config(str(path), {**REDUCED, **SCALES[name]})
        loaders = ['train_dataloader', 'val_dataloader', 'test_dataloader']
        check_data(cfg, loaders)
        check_classes(cfg, loaders)
        init_default_scope(cfg.default_scope)
        loader = CheckedRunner.build_dataloader(cfg.train_dataloader, seed=0)
        seed_generators(0)
        batch = next(iter(loader))
        torch.manual_seed(0)
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        data = model.data_preprocessor(batch, True)
        loss, _ = model.parse_losses(
            model.loss(data['inputs'], data['data_samples'])
        )
        assert loss.isfinite()
        data['data_samples'][0].set_metainfo(dict(loss=loss.item()))
        return loader.dataset, data['data_samples']

    return run


def test_a_detector_takes_categories_in_their_order(first_batch):
    dataset, samples = first_batch('maskrcnn')
    # Without the image that has no object.
    assert len(dataset) == 3
    labels = {
        Path(sample.img_path).stem: sample.gt_instances.labels.tolist()
        for sample in samples
    }
    # The categories 3, 5 and 7 are the second, the third and the first.
    expected = {'0000': [1], '0001': [2], '0002': [0]}
    assert labels.items() <= expected.items()
    assert len(samples[0].gt_instances.masks) == 1


def test_a_segmentor_takes_labels_as_they_are(first_batch):
    dataset, samples = first_batch('sfpn')
    assert len(dataset) == 4
    values = {
        value
        for sample in samples
        for value in sample.gt_sem_seg.data.unique().tolist()
    }
    assert {0, 1} <= values <= {0, 1, 2, 255}


def test_voc_xml_without_conversion(first_batch):
    dataset, samples = first_batch('voc')
    assert len(dataset) == 3
    for sample in samples:
        index = int(Path(sample.img_path).stem.split('_')[1])
        # The classes are in the order of the config.
        assert sample.gt_instances.labels.tolist() == [(1, 2, 0)[index]]
    # A square of 40 px, resized from 100 x 80 to 96 x 77 px.
    boxes = torch.cat([one.gt_instances.bboxes for one in samples])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.sub(40 * 0.96).abs().max() < 0.5


def test_another_value_to_ignore(first_batch, leaves, tmp_path):
    """It is the same as 255 everywhere."""
    config_of('sfpn', tmp_path)
    dataset, samples = first_batch('sfpn')
    with_255 = samples[0].loss
    for path in leaves.glob('labels/*/*.png'):
        labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        labels[labels == 255] = 250
        cv2.imwrite(str(path), labels)
    dataset, samples = first_batch('ignore')
    assert dataset.ignore_index == 250
    values = torch.cat([one.gt_sem_seg.data.flatten() for one in samples])
    assert set(values.tolist()) <= {0, 1, 2, 250}
    assert samples[0].loss == with_255


@pytest.mark.parametrize('name', ['sfpn_biformer', 'upernet_biformer'])
def test_ade20k_has_no_class_zero(name, tmp_path):
    """ADE20K's recipes leave it to the data set to say so."""
    cfg = read_config(f'{ROOT}/configs/segmentation/{name}.py')
    for split in ('training', 'validation'):
        for folder, suffix in (('images', 'jpg'), ('annotations', 'png')):
            (tmp_path / folder / split).mkdir(parents=True)
            values = np.tile([0, 1, 150], (8, 3)).astype(np.uint8)
            path = tmp_path / folder / split / f'a.{suffix}'
            cv2.imwrite(str(path), values)
    init_default_scope('mmseg')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        settings = loader.dataset
        settings.data_root = str(tmp_path)
        settings.pipeline = [
            step
            for step in settings.pipeline
            if step.type in ('LoadImageFromFile', 'LoadAnnotations')
        ]
        settings.pipeline.append(dict(type='PackSegInputs'))
        loader.update(num_workers=0, persistent_workers=False)
        built = CheckedRunner.build_dataloader(loader, seed=0)
        labels = built.dataset[0]['data_samples'].gt_sem_seg.data
        assert labels.unique().tolist() == [0, 149, 255]


def cfg_options(name):
    """Return the reduced settings as a command line has them."""
    options = []
    for key, value in {**REDUCED, **SCALES[name]}.items():
        parts = value if isinstance(value, dict) else {None: value}
        for part, inner in parts.items():
            text = str(inner).replace(' ', '')
            options.append(f'{key}.{part}={text}' if part else f'{key}={text}')
    return ['--cfg-options', *options]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'checkpoint', 'metric'),
    [
        ('maskrcnn', 'epoch_1.pth', 'coco/segm_mAP'),
        ('voc', 'epoch_1.pth', 'pascal_voc/mAP'),
        ('sfpn', 'iter_2.pth', 'mIoU'),
    ],
)
def test_from_a_folder_to_predictions(
    leaves, tmp_path, run_tool, name, checkpoint, metric
):
    config = config_of(name, tmp_path)
    options = cfg_options(name)
    work_dir = tmp_path / 'work_dirs' / config.stem
    result = run_tool('train.py', config, *options, cwd=tmp_path)
    assert metric in result.stdout
    checkpoint = work_dir / checkpoint
    result = run_tool('test.py', config, checkpoint, *options, cwd=tmp_path)
    assert metric in result.stdout
    images = leaves / ('images/val' if name == 'sfpn' else 'val')
    run_tool('infer.py', images, config, checkpoint, *options, cwd=tmp_path)
    index = json.loads((tmp_path / 'outputs/predictions.json').read_text())
    names = dict(
        maskrcnn=['oak', 'maple', 'birch'],
        voc=['oak', 'maple', 'birch'],
        sfpn=['background', 'leaf', 'stem'],
    )
    assert index['classes'] == names[name]
    assert len(index['images']) == 2


@pytest.mark.slow
@pytest.mark.classification
def test_from_photographs_to_their_classes(tmp_path, run_tool):
    pytest.importorskip('mmpretrain')
    images = dict(train=10, val=2)
    flowers.write(tmp_path / 'data/flowers', images=images)
    config = config_of('flowers', tmp_path)
    assert len(lines_of(config)) <= 12
    checked = run_tool('misc/check_dataset.py', config, cwd=tmp_path)
    assert re.search(r'tulip +33\.33% +10', checked.stdout)
    dataset = 'dataset.pipeline'
    options = [
        '--cfg-options', 'model.backbone.init_cfg=None',
        'model.backbone.arch.depths=(1,1,1,1)',
        f'train_dataloader.{dataset}.1.scale=64',
        f'val_dataloader.{dataset}.1.scale=72',
        f'val_dataloader.{dataset}.2.crop_size=64',
        f'test_dataloader.{dataset}.1.scale=72',
        f'test_dataloader.{dataset}.2.crop_size=64',
        'model.backbone.n_win=4', 'train_cfg.max_epochs=1',
    ]  # fmt: skip
    result = run_tool('train.py', config, *options, cwd=tmp_path)
    assert 'accuracy/top1' in result.stdout
    checkpoint = tmp_path / 'work_dirs/flowers/epoch_1.pth'
    result = run_tool('test.py', config, checkpoint, *options, cwd=tmp_path)
    assert 'accuracy/top1' in result.stdout
    images = tmp_path / 'data/flowers/val/rose'
    run_tool('infer.py', images, config, checkpoint, *options, cwd=tmp_path)
    index = json.loads((tmp_path / 'outputs/predictions.json').read_text())
    assert tuple(index['classes']) == flowers.CLASSES
    assert len(index['images']) == 2
