"""Configs of mmdet and mmseg with BiFormer in them, small enough to train."""

from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from any_head_cases import CASES
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from mmbiformer.models.swap import (
    random_batch,
    render_config,
    swap_backbone,
    try_swap,
)
from mmbiformer.reliable.features import check_features
from mmbiformer.utils.config import read_config
from mmbiformer.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/any_head.md'
FOLDERS = {
    package.__name__: Path(package.__file__).parent / '.mim/configs'
    for package in (mmdet, mmseg)
}
SIDE = 96
# Heads with layers that need larger maps, or anchors for one size of images.
SIDES = {'ddod': 384, 'ssd': 300, 'legacy_1.x': 300, 'yolact': 550}
DONORS = dict(
    mmdet='detection/maskrcnn_biformer', mmseg='segmentation/upernet_biformer'
)
# A few show all that thousands do.
LIMITS = dict(
    num_queries=20,
    num_proposals=20,
    max_per_img=20,
    max_num=20,
    nms_pre=50,
    num=16,
    num_points=64,
)


def read(name):
    """Read a config; mmengine does not find some folders by their names."""
    return read_config(path_of(name) if '+' in name or '1.x' in name else name)


def path_of(name):
    """Return the path of a config in an installed package."""
    scope, _, path = name.partition('::')
    return str(FOLDERS[scope] / path)


def read_donor(scope):
    """Return the config of a small BiFormer."""
    return deepcopy(_read_donor(scope))


@lru_cache
def _read_donor(scope):
    """Read it once: configs that inherit from mmdet's take a second."""
    donor = Config.fromfile(ROOT / f'configs/{DONORS[scope]}.py')
    donor.model.backbone.update(
        arch=dict(depths=(1, 1, 1, 1), dims=(32, 64, 96, 128)),
        n_win=4,
        init_cfg=None,
    )
    return donor


def shrink(node):
    """Cut a model's config down to what takes seconds."""
    if isinstance(node, (list, tuple)):
        for value in node:
            shrink(value)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if isinstance(value, int) and value > LIMITS.get(key, value):
            node[key] = LIMITS[key]
        if key == 'clip_border':
            # Untrained boxes outside of an image have masks that mmdet cannot
            # paste on a CPU.
            node[key] = True
        if key in ('encoder', 'decoder', 'transformer_decoder') and value:
            value['num_layers'] = min(2, value.get('num_layers', 2))
        shrink(value)


def merge_small(cfg, swap, side=SIDE):
    """Return the config of a small model, as a user's file is read."""
    text = render_config(cfg, cfg.filename, swap.settings)
    merged = Config.fromstring(text, '.py')
    shrink(merged.model)
    # Weights of a whole model, from the internet.
    merged.model.pop('init_cfg', None)
    images = merged.model.data_preprocessor
    # Paddings and resizings to the recipe's size.
    images.batch_augments = None
    if 'size' in images:
        images.size = (side, side)
    return merged


def build_merged(cfg, merged):
    """Build the model of a config of :func:`merge_small`."""
    torch.manual_seed(0)
    init_default_scope(cfg.default_scope)
    return revert_sync_batchnorm(MODELS.build(merged.model))


def train_once(cfg, swap, side=SIDE):
    """Build the model with BiFormer, and compute its gradients.

    Args:
        cfg (Config): The original config.
        swap (Swap): What replaces its backbone.
        side (int): Size of the images.

    Returns:
        tuple: The model and the batch.
    """
    merged = merge_small(cfg, swap, side)
    model = build_merged(cfg, merged)
    check_features(model)
    model.init_weights()
    batch = random_batch(cfg, (side, side))
    model.train()
    # As the runner; TOOD's loss depends on it.
    MessageHub.get_current_instance().update_info('epoch', 0)
    data = model.data_preprocessor(deepcopy(batch), True)
    losses = model.loss(data['inputs'], data['data_samples'])
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    without = {
        name.rpartition('.')[0]
        for name, value in model.backbone.named_parameters()
        if value.grad is None
    }
    if not merged.get('find_unused_parameters'):
        assert not without
    return model, batch


def predict(model, batch):
    """Predict for the first image of a batch; some heads take only one.

    Args:
        model (nn.Module): A detector or segmentor.
        batch (dict): Images and data samples.
    """
    model.eval()
    with torch.no_grad():
        first = {key: values[:1] for key, values in batch.items()}
        data = model.data_preprocessor(first, False)
        results = model.predict(data['inputs'], data['data_samples'])
    assert len(results) == 1


def swap_small(cfg):
    """Replace a config's backbone by a small BiFormer."""
    return swap_backbone(cfg, read_donor(cfg.default_scope))


def parameters(*when):
    """Return the cases of some runs; all but the quick ones are slow."""
    return [
        pytest.param(
            case,
            id=case.name.replace('.py', '').replace('/', '-'),
            marks=() if case.when == 'quick' else pytest.mark.slow,
        )
        for case in CASES
        if case.when in when
    ]


def check_case(case, rows):
    """Check what comes of a config; add its row of the page's table."""
    row = f'| `{case.name}` | {_result_of(case)} |'
    rows.append(row)
    assert row in PAGE.read_text()


def _result_of(case):
    """Return what the page says of a config, if it is true."""
    try:
        cfg = read(case.name)
        swap = swap_small(cfg)
        notes = try_swap(cfg, swap) if case.refused or case.needs else []
    except ConfigError as error:
        if case.needs:
            assert (case.message or case.needs) in str(error)
            return f'not tried: needs {case.needs}'
        assert case.refused, error
        assert case.refused in str(error)
        return f'refused: {case.refused}'
    if case.needs:
        if not notes:
            pytest.skip(f'{case.needs} is there')
        assert case.message in notes[0]
        return f'not tried: needs {case.needs}'
    assert not case.refused
    folder = case.name.partition('::')[2].partition('/')[0]
    model, batch = train_once(cfg, swap, SIDES.get(folder, SIDE))
    strides = ', '.join(str(one.stride) for one in swap.new)
    try:
        predict(model, batch)
    except (AttributeError, RuntimeError) as error:
        if not case.no_prediction or case.no_prediction not in str(error):
            raise
        return f'{strides}; loss only: {case.no_prediction}'
    if case.no_prediction:
        pytest.skip('the head predicts')
    return strides
