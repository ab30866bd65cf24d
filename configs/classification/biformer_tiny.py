# BiFormer-T on ImageNet-1k from scratch: the authors' recipe. The drop path
# rate is the paper's (arXiv 2303.08810).
_base_ = ['biformer_small.py', '../_base_/models/biformer_tiny.py']

model = dict(
    backbone=dict(arch=_base_.biformer_tiny.arch, drop_path_rate=0.1),
    head=dict(in_channels=_base_.biformer_tiny.arch.dims[-1]),
)
