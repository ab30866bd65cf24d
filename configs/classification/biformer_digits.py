# A small BiFormer classifies handwritten digits, from scratch, in minutes on
# two CPU cores. The settings were chosen for this data set.
_base_ = [
    'mmpretrain::_base_/default_runtime.py',
    '../_base_/models/biformer_classifier.py',
    '../_base_/models/biformer_digits.py',
    '../_base_/datasets/digits_classification.py',
]

model = dict(
    data_preprocessor=dict(num_classes=10),
    backbone=dict(**_base_.biformer),
    head=dict(num_classes=10, in_channels=_base_.channels[-1]),
)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)

max_epochs = 12
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=2
)
val_cfg = dict()
test_cfg = dict()
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        eta_min=1e-6,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)

default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(max_keep_ckpts=2)
)
randomness = dict(seed=0)
