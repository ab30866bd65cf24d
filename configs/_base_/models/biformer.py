# What the recipes need to know of BiFormer's sizes. BiFormer-T has the
# channels of BiFormer-S.
custom_imports = dict(imports=['mmbiformer'])

channels = dict(small=[64, 128, 256, 512], base=[96, 192, 384, 768])
# The small one is whole, the others say what differs. The checkpoints are
# the authors' ImageNet weights, as they are.
biformer = dict(
    small=dict(
        type='BiFormer',
        arch='small',
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/biformer_small_best.pth'
        ),
    ),
    base=dict(
        arch='base',
        init_cfg=dict(checkpoint='checkpoints/biformer_base_best.pth'),
    ),
    tiny=dict(
        arch='tiny',
        init_cfg=dict(checkpoint='checkpoints/biformer_tiny_best.pth'),
    ),
)
