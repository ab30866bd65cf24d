# Mask R-CNN 1x on COCO with BiFormer-S: the authors' recipe
# (github.com/rayleizhu/BiFormer, object_detection/configs/coco).
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    # 12 epochs, steps at 8 and 11, linear warm-up over 500 iterations from
    # 0.001; the learning rate is for a batch of 16 (--auto-scale-lr).
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmbiformer'])
data_preparation = 'see "Train on COCO" in README.md'

model = dict(
    backbone=dict(
        _delete_=True,
        type='BiFormer',
        arch='small',
        n_win=16,
        drop_path_rate=0.2,
        norm_eval=True,
        # The authors' ImageNet weights, as they are.
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/biformer_small_best.pth'
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

# The authors trained in mixed precision (--amp).
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True,
        type='AdamW',
        lr=1e-4,
        betas=(0.9, 0.999),
        weight_decay=0.05,
    ),
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0)}),
)
