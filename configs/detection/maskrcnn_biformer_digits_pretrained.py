# From the backbone of the classifier biformer_digits instead of from scratch.
_base_ = 'maskrcnn_biformer_digits_half.py'

model = dict(backbone=dict(init_cfg=_base_.from_classifier))
