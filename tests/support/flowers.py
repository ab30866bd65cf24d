"""Folders of photographs, and a classifier that trains on them in seconds.

As in :mod:`tiny_run`, nothing is random or depends on the rest of a batch.
"""

import cv2
import numpy as np

CLASSES = ('daisy', 'rose', 'tulip')
IMAGES = dict(train=4, val=2)
"""dict[str, int]: Images of each class, by split."""

CONFIG = """
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['mmbiformer'])
randomness = dict(seed=0)

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=3, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True
    ),
    backbone=dict(
        type='BiFormer',
        arch=dict(depths=(1, 1, 1, 1), dims=(32, 32, 32, 64)),
        n_win=4,
        norm_eval=True,
        out_indices=(3,),
        final_norm=True,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=64),
)

def loader(split, **settings):
    return dict(
        num_workers=0,
        persistent_workers=False,
        dataset=dict(
            type='CustomDataset',
            data_root={data!r},
            data_prefix=split,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='ResizeEdge', scale=64),
                dict(type='CenterCrop', crop_size=48),
                dict(type='PackInputs'),
            ],
        ),
        **settings,
    )

train_dataloader = loader(
    'train', batch_size=4, sampler=dict(type='DefaultSampler', shuffle=True)
)
val_dataloader = loader(
    'val', batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False)
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 2))
test_evaluator = val_evaluator
del loader

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
train_cfg = dict(by_epoch=True, max_epochs=2)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
"""


def write_image(path, label):
    """Write a photograph of 60 x 80 px whose colour is that of its class."""
    rng = np.random.default_rng([label, *path.name.encode()])
    image = rng.integers(0, 120, (60, 80, 3)).astype(np.uint8)
    image[..., label] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def write(folder, classes=CLASSES, images=IMAGES):
    """Write the photographs and the config; return the path of the config.

    Args:
        folder (Path): Where to write both.
        classes (Sequence[str]): Names of the classes.
        images (dict[str, int]): Images of each class, by split.
    """
    for split, count in images.items():
        for label, name in enumerate(classes):
            for index in range(count):
                path = folder / split / name / f'{index}.jpg'
                write_image(path, label)
    config = folder / 'flowers.py'
    config.write_text(CONFIG.replace('{data!r}', repr(str(folder))))
    return config


def write_lists(folder):
    """Name the images and their labels in lists; return their paths."""
    paths = []
    for split in IMAGES:
        lines = [
            f'{path.relative_to(folder / split)} {label}'
            for label, name in enumerate(CLASSES)
            for path in sorted((folder / split / name).iterdir())
        ]
        paths.append(folder / f'meta/{split}.txt')
        paths[-1].parent.mkdir(exist_ok=True)
        paths[-1].write_text('\n'.join(lines) + '\n')
    return paths
