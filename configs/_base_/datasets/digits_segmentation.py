_base_ = 'digits.py'

dataset_type = 'BaseSegDataset'
metainfo = dict(classes=('background', *_base_.classes))
num_classes = 11
# Most of a scene is background, which would drown the digits.
class_weight = [0.1] + 10 * [1.0]
crop_size = (160, 160)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    # The few digits that there are, in more poses and colours.
    dict(type='RandomRotate', prob=0.7, degree=12, pad_val=0, seg_pad_val=0),
    # For scenes with larger digits and less background, too.
    dict(
        type='RandomResize',
        scale=crop_size,
        ratio_range=(1.0, 1.6),
        keep_ratio=True,
    ),
    # No flip: a mirrored digit is another one or none.
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=crop_size, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=_base_.data_root,
        metainfo=metainfo,
        img_suffix='.png',
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=_base_.data_root,
        metainfo=metainfo,
        img_suffix='.png',
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
