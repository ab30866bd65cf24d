# Mask R-CNN 1x on COCO with BiFormer-STL. The authors trained no detector with
# it; the drop path rate is that of Swin-T, whose layout it has, in mmdet.
_base_ = ['maskrcnn_biformer.py', '../_base_/models/biformer_stl.py']

model = dict(
    backbone=dict(drop_path_rate=0.2, **_base_.biformer_stl),
    neck=dict(in_channels=_base_.biformer_stl.arch.dims),
)
