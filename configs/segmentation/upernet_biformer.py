# UperNet 160k on ADE20K with BiFormer-S: the authors' recipe
# (github.com/rayleizhu/BiFormer, semantic_segmentation/configs/ade20k).
_base_ = [
    'mmseg::_base_/models/upernet_r50.py',
    '../_base_/models/biformer_small.py',
    '../_base_/datasets/ade20k.py',
    'mmseg::_base_/schedules/schedule_160k.py',
    'mmseg::_base_/default_runtime.py',
]

custom_imports = dict(imports=['mmbiformer'])
# Batch norms are synchronized between GPUs; without several GPUs they are
# plain ones.
sync_bn = 'torch'
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    pretrained=None,
    backbone=dict(
        _delete_=True, n_win=8, drop_path_rate=0.3, **_base_.biformer_small
    ),
    decode_head=dict(
        in_channels=_base_.biformer_small.arch.dims,
        num_classes=_base_.num_classes,
    ),
    # The auxiliary head reads the third map.
    auxiliary_head=dict(
        in_channels=_base_.biformer_small.arch.dims[2],
        num_classes=_base_.num_classes,
    ),
)

# The authors trained in mixed precision (--amp), 2 images on each of 8 GPUs.
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=6e-5, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0)}),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, end=1500),
    dict(
        type='PolyLR',
        eta_min=0.0,
        power=1.0,
        end=_base_.train_cfg.max_iters,
        by_epoch=False,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
