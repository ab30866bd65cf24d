# RetinaNet 1x on COCO with BiFormer-S: the authors' recipe
# (github.com/rayleizhu/BiFormer, object_detection/configs/coco).
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/models/biformer_coco.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_1x.py',
    'mmdet::_base_/default_runtime.py',
]

# The authors' FPN passes over the map of the first stage. Here the backbone
# does not return it, so that no norm is left without a gradient.
model = dict(
    backbone=dict(
        _delete_=True, out_indices=(1, 2, 3), **_base_.biformer.small
    ),
    neck=dict(in_channels=_base_.channels.small[1:], start_level=0),
)

optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
