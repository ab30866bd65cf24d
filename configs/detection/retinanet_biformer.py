# RetinaNet 1x on COCO with BiFormer-S: the authors' recipe
# (github.com/rayleizhu/BiFormer, object_detection/configs/coco).
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/models/biformer_small.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_1x.py',
    'mmdet::_base_/default_runtime.py',
]

custom_imports = dict(imports=['mmbiformer'])
# The authors' FPN does not read the map of the first stage. Here the backbone
# does not return it either, so that no norm is left without a gradient.
model = dict(
    backbone=dict(
        _delete_=True,
        n_win=16,
        drop_path_rate=0.2,
        # The batch norms keep the statistics of ImageNet.
        norm_eval=True,
        out_indices=(1, 2, 3),
        **_base_.biformer_small,
    ),
    neck=dict(in_channels=_base_.biformer_small.arch.dims[1:], start_level=0),
)

optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
