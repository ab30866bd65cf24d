# Semantic FPN 80k on ADE20K with BiFormer-B: the authors' recipe.
_base_ = ['sfpn_biformer.py', '../_base_/models/biformer_base.py']

model = dict(
    backbone=dict(drop_path_rate=0.3, **_base_.biformer_base),
    neck=dict(in_channels=_base_.biformer_base.arch.dims),
)
