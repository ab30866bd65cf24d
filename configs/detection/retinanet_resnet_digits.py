# RetinaNet with a small ResNet on handwritten digits, from scratch: what
# retinanet_resnet_bra_digits is compared with.
_base_ = 'retinanet_biformer_digits.py'

model = dict(
    backbone=dict(
        _delete_=True,
        # mmdet's ResNet with free widths and depths: here 1, 1, 1 and 2
        # bottlenecks of 32, 64, 128 and 256 channels, without groups.
        type='RegNet',
        arch=dict(w0=32, wa=50.0, wm=2.0, depth=5, group_w=256, bot_mul=1.0),
        out_indices=(1, 2, 3),
        norm_eval=False,
    ),
    neck=dict(in_channels=[64, 128, 256]),
)

# Half the time that the other recipes take.
max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(T_max=max_epochs, end=max_epochs)
