"""tools/model_converters, on synthetic files of the authors' names and shapes.

The names of the heads are written down here as mmdet 2 and mmseg 0 have
them, not taken from the models that the results are for.
"""

import hashlib
import zlib
from argparse import Namespace
from pathlib import Path

import pytest
import reference
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint

from mmbiformer.checkpoints.convert import convert_checkpoint
from mmbiformer.checkpoints.io import load_from_local, save_atomically
from mmbiformer.utils.config import build_model
from mmbiformer.utils.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
CONVERT = 'model_converters/biformer_to_mmbiformer.py'
PUBLISH = 'model_converters/publish_model.py'


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


def read(name):
    (path,) = (ROOT / 'configs').glob(f'*/{name}.py')
    return Config.fromfile(path)


@pytest.mark.parametrize(
    ('name', 'arch'),
    [
        pytest.param('maskrcnn_biformer_base', 'base', marks=pytest.mark.slow),
        ('retinanet_biformer', 'small'),
        pytest.param('sfpn_biformer', 'small', marks=pytest.mark.slow),
        ('upernet_biformer_base', 'base'),
    ],
)
def test_every_weight_arrives(tmp_path, name, arch):
    head, cfg = name.split('_')[0], read(name)
    old = authors_checkpoint(head, arch)
    new, fates = convert_checkpoint(old, cfg, 'old.pth')
    path = save_atomically(new, tmp_path / 'new.pth')
    model = build_model(cfg)
    load_checkpoint(model, str(path), strict=True)
    unused = []
    if head == 'retinanet':
        unused = [f'backbone.extra_norms.0.{x}' for x in ('weight', 'bias')]
    assert fates['left out'] == unused
    assert fates['initial'] == []
    loaded = model.state_dict()
    assert sorted([*loaded, *unused]) == sorted(old['state_dict'])
    for key, value in loaded.items():
        assert torch.equal(value, old['state_dict'][key]), key
    assert new['meta']['dataset_meta']['classes'] == ('a', 'b')
    assert 'optimizer' not in new


def test_imagenet_weights(tmp_path, run_tool):
    weights = fill(reference.released_shapes('tiny'))
    source, target = tmp_path / 'old.pth', tmp_path / 'new.pth'
    # What the authors' training code saves besides the weights.
    args = Namespace(model='biformer_tiny', lr=5e-4)
    torch.save(dict(model=weights, epoch=299, args=args), source)
    config = ROOT / 'configs/segmentation/sfpn_biformer_tiny.py'
    result = run_tool(CONVERT, config, source, target)
    surplus = [n for n in weights if n.startswith(('head.', 'norm.'))]
    assert f'{len(surplus)} left out' in result.stdout
    assert '8 initial' in result.stdout
    converted = load_from_local(target)['state_dict']
    assert len(converted) == len(weights) - len(surplus)
    cfg = Config.fromfile(config)
    cfg.model.backbone.init_cfg.checkpoint = str(target)
    backbone = build_model(cfg).backbone
    backbone.init_weights()
    for key, value in backbone.state_dict().items():
        if not key.startswith('extra_norms.'):
            assert torch.equal(value, weights[key]), key

    before = target.read_bytes()
    again = run_tool(CONVERT, config, source, target, check=False)
    assert again.returncode == 1
    assert '--force' in again.stderr
    assert target.read_bytes() == before


def test_another_model_is_refused_by_name():
    cfg = read('retinanet_biformer_tiny')
    old = authors_checkpoint('retinanet', 'tiny')
    weights = old['state_dict']
    del weights['neck.lateral_convs.0.conv.bias']
    weights['roi_head.x'] = torch.rand(2)
    weights['bbox_head.retina_cls.bias'] = torch.rand(9)
    with pytest.raises(CheckpointError) as error:
        convert_checkpoint(old, cfg, 'old.pth')
    message = str(error.value)
    assert 'missing: neck.lateral_convs.0.conv.bias' in message
    assert 'surplus: roi_head.x' in message
    assert 'retina_cls.bias (has (9,), needs (720,))' in message


def test_mmdet_1_is_refused():
    old = authors_checkpoint('retinanet', 'tiny')
    old['meta']['mmdet_version'] = '1.2.0'
    with pytest.raises(CheckpointError, match='mmdet 1.2.0'):
        convert_checkpoint(old, read('retinanet_biformer_tiny'), 'old.pth')


def test_publishing(tmp_path, run_tool):
    source = tmp_path / 'epoch_12.pth'
    checkpoint = authors_checkpoint('retinanet', 'tiny')
    torch.save(checkpoint, source)
    result = run_tool(PUBLISH, source, tmp_path / 'retinanet.pth')
    assert 'left out: optimizer' in result.stdout
    (path,) = tmp_path.glob('retinanet-*.pth')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f'retinanet-{digest[:8]}.pth'
    published = load_from_local(path)
    assert sorted(published) == ['meta', 'state_dict']
    for key, value in published['state_dict'].items():
        assert torch.equal(value, checkpoint['state_dict'][key]), key
    # The same weights have the same name, which is taken.
    again = run_tool(PUBLISH, source, tmp_path / 'retinanet.pth', check=False)
    assert again.returncode == 1
    assert path.name in again.stderr
    assert len(list(tmp_path.iterdir())) == 2


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_checkpoint_runs(tmp_path, run_tool):
    source, trap = tmp_path / 'a.pth', tmp_path / 'trap'
    torch.save(dict(state_dict=Trap(trap)), source)
    result = run_tool(PUBLISH, source, tmp_path / 'b.pth', check=False)
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    assert str(source) in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']
