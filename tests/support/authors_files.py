"""Synthetic checkpoints of the names and shapes of the authors' files.

The names of the heads are written down here as mmdet 2 and mmseg 0 have
them, not taken from the models that the results are for.
"""

import zlib

import reference
import torch


def conv(name, out, into, kernel=1):
    return {
        f'{name}.weight': (out, into, kernel, kernel),
        f'{name}.bias': (out,),
    }


def conv_bn(name, out, into, kernel=1):
    """Return the shapes of mmcv's ConvModule with batch norm."""
    shapes = {f'{name}.conv.weight': (out, into, kernel, kernel)}
    for part in ('weight', 'bias', 'running_mean', 'running_var'):
        shapes[f'{name}.bn.{part}'] = (out,)
    shapes[f'{name}.bn.num_batches_tracked'] = ()
    return shapes


def linear(name, out, into):
    return {f'{name}.weight': (out, into), f'{name}.bias': (out,)}


def fpn(channels):
    shapes = {}
    for i, width in enumerate(channels):
        shapes |= conv(f'neck.lateral_convs.{i}.conv', 256, width)
        shapes |= conv(f'neck.fpn_convs.{i}.conv', 256, 256, 3)
    return shapes


def maskrcnn(channels):
    shapes = fpn(channels)
    shapes |= conv('rpn_head.rpn_conv', 256, 256, 3)
    shapes |= conv('rpn_head.rpn_cls', 3, 256)
    shapes |= conv('rpn_head.rpn_reg', 12, 256)
    box, mask = 'roi_head.bbox_head', 'roi_head.mask_head'
    shapes |= linear(f'{box}.shared_fcs.0', 1024, 256 * 7 * 7)
    shapes |= linear(f'{box}.shared_fcs.1', 1024, 1024)
    shapes |= linear(f'{box}.fc_cls', 81, 1024)
    shapes |= linear(f'{box}.fc_reg', 320, 1024)
    for i in range(4):
        shapes |= conv(f'{mask}.convs.{i}.conv', 256, 256, 3)
    shapes |= conv(f'{mask}.upsample', 256, 256, 2)
    return shapes | conv(f'{mask}.conv_logits', 80, 256)


def retinanet(channels):
    shapes = fpn(channels[1:])
    shapes |= conv('neck.fpn_convs.3.conv', 256, channels[3], 3)
    shapes |= conv('neck.fpn_convs.4.conv', 256, 256, 3)
    for i in range(4):
        shapes |= conv(f'bbox_head.cls_convs.{i}.conv', 256, 256, 3)
        shapes |= conv(f'bbox_head.reg_convs.{i}.conv', 256, 256, 3)
    shapes |= conv('bbox_head.retina_cls', 9 * 80, 256, 3)
    return shapes | conv('bbox_head.retina_reg', 9 * 4, 256, 3)


def sfpn(channels):
    shapes = fpn(channels)
    # Between the convolutions lie upsamplings.
    for level, index in (
        (0, 0),
        (1, 0),
        (2, 0),
        (2, 2),
        (3, 0),
        (3, 2),
        (3, 4),
    ):
        name = f'decode_head.scale_heads.{level}.{index}'
        shapes |= conv_bn(name, 128, 128 if index else 256, 3)
    return shapes | conv('decode_head.conv_seg', 150, 128)


def upernet(channels):
    head, shapes = 'decode_head', {}
    for i in range(4):
        shapes |= conv_bn(f'{head}.psp_modules.{i}.1', 512, channels[3])
    shapes |= conv_bn(f'{head}.bottleneck', 512, channels[3] + 4 * 512, 3)
    for i in range(3):
        shapes |= conv_bn(f'{head}.lateral_convs.{i}', 512, channels[i])
        shapes |= conv_bn(f'{head}.fpn_convs.{i}', 512, 512, 3)
    shapes |= conv_bn(f'{head}.fpn_bottleneck', 512, 4 * 512, 3)
    shapes |= conv(f'{head}.conv_seg', 150, 512)
    shapes |= conv_bn('auxiliary_head.convs.0', 256, channels[2], 3)
    return shapes | conv('auxiliary_head.conv_seg', 150, 256)


HEADS = dict(
    maskrcnn=maskrcnn, retinanet=retinanet, sfpn=sfpn, upernet=upernet
)


def fill(shapes):
    """Return weights that differ by name, and take no room in a file."""
    return {
        name: torch.tensor(zlib.crc32(name.encode()) % 9973)
        .to(torch.long if name.endswith('tracked') else torch.float)
        .expand(shape)
        for name, shape in shapes.items()
    }


def authors_checkpoint(head, arch):
    """Return what the authors' detection or segmentation code saves."""
    backbone = {
        name: shape
        for name, shape in reference.released_shapes(arch).items()
        if not name.startswith(('head.', 'norm.'))
    }
    channels = [backbone[f'stages.{i}.0.norm1.weight'][0] for i in range(4)]
    for i in range(4):
        backbone[f'extra_norms.{i}.weight'] = (channels[i],)
        backbone[f'extra_norms.{i}.bias'] = (channels[i],)
    shapes = {f'backbone.{name}': shape for name, shape in backbone.items()}
    shapes |= HEADS[head](channels)
    meta = dict(
        epoch=12, CLASSES=('a', 'b'), PALETTE=[[1, 2, 3], [4, 5, 6]],
        mmdet_version='2.26.0',
    )  # fmt: skip
    return dict(
        meta=meta, state_dict=fill(shapes), optimizer=dict(state={}, lr=1)
    )
