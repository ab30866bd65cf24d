# BiFormer-S on ImageNet-1k from scratch: the authors' recipe
# (github.com/rayleizhu/BiFormer).
_base_ = [
    '../_base_/models/biformer_classifier.py',
    '../_base_/models/biformer_small.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_300e.py',
]
custom_imports = dict(imports=['mmbiformer'])

model = dict(
    backbone=dict(
        arch=_base_.biformer_small.arch,
        topks=_base_.biformer_small.topks,
        # Of the authors' README.
        drop_path_rate=0.15,
    ),
    head=dict(
        in_channels=_base_.biformer_small.arch.dims[-1],
        loss=dict(
            _delete_=True,
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            mode='original',
        ),
    ),
    # One of the two for each batch, with equal probability.
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
    ),
)
