# Mask R-CNN 1x on COCO with BiFormer-T. The authors trained no detector with
# it; the drop path rate is ours, below that of BiFormer-S.
_base_ = 'maskrcnn_biformer.py'

model = dict(
    backbone=dict(
        arch='tiny',
        drop_path_rate=0.1,
        init_cfg=dict(checkpoint='checkpoints/biformer_tiny_best.pth'),
    )
)
