# Semantic FPN 80k on ADE20K with BiFormer-B: the authors' recipe.
_base_ = 'sfpn_biformer.py'

model = dict(
    backbone=dict(drop_path_rate=0.3, **_base_.biformer.base),
    neck=dict(in_channels=_base_.channels.base),
)
