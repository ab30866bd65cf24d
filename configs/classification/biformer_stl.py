# BiFormer-STL on ImageNet-1k from scratch: the authors' recipe. The drop path
# rate is Swin-T's (arXiv 2103.14030), whose layout it has.
_base_ = ['biformer_small.py', '../_base_/models/biformer_stl.py']

model = dict(
    backbone=dict(arch=_base_.biformer_stl.arch, drop_path_rate=0.2),
    head=dict(in_channels=_base_.biformer_stl.arch.dims[-1]),
)
