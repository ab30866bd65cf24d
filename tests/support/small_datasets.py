"""Small data sets that a test can damage, and what reads them."""

import copy
import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as mask_utils

from mmbiformer.datacheck.checks import check_classes, check_data, check_labels
from mmbiformer.datacheck.report import KINDS, STOPS, WRONG
from mmbiformer.datacheck.splits import check_split
from mmbiformer.reliable.runner import CheckedRunner
from mmbiformer.utils.errors import PipelineError, UserError

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 60, 40
NAMES = [f'{index}.jpg' for index in range(4)]
TEXTURE = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (5, 5, 3)).astype(np.uint8),
    (WIDTH, HEIGHT),
)


@functools.cache
def _read(name):
    return Config.fromfile(ROOT / 'configs' / name)


def read(name):
    return copy.deepcopy(_read(name))


def write_image(path, size=(WIDTH, HEIGHT), mode='RGB', **options):
    image = Image.fromarray(TEXTURE).resize(size).convert(mode)
    image.save(path, **options)


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def turn(path):
    exif = Image.Exif()
    exif[274] = 6
    write_image(path, exif=exif)


class Coco:
    """Four images with two objects each."""

    def __init__(self, folder):
        self.folder = folder
        (folder / 'images').mkdir()
        for name in NAMES:
            write_image(folder / 'images' / name)
        self.content = dict(
            images=[
                dict(id=index, file_name=name, width=WIDTH, height=HEIGHT)
                for index, name in enumerate(NAMES)
            ],
            categories=[dict(id=5, name='cat'), dict(id=2, name='dog')],
            annotations=[
                dict(
                    id=index,
                    image_id=index // 2,
                    category_id=(5, 2)[index % 2],
                    bbox=[10, 10, 20, 20],
                    area=400,
                    iscrowd=0,
                    segmentation=[[10, 10, 30, 10, 30, 30, 10, 30]],
                )
                for index in range(8)
            ],
        )
        self.cfg = read('detection/maskrcnn_biformer_digits.py')
        for head in ('bbox_head', 'mask_head'):
            self.cfg.model.roi_head[head].num_classes = 2
        self.cfg.train_dataloader.update(
            num_workers=0, persistent_workers=False, batch_size=1
        )
        self.dataset = self.cfg.train_dataloader.dataset
        self.dataset.update(
            data_root=str(folder),
            ann_file='a.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=('cat', 'dog')),
        )

    @property
    def object(self):
        """The first object of the second image."""
        return self.content['annotations'][2]

    def save(self):
        (self.folder / 'a.json').write_text(json.dumps(self.content))


class Pairs:
    """Four images and their label maps of three classes."""

    def __init__(self, folder):
        self.folder = folder
        for kind in ('images', 'labels'):
            (folder / kind).mkdir()
        self.labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        self.labels[:20], self.labels[:, :30] = 1, 2
        for name in NAMES:
            write_image(folder / 'images' / name)
            self.write_labels(name, self.labels)
        self.cfg = read('segmentation/sfpn_biformer_tiny.py')
        self.cfg.model.decode_head.num_classes = 3
        loader = self.cfg.train_dataloader
        self.dataset = dict(
            type='BaseSegDataset',
            data_root=str(folder),
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            metainfo=dict(classes=('a', 'b', 'c')),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='PackSegInputs'),
            ],
        )
        del loader['dataset']
        loader.update(
            num_workers=0,
            persistent_workers=False,
            batch_size=1,
            dataset=self.dataset,
            sampler=dict(type='DefaultSampler', shuffle=False),
        )
        self.dataset = loader.dataset

    def write_labels(self, name, labels):
        path = self.folder / 'labels' / f'{name[0]}.png'
        assert cv2.imwrite(str(path), labels)

    def save(self):
        pass


def counts_of(mask):
    rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    return dict(size=rle['size'], counts=rle['counts'].decode())


def train(data):
    """Read the data as tools/train.py does; return the images read."""
    init_default_scope(data.cfg.default_scope)
    check_data(data.cfg, ['train_dataloader'])
    check_classes(data.cfg, ['train_dataloader'])
    loader = CheckedRunner.build_dataloader(data.cfg.train_dataloader, seed=0)
    read = []
    for batch in loader:
        sample = batch['data_samples'][0]
        if 'gt_sem_seg' in sample:
            check_labels(sample.gt_sem_seg.data, 3, [], sample.seg_map_path)
        read.append(Path(sample.img_path).name)
    return sorted(read)


def sample_of(data):
    """The second image, as training gets it."""
    data.save()
    init_default_scope(data.cfg.default_scope)
    data.dataset.test_mode = True
    loader = CheckedRunner.build_dataloader(data.cfg.train_dataloader, seed=0)
    return loader.dataset[1]


def assert_is_found(data, kind, where='', read=None):
    """The check finds it, and training does what the check says."""
    data.save()
    report = check_split(data.cfg, 'train', workers=1)
    assert kind in report.problems
    # What follows from a class without a category.
    assert set(report.problems) - {kind} <= {
        'category that is not a class',
        'class without objects',
    }
    assert where in report.problems[kind][0]
    effect = KINDS[kind].effect
    assert (effect in (STOPS, WRONG)) == bool(report.fatal)
    assert f'{effect}: ' in report.text()
    assert f'{kind}: {len(report.problems[kind])} (' in report.text()
    if effect == STOPS:
        with pytest.raises((PipelineError, UserError)) as error:
            train(data)
        assert where in str(error.value)
        return str(error.value)
    assert train(data) == (read or NAMES)
    return None
