# UperNet 160k on ADE20K with BiFormer-B: the authors' recipe.
_base_ = ['upernet_biformer.py', '../_base_/models/biformer_base.py']

model = dict(
    backbone=dict(drop_path_rate=0.4, **_base_.biformer_base),
    decode_head=dict(in_channels=_base_.biformer_base.arch.dims),
    auxiliary_head=dict(in_channels=_base_.biformer_base.arch.dims[2]),
)
