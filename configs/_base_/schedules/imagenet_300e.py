# 300 epochs with AdamW, as the authors' and DeiT's (arXiv 2012.12877).
_base_ = 'mmpretrain::_base_/default_runtime.py'

# The authors trained in mixed precision (--amp). 5e-4 for every 512 images of
# a step; norms, biases and other parameters of one dimension do not decay.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0
    ),
)

max_epochs = 300
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# Five epochs from 1e-6 on, then to 1e-5; a step for each epoch, as timm's.
# mmengine's warm-up ends with the last step before `end`.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end=6),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=1e-5),
]
auto_scale_lr = dict(enable=False, base_batch_size=1024)

# The average, of batch statistics too, has the decay 0.99996. It is what is
# tested and saved as the weights.
custom_hooks = [
    dict(
        type='EMAHook',
        momentum=4e-5,
        update_buffers=True,
        priority='ABOVE_NORMAL',
    )
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
