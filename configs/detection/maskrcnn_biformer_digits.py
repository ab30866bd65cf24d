# Mask R-CNN with a small BiFormer on handwritten digits, from scratch, in
# minutes on two CPU cores. The settings were chosen for this data set.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/models/biformer_digits.py',
    '../_base_/datasets/digits_instance.py',
    '../_base_/schedules/digits_epochs.py',
]

model = dict(
    backbone=dict(_delete_=True, **_base_.biformer),
    neck=dict(in_channels=_base_.channels, out_channels=64),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # Digits are 32 to 48 px high.
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1), out_channels=64
        ),
        # A digit's outline does not depend on its class: one regressor and
        # one mask for all classes learn from ten times the examples.
        bbox_head=dict(
            in_channels=64,
            fc_out_channels=256,
            num_classes=10,
            reg_class_agnostic=True,
        ),
        mask_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1), out_channels=64
        ),
        mask_head=dict(
            in_channels=64,
            conv_out_channels=64,
            num_classes=10,
            class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        # Few RoIs, half of them digits: cheap, and more signal for classes.
        rcnn=dict(sampler=dict(num=24, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)
