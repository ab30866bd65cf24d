# Mask R-CNN 1x on COCO with BiFormer-T.
_base_ = 'maskrcnn_biformer.py'

model = dict(backbone=_base_.biformer.tiny)
