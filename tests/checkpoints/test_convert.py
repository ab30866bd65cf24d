"""Checkpoints of the authors' code, on files of their names and shapes."""

from pathlib import Path

import pytest
import torch
from authors_files import authors_checkpoint
from mmengine.config import Config
from mmengine.runner import load_checkpoint

from mmbiformer.checkpoints.convert import convert_checkpoint, strip_checkpoint
from mmbiformer.checkpoints.io import save_atomically
from mmbiformer.utils.config import build_model
from mmbiformer.utils.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]


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
    assert new['meta']['dataset_meta'] == dict(
        classes=('a', 'b'), palette=[[1, 2, 3], [4, 5, 6]]
    )
    assert new['meta']['cfg'] == cfg.pretty_text
    assert 'optimizer' not in new


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
    assert message.startswith(
        f"checkpoint='old.pth' does not fit config={cfg.filename!r}. Weights "
    )
    assert 'missing: neck.lateral_convs.0.conv.bias' in message
    assert 'surplus: roi_head.x' in message
    assert 'retina_cls.bias (has (9,), needs (720,))' in message


def test_mmdet_1_is_refused():
    old = authors_checkpoint('retinanet', 'tiny')
    old['meta']['mmdet_version'] = '1.2.0'
    with pytest.raises(CheckpointError, match="'old.pth' is of mmdet 1.2.0"):
        convert_checkpoint(old, read('retinanet_biformer_tiny'), 'old.pth')


@pytest.mark.parametrize('keys', [['meta'], ['state_dict', 'meta']])
def test_only_these_keys_are_kept(keys):
    checkpoint = dict(meta=1, state_dict=dict(a=torch.ones(1)), optimizer=2)
    stripped, left_out = strip_checkpoint(checkpoint, 'x.pth', keys)
    assert stripped == {key: checkpoint[key] for key in keys}
    assert left_out == [key for key in checkpoint if key not in keys]


def test_keys_that_are_not_there_are_named():
    checkpoint = dict(state_dict=dict(a=torch.ones(1)), meta={})
    with pytest.raises(CheckpointError) as error:
        strip_checkpoint(checkpoint, 'x.pth', ['meta', 'ema', 'message_hub'])
    assert str(error.value) == (
        "checkpoint='x.pth' lacks ['ema', 'message_hub']; it has ['meta', "
        "'state_dict']"
    )
    with pytest.raises(CheckpointError, match="'x.pth' holds no weights"):
        strip_checkpoint(dict(meta={}), 'x.pth', ['meta'])
