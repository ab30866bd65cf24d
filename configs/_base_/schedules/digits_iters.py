# Minutes on two CPU cores. The settings were chosen for this data set.
_base_ = [
    'mmseg::_base_/schedules/schedule_20k.py',
    'mmseg::_base_/default_runtime.py',
]

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=1.0),
)

max_iters = 2800
interval = max_iters // 4
train_cfg = dict(max_iters=max_iters, val_interval=interval)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(
        type='PolyLR', eta_min=1e-6, power=0.9, end=max_iters, by_epoch=False
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=2)

default_hooks = dict(checkpoint=dict(interval=interval, max_keep_ckpts=2))
randomness = dict(seed=0)
