# A linear layer on the frozen BiFormer-S of ImageNet: how good are its
# features for other classes? The settings are MoCo v3's for its linear probes
# (arXiv 2104.02057): SGD without weight decay, and crops and flips only.
_base_ = 'biformer_small.py'

model = dict(
    backbone=dict(
        # With the last norm, which keeps the statistics of ImageNet.
        frozen_stages=4,
        init_cfg=_base_.biformer_small.init_cfg,
    ),
    head=dict(loss=dict(_delete_=True, type='CrossEntropyLoss')),
    train_cfg=None,
)

train_pipeline = _base_.train_pipeline
del train_pipeline[3:5]
train_dataloader = dict(
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
    dataset=dict(pipeline=train_pipeline),
)

# 0.1 for every 256 images of a step.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.4, momentum=0.9, weight_decay=0.0),
)
max_epochs = 90
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_epochs)]
custom_hooks = []
