"""Backbones whose maps are not those that neck and heads take."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmbiformer.reliable.features import check_features
from mmbiformer.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
MASK_RCNN = 'detection/maskrcnn_biformer_digits.py'
FPN = 'segmentation/sfpn_biformer_digits.py'
UPERNET = 'segmentation/upernet_biformer_digits.py'
GIVEN = 'but the backbone gives 4 maps of [32, 64, 128, 256] channels'
WIDER = [64, 128, 256, 512]


def check(name, **options):
    cfg = Config.fromfile(ROOT / 'configs' / name)
    cfg.merge_from_dict(options)
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.backbone.train(False)
    state = torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    check_features(model)
    # Training is the same as without the check.
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize('name', [MASK_RCNN, UPERNET])
def test_what_fits(name):
    check(name)


@pytest.mark.parametrize(
    ('name', 'key', 'value', 'message'),
    [
        (
            MASK_RCNN,
            'neck.in_channels',
            WIDER,
            f'model.neck.in_channels={WIDER}, {GIVEN}',
        ),
        (
            FPN,
            'backbone.out_indices',
            (1, 2, 3),
            'model.neck.in_channels=[32, 64, 128, 256], but the backbone '
            'gives 3 maps of [64, 128, 256] channels',
        ),
        (
            MASK_RCNN,
            'neck.out_channels',
            48,
            'model.rpn_head.in_channels=64, but model.neck gives 5 maps of '
            '[48, 48, 48, 48, 48] channels',
        ),
        (
            UPERNET,
            'decode_head.in_channels',
            WIDER,
            f'model.decode_head.in_channels={WIDER} for in_index=[0, 1, 2, 3],'
            f' {GIVEN}',
        ),
        (
            UPERNET,
            'auxiliary_head.in_channels',
            7,
            f'model.auxiliary_head.in_channels=7 for in_index=2, {GIVEN}',
        ),
        (
            UPERNET,
            'auxiliary_head.in_index',
            4,
            f'model.auxiliary_head.in_index=4, {GIVEN}',
        ),
    ],
)
def test_channels_that_do_not_fit_are_named(name, key, value, message):
    with pytest.raises(ConfigError) as error:
        check(name, **{f'model.{key}': value})
    assert str(error.value) == message
