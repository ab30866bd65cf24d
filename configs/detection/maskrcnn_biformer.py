# Mask R-CNN 1x on COCO with BiFormer-S: the authors' recipe
# (github.com/rayleizhu/BiFormer, object_detection/configs/coco).
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/models/biformer_small.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_1x.py',
    'mmdet::_base_/default_runtime.py',
]

custom_imports = dict(imports=['mmbiformer'])
model = dict(
    backbone=dict(
        _delete_=True,
        n_win=16,
        drop_path_rate=0.2,
        # The batch norms keep the statistics of ImageNet.
        norm_eval=True,
        **_base_.biformer_small,
    ),
    neck=dict(in_channels=_base_.biformer_small.arch.dims),
)

optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0)}),
)
