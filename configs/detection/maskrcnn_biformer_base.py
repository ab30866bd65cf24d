# Mask R-CNN 1x on COCO with BiFormer-B: the authors' recipe.
_base_ = 'maskrcnn_biformer.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='checkpoints/biformer_base_best.pth'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
