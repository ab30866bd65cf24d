"""A small panoptic data set in COCO's format, and configs that train on it."""

import copy
import functools
import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.hub import get_config

from mmbiformer.models.swap import render_config, swap_backbone

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 64, 96
THINGS, STUFF = ('box', 'disc'), ('sky',)
CONFIGS = [
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic',
    'maskformer/maskformer_r50_ms-16xb1-75e_coco',
    'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco',
]
STAND_INS = Path(__file__).parent / 'stand_ins'


def import_paths():
    """Return where panopticapi is, if it is not installed."""
    missing = importlib.util.find_spec('panopticapi') is None
    return [str(STAND_INS)] if missing else []


def write(folder, images=4):
    """Write images, maps of segments, and the annotations."""
    from_id = np.array([65536, 256, 1])
    content = dict(
        images=[],
        annotations=[],
        categories=[
            dict(id=3, name='box', isthing=1),
            dict(id=7, name='disc', isthing=1),
            dict(id=9, name='sky', isthing=0),
        ],
    )
    for kind in ('images', 'segments'):
        (folder / kind).mkdir(parents=True)
    for index in range(images):
        ids = np.full((HEIGHT, WIDTH), 900, np.int32)
        left = 8 + 4 * index
        cv2.rectangle(ids, (left, 10), (left + 30, 40), 300, -1)
        cv2.circle(ids, (70, 36), 18, 70000 + index, -1)
        image = np.stack([ids % 251, ids % 127, ids % 61], -1).astype(np.uint8)
        cv2.imwrite(str(folder / f'images/{index}.jpg'), image)
        colors = (ids[..., None] // from_id % 256).astype(np.uint8)
        cv2.imwrite(str(folder / f'segments/{index}.png'), colors)
        segments = []
        for number, category in ((300, 3), (70000 + index, 7), (900, 9)):
            y, x = np.nonzero(ids == number)
            corner = int(x.min()), int(y.min())
            segments.append(
                dict(
                    id=number,
                    category_id=category,
                    iscrowd=0,
                    area=len(x),
                    bbox=[
                        *corner,
                        int(x.max()) + 1 - corner[0],
                        int(y.max()) + 1 - corner[1],
                    ],
                )
            )
        content['images'].append(
            dict(
                id=index, file_name=f'{index}.jpg', width=WIDTH, height=HEIGHT
            )
        )
        content['annotations'].append(
            dict(
                image_id=index,
                file_name=f'{index}.png',
                segments_info=segments,
            )
        )
    (folder / 'panoptic.json').write_text(json.dumps(content))


@functools.cache
def _read(name):
    """Read a config of mmdet with a tiny BiFormer."""
    donor = Config.fromfile(ROOT / 'configs/detection/maskrcnn_biformer.py')
    donor.model.backbone.update(
        arch=dict(depths=(1, 1, 1, 1), dims=(32, 32, 32, 64)),
        n_win=4,
        init_cfg=None,
    )
    base = f'mmdet::{name}.py'
    cfg = get_config(base)
    settings = swap_backbone(cfg, donor).settings
    return Config.fromstring(render_config(cfg, base, settings), '.py')


def write_config(name, folder, out):
    """Write a config of mmdet with a tiny BiFormer, on the small data set."""
    cfg = copy.deepcopy(_read(name))
    counts = dict(num_things_classes=len(THINGS), num_stuff_classes=len(STUFF))
    model = cfg.model
    for key in ('panoptic_head', 'semantic_head', 'panoptic_fusion_head'):
        if key in model:
            model[key].update(counts)
    if 'panoptic_head' in model:
        model.panoptic_head.num_queries = 8
        model.test_cfg.max_per_image = 8
        weights = [1.0] * (len(THINGS) + len(STUFF)) + [0.1]
        model.panoptic_head.loss_cls.class_weight = weights
        model.panoptic_head.transformer_decoder.num_layers = 2
        model.panoptic_head.pixel_decoder.encoder.num_layers = 2
        if 'train_cfg' in model and 'num_points' in model.train_cfg:
            model.train_cfg.num_points = 64
    else:
        model.roi_head.bbox_head.num_classes = len(THINGS)
        model.roi_head.mask_head.num_classes = len(THINGS)
    model.data_preprocessor.batch_augments = None
    loads = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadPanopticAnnotations'),
    ]
    pack = dict(
        type='PackDetInputs',
        meta_keys=(
            'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor',
        ),
    )  # fmt: skip
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=1, num_workers=0, persistent_workers=False)
        loader.dataset = dict(
            type='CocoPanopticDataset',
            data_root=str(folder),
            ann_file='panoptic.json',
            data_prefix=dict(img='images/', seg='segments/'),
            metainfo=dict(
                classes=THINGS + STUFF,
                thing_classes=THINGS,
                stuff_classes=STUFF,
            ),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            test_mode=split != 'train',
            pipeline=[*loads, pack],
        )
    evaluator = dict(
        type='CocoPanopticMetric',
        ann_file=str(folder / 'panoptic.json'),
        seg_prefix=str(folder / 'segments'),
    )
    cfg.val_evaluator = cfg.test_evaluator = evaluator
    cfg.train_cfg = dict(
        type='EpochBasedTrainLoop', max_epochs=1, val_interval=1
    )
    cfg.optim_wrapper.optimizer.lr = 1e-4
    cfg.param_scheduler = None
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    cfg.default_hooks.logger.interval = 1
    cfg.randomness = dict(seed=0)
    cfg.dump(out)
    return cfg
