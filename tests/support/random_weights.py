"""Configs of small models, and random weights for them."""

from pathlib import Path

import torch
from mmengine.registry import MODELS, DefaultScope

from mmbiformer.utils.config import read_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
DETECTION = CONFIGS / 'detection/maskrcnn_biformer_digits.py'

# Semantic FPN and its recipe's pipeline, small enough for seconds.
SEGMENTATION = f"""
_base_ = '{CONFIGS}/segmentation/sfpn_biformer.py'
model = dict(
    backbone=dict(
        arch=dict(depths=(1, 1, 1, 1), dims=(32, 32, 64, 64), _delete_=True),
        n_win=4,
    ),
    neck=dict(in_channels=[32, 32, 64, 64], out_channels=32),
    decode_head=dict(in_channels=[32] * 4, channels=32, num_classes=11),
)
test_pipeline = _base_.test_pipeline
test_pipeline[1]['scale'] = (96, 96)
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""


def save_random_weights(config, path, classes=None):
    """Save weights that fit a config, not trained."""
    torch.manual_seed(0)
    cfg = read_config(str(config))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    for name, parameter in model.named_parameters():
        if 'norm' not in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    meta = dict(dataset_meta=dict(classes=classes)) if classes else {}
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path
