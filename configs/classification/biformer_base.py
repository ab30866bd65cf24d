# BiFormer-B on ImageNet-1k from scratch: the authors' recipe. The drop path
# rate is the paper's (arXiv 2303.08810).
_base_ = ['biformer_small.py', '../_base_/models/biformer_base.py']

model = dict(
    backbone=dict(arch=_base_.biformer_base.arch, drop_path_rate=0.4),
    head=dict(in_channels=_base_.biformer_base.arch.dims[-1]),
)
