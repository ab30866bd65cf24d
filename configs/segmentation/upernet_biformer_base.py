# UperNet 160k on ADE20K with BiFormer-B: the authors' recipe.
_base_ = 'upernet_biformer.py'

model = dict(
    backbone=dict(drop_path_rate=0.4, **_base_.biformer.base),
    decode_head=dict(in_channels=_base_.channels.base),
    auxiliary_head=dict(in_channels=_base_.channels.base[2]),
)
