# RetinaNet with a small BiFormer on handwritten digits, from scratch, in
# minutes on two CPU cores. The settings were chosen for this data set.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/models/biformer_digits.py',
    '../_base_/datasets/digits_instance.py',
    '../_base_/schedules/digits_epochs.py',
]

model = dict(
    backbone=dict(_delete_=True, out_indices=(1, 2, 3), **_base_.biformer),
    # Digits are 32 to 48 px high: strides 8, 16 and 32 see them all.
    neck=dict(
        in_channels=_base_.channels[1:],
        out_channels=64,
        start_level=0,
        add_extra_convs=False,
        num_outs=3,
    ),
    bbox_head=dict(
        num_classes=10,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(strides=[8, 16, 32]),
    ),
)

# The masks of the data set are not evaluated.
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
