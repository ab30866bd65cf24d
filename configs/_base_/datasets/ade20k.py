_base_ = 'mmseg::_base_/datasets/ade20k.py'
data_preparation = 'see docs/data_preparation.md'

num_classes = 150

# Whether label 0 is a class is said once, by the data set: ADE20KDataset says
# that it is none. Another that takes its place may say otherwise.
train_pipeline = _base_.train_pipeline
train_pipeline[1].pop('reduce_zero_label')
test_pipeline = _base_.test_pipeline
test_pipeline[2].pop('reduce_zero_label')
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# Six scales, each with its mirror image. The scales are those of the scale
# for one-scale tests, as in the authors' (mmseg 0.x); mmseg's own pipeline
# takes them of the picture's.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(
                    type='Resize',
                    scale=(int(2048 * ratio), int(512 * ratio)),
                    keep_ratio=True,
                )
                for ratio in _base_.img_ratios
            ],
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
