# Mask R-CNN 1x on COCO with BiFormer-B: the authors' recipe.
_base_ = 'maskrcnn_biformer.py'

model = dict(
    backbone=_base_.biformer.base, neck=dict(in_channels=_base_.channels.base)
)
