"""tools/model_converters, on synthetic files of the authors' names."""

import hashlib
from argparse import Namespace
from pathlib import Path

import reference
import torch
from authors_files import authors_checkpoint, fill
from mmengine.config import Config

from mmbiformer.checkpoints.io import load_from_local
from mmbiformer.utils.config import build_model

ROOT = Path(__file__).resolve().parents[2]
CONVERT = 'model_converters/biformer_to_mmbiformer.py'
PUBLISH = 'model_converters/publish_model.py'


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
    assert f'path={str(path)!r} exists already' in again.stderr
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
