# RetinaNet 1x on COCO with BiFormer-T.
_base_ = 'retinanet_biformer.py'

model = dict(backbone=_base_.biformer.tiny)
