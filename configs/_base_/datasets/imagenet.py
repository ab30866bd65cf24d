# ImageNet-1k at 224 px, with the augmentations of DeiT as timm has them:
# random crops, flips, RandAugment m9 mstd0.5 inc1 and erasing of 0.25, and,
# under RandAugment, no colour jitter. For tests, 256 px (bicubic) and the
# centre of 224.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'
data_preparation = 'see docs/classification.md'
# The model has its own.
data_preprocessor = None

# 1,024 images in a step on 8 GPUs. Each image comes three times, in three
# forms, and the epoch ends after a third of them.
train_dataloader = dict(
    batch_size=128,
    drop_last=True,
    persistent_workers=True,
    sampler=dict(type='RepeatAugSampler', num_repeats=3),
)
val_dataloader = dict(batch_size=128, persistent_workers=True)
test_dataloader = val_dataloader
