# From the backbone of maskrcnn_biformer_digits instead of from scratch.
_base_ = 'upernet_biformer_digits.py'

model = dict(backbone=dict(init_cfg=_base_.from_maskrcnn))
