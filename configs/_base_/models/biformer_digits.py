# A small BiFormer for scenes of 160 px; the settings were chosen for them.
custom_imports = dict(imports=['mmbiformer'])

channels = [32, 64, 128, 256]
biformer = dict(
    type='BiFormer',
    arch=dict(depths=(1, 1, 4, 1), dims=channels, head_dim=32, mlp_ratio=3),
    topks=(1, 4, 16, -2),
    # 160 px give maps of 40, 20 and 10 tokens a side: 5 needs no padding.
    n_win=5,
)

# For fine-tuning; Mask R-CNN is trained first.
from_maskrcnn = dict(
    type='Pretrained',
    checkpoint='work_dirs/maskrcnn_biformer_digits/epoch_7.pth',
    prefix='backbone.',
)
# For fine-tuning; the classifier is trained first.
from_classifier = dict(
    type='Pretrained',
    checkpoint='work_dirs/biformer_digits/epoch_12.pth',
    prefix='backbone.',
)
