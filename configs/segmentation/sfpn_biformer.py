# Semantic FPN 80k on ADE20K with BiFormer-S: the authors' recipe
# (github.com/rayleizhu/BiFormer, semantic_segmentation/configs/ade20k).
_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    '../_base_/models/biformer_small.py',
    '../_base_/datasets/ade20k.py',
    'mmseg::_base_/schedules/schedule_80k.py',
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
        _delete_=True, n_win=8, drop_path_rate=0.15, **_base_.biformer_small
    ),
    neck=dict(in_channels=_base_.biformer_small.arch.dims),
    decode_head=dict(num_classes=_base_.num_classes),
)

# The sides of test images are rounded up to multiples of 32.
test_pipeline = _base_.test_pipeline
test_pipeline.insert(2, dict(type='ResizeToMultiple', size_divisor=32))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]['transforms'].insert(1, [test_pipeline[2]])

# The authors trained in mixed precision (--amp), 4 images on each of 8 GPUs.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=1e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=1000),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=1e-8,
        T_max=_base_.train_cfg.max_iters,
        end=_base_.train_cfg.max_iters,
        by_epoch=False,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=32)
