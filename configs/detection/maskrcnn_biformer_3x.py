# Mask R-CNN 3x on COCO with BiFormer-S. The authors trained 1x only: this is
# their recipe with the schedule of Swin Transformer (arXiv 2103.14030,
# Section 4.2), 36 epochs with the shorter side between 480 and 800 px.
_base_ = 'maskrcnn_biformer.py'

train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomResize', scale=[(1333, 480), (1333, 800)], keep_ratio=True
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

max_epochs = 36
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(
        type='MultiStepLR',
        milestones=[27, 33],
        end=max_epochs,
        by_epoch=True,
        gamma=0.1,
    ),
]
