# BiFormer-STL with the authors' ImageNet weights.
biformer_stl = dict(
    type='BiFormer',
    # The authors' fourth released model, in the layout of Swin-T.
    arch=dict(
        depths=(2, 2, 6, 2),
        dims=[96, 192, 384, 768],
        head_dim=32,
        mlp_ratio=4,
        layout='stl',
    ),
    # Regions that each region attends to, by stage; -2 is global attention.
    topks=(1, 4, 16, -2),
    init_cfg=dict(
        type='Pretrained', checkpoint='checkpoints/biformer_stl_best.pth'
    ),
)
