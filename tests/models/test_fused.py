"""Stages by compiled layers: where, and that they compute the same."""

import copy

import pytest
import torch

from mmbiformer.models import BiFormer, fused
from mmbiformer.ops import layers

pytestmark = pytest.mark.skipif(
    not layers.is_available(), reason='not compiled for this CPU'
)
TOY = dict(depths=(2, 1, 1, 2), dims=(32, 32, 64, 128))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = BiFormer(arch=TOY, n_win=4).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def fused_stages(monkeypatch):
    """The number of stages that were computed by compiled layers."""
    seen = []
    run_blocks = fused._run_blocks
    monkeypatch.setattr(
        fused, '_run_blocks', lambda *args: seen.append(1) or run_blocks(*args)
    )
    return seen


def infer(model, x):
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize('size', [(64, 96), (75, 133), (33, 200)])
@pytest.mark.parametrize('n_win', [1, 3, 4])
def test_equals_the_modules(size, n_win, model, fused_stages):
    model = BiFormer(arch=TOY, n_win=n_win, topks=(1, 1, 1, -2)).eval()
    x = torch.rand(2, 3, *size).double()
    model.double()
    expected = model(x)
    assert not fused_stages
    for a, b in zip(infer(model, x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert len(fused_stages) == 4


def test_single_precision(model, fused_stages):
    x = torch.rand(1, 3, 128, 160)
    exact = copy.deepcopy(model).double()(x.double())
    for a, b in zip(infer(model, x), exact, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    assert len(fused_stages) == 4


def test_nothing_that_others_hold_is_overwritten(model, fused_stages):
    """A hook before a stage keeps its input."""
    x = torch.rand(1, 3, 64, 96)
    kept = []
    for layer in model.downsample_layers:
        layer.register_forward_hook(
            lambda module, args, out: kept.append((out, out.clone()))
        )
    outs = infer(model, x)
    copies = [out.clone() for out in outs]
    infer(model, x)
    assert len(fused_stages) == 8
    for a, b in [*kept, *zip(outs, copies, strict=True)]:
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    'name',
    ['stages.0', 'stages.0.1', 'stages.0.1.mlp.2', 'stages.0.1.attn.router'],
)
def test_a_watched_stage_calls_its_modules(name, model, fused_stages):
    x = torch.rand(1, 3, 64, 96)
    expected = infer(model, x)
    seen = []
    model.get_submodule(name).register_forward_hook(lambda *_: seen.append(1))
    outs = infer(model, x)
    assert seen
    assert len(fused_stages) == 4 + 3
    for a, b in zip(outs, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


class Doubled(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def double(block):
    block.mlp[0].__class__ = Doubled


def rectify(block):
    block.mlp[2] = torch.nn.ReLU()


def refer(block):
    block.attn.attn_backend = 'reference'


@pytest.mark.parametrize('change', [double, rectify, refer])
def test_what_was_replaced_is_called(change, model, fused_stages):
    change(model.stages[0][1])
    x = torch.rand(1, 3, 64, 96)
    expected = model(x)
    for a, b in zip(infer(model, x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert len(fused_stages) == 3


def test_not_under_autocast_nor_with_stochastic_depth(model, fused_stages):
    x = torch.rand(2, 3, 64, 96)
    with torch.autocast('cpu', torch.bfloat16):
        infer(model, x)
    assert not fused_stages
    deep = BiFormer(arch=TOY, n_win=4, drop_path_rate=0.5).train()
    infer(deep, x)
    # Its first block has no stochastic depth, but is not alone in its stage.
    assert not fused_stages


@pytest.mark.parametrize(
    'settings',
    [
        dict(attn_cfg=dict(soft_routing=True)),
        dict(topks=(1, 1, 1, -1)),
        dict(topks=(0, 1, 1, 0)),
        dict(arch=dict(TOY, mlp_ratio=0.3)),
        dict(attn_backend='sdpa'),
    ],
)
def test_other_settings(settings, fused_stages):
    torch.manual_seed(0)
    settings = dict(dict(arch=TOY, n_win=4, topks=(1, 2, 3, -2)), **settings)
    model = BiFormer(**settings).eval()
    x = torch.rand(1, 3, 64, 96)
    for a, b in zip(infer(model, x), model(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert len(fused_stages) < 4
