"""Layer-wise decay of the learning rate, in both frameworks."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from mmbiformer import BiFormer
from mmbiformer.utils.errors import ConfigError

TOY = dict(depths=(1, 1, 2, 1), dims=(32, 32, 64, 64))


class Detector(torch.nn.Module):
    """A model with a backbone and a head, one layer of which is frozen."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = torch.nn.Linear(4, 4)


def settings(constructor='LayerDecayOptimWrapperConstructor', **paramwise):
    return dict(
        constructor=constructor,
        optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.05),
        paramwise_cfg=dict(decay_rate=0.5, **paramwise),
    )


def groups_of(model, optimizer):
    """Return the group of each parameter, by name."""
    names = {p: name for name, p in model.named_parameters()}
    return {
        names[p]: group
        for group in optimizer.param_groups
        for p in group['params']
    }


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg'])
def test_rates_fall_with_the_depth(scope):
    pytest.importorskip(scope)
    model = Detector(BiFormer(TOY, frozen_stages=0))
    cfg = settings(
        norm_decay_mult=0.0,
        custom_keys={'pos_embed': dict(lr_mult=10.0, decay_mult=1.0)},
    )
    with DefaultScope.overwrite_default_scope(scope):
        optimizer = build_optim_wrapper(model, cfg).optimizer
    groups = groups_of(model, optimizer)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(groups) == trained
    rates = {
        'head.weight': 0.01,
        'backbone.extra_norms.2.weight': 0.01,
        'backbone.stages.3.0.mlp.0.bias': 0.005,
        'backbone.stages.2.1.attn.wo.weight': 0.0025,
        'backbone.stages.2.0.attn.wo.weight': 0.00125,
        'backbone.downsample_layers.2.0.weight': 0.00125,
        'backbone.stages.0.0.norm1.weight': 0.0003125,
        'backbone.stages.0.0.pos_embed.weight': 0.003125,
    }
    for name, rate in rates.items():
        assert groups[name]['lr'] == pytest.approx(rate), name
    decays = {
        'backbone.stages.0.0.norm1.weight': 0,
        'backbone.stages.0.0.mlp.0.weight': 0.05,
    }
    for name, decay in decays.items():
        assert groups[name]['weight_decay'] == decay, name


def test_a_wrapped_model_has_the_rates_of_its_backbone():
    backbone = BiFormer(TOY)
    model = torch.nn.ModuleDict(dict(teacher=Detector(backbone)))
    optimizer = build_optim_wrapper(model, settings()).optimizer
    groups = groups_of(model, optimizer)
    stem = groups['teacher.backbone.downsample_layers.0.0.weight']
    assert stem['lr'] == pytest.approx(0.01 * 0.5**6)


@pytest.mark.parametrize('framework', ['mmdet', 'mmseg'])
def test_the_frameworks_constructors_know_other_backbones_only(framework):
    """The documentation says so; here is what to change if they learn more."""
    pytest.importorskip(f'{framework}.engine')
    model = Detector(BiFormer(TOY))
    name = f'{framework}.LearningRateDecayOptimizerConstructor'
    with pytest.raises(NotImplementedError):
        build_optim_wrapper(
            model, settings(name, num_layers=6, decay_type='layer_wise')
        )


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(paramwise_cfg=dict(decay_rate=1.5)), 'decay_rate=1.5'),
        (dict(paramwise_cfg=dict(norm_decay_mult=0)), 'decay_rate=None'),
        (dict(optimizer=dict(type='AdamW')), 'needs the learning rate'),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ConfigError, match=message):
        build_optim_wrapper(BiFormer(TOY), {**settings(), **changes})


def test_refuses_a_model_without_depths():
    with pytest.raises(ConfigError, match='this Linear has none'):
        build_optim_wrapper(torch.nn.Linear(2, 2), settings())
