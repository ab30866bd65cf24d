# Semantic FPN with a small BiFormer on handwritten digits, from scratch, in
# minutes on two CPU cores. The settings were chosen for this data set.
_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    '../_base_/models/biformer_digits.py',
    '../_base_/datasets/digits_segmentation.py',
    '../_base_/schedules/digits_iters.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    pretrained=None,
    backbone=dict(_delete_=True, **_base_.biformer),
    neck=dict(in_channels=_base_.channels, out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=64,
        dropout_ratio=0.0,
        num_classes=_base_.num_classes,
        loss_decode=dict(
            _delete_=True,
            type='WeightedCrossEntropyLoss',
            class_weight=_base_.class_weight,
        ),
    ),
)
