"""A segmentor and a data set that train in seconds, for tests of the tools.

Nothing in them is random or depends on the rest of the batch: no augmentation,
dropout or drop path, and no statistics of batches.
"""

import cv2
import numpy as np

IMAGES = dict(train=10, val=5)

CONFIG = """
_base_ = ['mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['mmbiformer'])
randomness = dict(seed=0)

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5] * 3,
        std=[127.5] * 3,
        size=(64, 64),
        seg_pad_val=255,
    ),
    backbone=dict(
        type='BiFormer',
        arch=dict(depths=(1, 1, 1, 1), dims=(32, 32, 32, 64)),
        n_win=4,
        norm_eval=True,
    ),
    neck=dict(
        type='FPN', in_channels=[32, 32, 32, 64], out_channels=16, num_outs=4
    ),
    decode_head=dict(
        type='FPNHead',
        in_channels=[16] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=16,
        dropout_ratio=0.0,
        num_classes=3,
        norm_cfg=dict(type='GN', num_groups=4),
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)

def loader(split, **settings):
    return dict(
        num_workers=0,
        persistent_workers=False,
        dataset=dict(
            type='BaseSegDataset',
            data_root='{data}',
            metainfo=dict(classes=('background', 'box', 'disc')),
            data_prefix=dict(
                img_path=split + '/images', seg_map_path=split + '/labels'
            ),
            img_suffix='.png',
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='PackSegInputs'),
            ],
        ),
        **settings,
    )

train_dataloader = loader(
    'train', batch_size=4, sampler=dict(type='InfiniteSampler', shuffle=True)
)
val_dataloader = loader(
    'val', batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric')
test_evaluator = val_evaluator
del loader

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.03, momentum=0.9))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=6, val_interval=6)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=6),
)
"""


# Where the types of the config are, for a config in pure Python.
MODULES = {
    'mmbiformer.models.biformer': ['BiFormer'],
    'mmcv.transforms': ['LoadImageFromFile'],
    'mmengine.dataset': ['DefaultSampler', 'InfiniteSampler'],
    'mmengine.hooks': ['CheckpointHook', 'LoggerHook'],
    'mmengine.runner': ['IterBasedTrainLoop', 'TestLoop', 'ValLoop'],
    'mmseg.datasets': ['BaseSegDataset', 'LoadAnnotations', 'PackSegInputs'],
    'mmseg.engine.hooks': ['SegVisualizationHook'],
    'mmseg.evaluation': ['IoUMetric'],
    'mmseg.models': [
        'CrossEntropyLoss', 'EncoderDecoder', 'FPN', 'FPNHead',
        'SegDataPreProcessor', 'SegTTAModel',
    ],
    'mmseg.visualization': ['SegLocalVisualizer'],
    'torch.optim': ['SGD'],
}  # fmt: skip

OF_THE_RUNTIME = """
default_scope = None
visualizer = dict(type='SegLocalVisualizer', name='visualizer')
default_hooks.update(visualization=dict(type='SegVisualizationHook'))
tta_model = dict(type='SegTTAModel')
"""


def write_pure_python(folder):
    """Write the same config in pure Python, whose types are classes.

    Args:
        folder (Path): Where :func:`write` has written.

    Returns:
        Path: The config.
    """
    _, _, *lines = (folder / 'tiny.py').read_text().splitlines()[1:]
    text = '\n'.join(lines) + OF_THE_RUNTIME
    imports = ''
    for module, names in MODULES.items():
        imports += f'from {module} import {", ".join(names)}\n'
        for name in names:
            text = text.replace(f"type='{name}'", f'type={name}')
    config = folder / 'pure_python.py'
    config.write_text(imports + text)
    return config


def write(folder, images=IMAGES):
    """Write the data set and the config; return the path of the config.

    Args:
        folder (Path): Where to write both.
        images (dict[str, int]): Number of images of each split.
    """
    rng = np.random.default_rng(0)
    for split, count in images.items():
        for kind in ('images', 'labels'):
            (folder / split / kind).mkdir(parents=True)
        for index in range(count):
            image = rng.integers(0, 60, (64, 64, 3), np.uint8)
            label = np.zeros((64, 64), np.uint8)
            for kind in (1, 2):
                x, y = map(int, rng.integers(20, 44, 2))
                if kind == 1:
                    box = (x - 18, y - 18), (x + 18, y + 18)
                    cv2.rectangle(image, *box, (0, 0, 255), -1)
                    cv2.rectangle(label, *box, 1, -1)
                else:
                    cv2.circle(image, (x, y), 20, (0, 255, 0), -1)
                    cv2.circle(label, (x, y), 20, 2, -1)
            name = f'{index}.png'
            cv2.imwrite(str(folder / split / 'images' / name), image)
            cv2.imwrite(str(folder / split / 'labels' / name), label)
    config = folder / 'tiny.py'
    config.write_text(CONFIG.format(data=folder))
    return config
