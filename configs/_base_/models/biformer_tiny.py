# BiFormer-T with the authors' ImageNet weights.
biformer_tiny = dict(
    type='BiFormer',
    # Table 1 of the paper (arXiv 2303.08810).
    arch=dict(
        depths=(2, 2, 8, 2), dims=[64, 128, 256, 512], head_dim=32, mlp_ratio=3
    ),
    # Regions that each region attends to, by stage; -2 is global attention.
    topks=(1, 4, 16, -2),
    init_cfg=dict(
        type='Pretrained', checkpoint='checkpoints/biformer_tiny_best.pth'
    ),
)
