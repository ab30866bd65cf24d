# BiFormer-S with the authors' ImageNet weights, fine-tuned on folders of one's
# own photographs: data/photos/{train,val}/<class>/*.jpg. The settings are a
# starting point for some hundred photographs, and were not tuned.
_base_ = 'biformer_small.py'
data_preparation = 'see docs/custom_data.md'

model = dict(
    # As many classes as there are folders.
    data_preprocessor=dict(num_classes=None),
    backbone=dict(init_cfg=_base_.biformer_small.init_cfg),
    # Mixed images are for long trainings.
    train_cfg=None,
)

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    drop_last=False,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='data/photos',
        data_prefix='train',
        pipeline=_base_.train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=2,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='data/photos',
        data_prefix='val',
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-4))
max_epochs = 30
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-3, end=1, convert_to_iter_based=True
    ),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=1e-6),
]
auto_scale_lr = dict(base_batch_size=16)
# A moving average over millions of images would not have begun.
custom_hooks = []
