# UperNet 160k on ADE20K with BiFormer-STL. The authors trained no segmentor
# with it; the drop path rate is that of Swin-T, whose layout it has, in mmseg.
_base_ = ['upernet_biformer.py', '../_base_/models/biformer_stl.py']

model = dict(
    backbone=dict(drop_path_rate=0.3, **_base_.biformer_stl),
    decode_head=dict(in_channels=_base_.biformer_stl.arch.dims),
    auxiliary_head=dict(in_channels=_base_.biformer_stl.arch.dims[2]),
)
