# Mask R-CNN 1x on COCO with BiFormer-T. The authors trained no detector with
# it; the drop path rate is ours, below that of BiFormer-S.
_base_ = ['maskrcnn_biformer.py', '../_base_/models/biformer_tiny.py']

model = dict(backbone=dict(drop_path_rate=0.1, **_base_.biformer_tiny))
