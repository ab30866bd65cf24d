import copy
import json
import warnings

import pytest
import reference
import torch

from mmbiformer.models import (
    BiLevelRoutingAttention,
    ConvolutionLayer,
    GlobalAttention,
)
from mmbiformer.models.attention import add
from mmbiformer.ops import ATTENTION_BACKENDS
from mmbiformer.utils.errors import ConfigError

# Without a GPU, triton is sdpa.
BACKENDS = [name for name in ATTENTION_BACKENDS if name != 'triton']


def assert_close(actual, expected, tolerance=1e-9):
    """Compare with the largest expected magnitude as the measure."""
    expected = torch.as_tensor(expected)
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error.item() <= tolerance


def check_against(arrays, layer):
    seed = int(arrays['seed'])
    layer = reference.fill(layer, seed)
    x = reference.make_input(arrays['shape'], seed).requires_grad_()
    out = layer(x)
    (out * out).mean().backward()
    assert_close(out, arrays['out'])
    assert_close(x.grad, arrays['grad_input'])
    parameters = dict(layer.named_parameters())
    assert set(parameters) == set(arrays['grad_names'])
    for name, norm in zip(
        arrays['grad_names'], arrays['grad_norms'], strict=True
    ):
        assert_close(parameters[name].grad.norm(), norm)
    return layer, x


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('case', ['bra_even', 'bra_pad', 'bra_top1'])
def test_routed_attention_equals_the_authors(case, backend):
    arrays = reference.load(case)
    dim, heads, n_win, topk = (
        int(arrays[key]) for key in ('dim', 'heads', 'n_win', 'topk')
    )
    layer, x = check_against(
        arrays, BiLevelRoutingAttention(dim, heads, n_win, topk, backend)
    )
    seen = []
    layer.router.register_forward_hook(lambda *hook: seen.append(hook[2][0]))
    layer(x)
    assert seen[0].tolist() == arrays['routing'].tolist()


def test_global_attention_equals_the_authors():
    arrays = reference.load('global_attention')
    check_against(arrays, GlobalAttention(int(arrays['dim'])))


OPTIONS = reference.load('layer_options')


def check_case(case, layer):
    """Compare a layer with one of the cases in the file."""
    seed = int(OPTIONS['seed'])
    layer = reference.fill(layer, seed)
    x = reference.make_input(OPTIONS['shape'], seed)
    with torch.no_grad():
        assert_close(layer(x), OPTIONS[f'{case}.out'])
    out = layer(x.requires_grad_())
    assert_close(out, OPTIONS[f'{case}.out'])
    (out * out).mean().backward()
    grads = {name: p.grad for name, p in layer.named_parameters()}
    grads['input'] = x.grad
    names = OPTIONS[f'{case}.grad_names'].tolist()
    assert set(names) == set(grads)
    norms = torch.stack([grads[name].norm() for name in names])
    torch.testing.assert_close(
        norms, torch.from_numpy(OPTIONS[f'{case}.grad_norms']),
        rtol=1e-9, atol=0,
    )  # fmt: skip


@pytest.mark.parametrize('backend', ['auto', 'sdpa', 'reference'])
@pytest.mark.parametrize('case', OPTIONS['cases'][:-2])
def test_options_equal_the_authors(case, backend):
    layer = BiLevelRoutingAttention(
        *(int(OPTIONS[key]) for key in ('dim', 'heads', 'n_win', 'topk')),
        backend,
        **json.loads(str(OPTIONS[f'{case}.options'])),
    )
    check_case(case, layer)


@pytest.mark.parametrize('topk', [-1, 0])
def test_other_layers_equal_the_authors(topk):
    dim = int(OPTIONS['dim'])
    layers = {
        -1: lambda: GlobalAttention(dim, local_context=False),
        0: lambda: ConvolutionLayer(dim),
    }
    check_case(f'topk_{topk}', layers[topk]())


def test_a_pooling_by_one_is_none():
    layers = [
        BiLevelRoutingAttention(32, 1, 2, 2, 'auto', **options)
        for options in (
            {},
            dict(kv_downsample_mode='avgpool', kv_downsample_ratio=1),
            dict(kv_downsample_mode='ada_maxpool', kv_per_win=4),
        )
    ]
    x = torch.rand(1, 8, 8, 32)
    for layer in layers:
        layer.load_state_dict(layers[0].state_dict())
        torch.testing.assert_close(layer(x), layers[0](x))


@pytest.mark.parametrize('diff_routing', [False, True])
def test_only_differentiable_routing_has_gradients(diff_routing):
    layer = BiLevelRoutingAttention(
        32, 1, 2, 2, soft_routing=True, diff_routing=diff_routing
    )
    seen = []
    layer.router.register_forward_hook(lambda *hook: seen.append(hook[2]))
    layer(torch.rand(1, 8, 8, 32))
    ((routing, affinity),) = seen
    assert affinity.requires_grad == diff_routing


def test_regions_smaller_than_the_pooling_are_refused():
    layer = BiLevelRoutingAttention(
        32, 1, 4, 2, kv_downsample_mode='maxpool', kv_downsample_ratio=3
    )
    layer(torch.rand(1, 12, 12, 32))
    with pytest.raises(ConfigError, match='2 x 3 tokens.*_ratio=3'):
        layer(torch.rand(1, 8, 12, 32))


class LowRankAdapter(torch.nn.Module):
    """A linear layer with a low-rank sum, as adapters of LoRA."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.down = torch.nn.Linear(linear.in_features, 2, bias=False)
        self.up = torch.nn.Linear(2, linear.out_features, bias=False)

    def forward(self, x):
        return self.linear(x) + self.up(self.down(x))


class TestSubmodulesAreCalled:
    """What replaces, wraps or watches a layer inside must have effect."""

    @pytest.fixture
    def layer(self):
        torch.manual_seed(0)
        return BiLevelRoutingAttention(32, 2, 2, 2).eval()

    def test_an_adapter_adds_its_weights(self, layer):
        x = torch.rand(1, 6, 8, 32)
        adapted = copy.deepcopy(layer)
        adapted.qkv.qkv = LowRankAdapter(adapted.qkv.qkv)
        adapter = adapted.qkv.qkv
        merged = copy.deepcopy(layer)
        merged.qkv.qkv.weight.data += adapter.up.weight @ adapter.down.weight
        out = adapted(x)
        torch.testing.assert_close(out, merged(x))
        assert not torch.allclose(out, layer(x))
        out.sum().backward()
        assert adapter.down.weight.grad.any()

    def test_dynamic_quantization(self, layer):
        x = torch.rand(1, 6, 8, 32)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            quantized = torch.ao.quantization.quantize_dynamic(
                layer, {torch.nn.Linear}, torch.qint8
            )
        with torch.no_grad():
            out, expected = quantized(x), layer(x)
        error = (out - expected).abs().max() / expected.abs().max()
        assert 0 < error < 0.05


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(dim=64, num_heads=3, n_win=7, topk=4), 'num_heads=3, dim=64'),
        (dict(dim=64, num_heads=0, n_win=7, topk=4), 'num_heads=0'),
        (dict(dim=64, num_heads=2, n_win=0, topk=1), 'n_win=0'),
        (dict(dim=64, num_heads=2, n_win=2, topk=5), 'n_win.*4.*topk=5'),
        (dict(dim=64, num_heads=2, n_win=2, topk=0), 'topk=0'),
        (
            dict(dim=64, num_heads=2, n_win=2, topk=1, attn_backend='fast'),
            "'auto', 'reference'.*attn_backend='fast'",
        ),
        (dict(qk_scale=0), 'above 0, got qk_scale=0'),
        (dict(qk_scale='1'), "qk_scale='1'"),
        (dict(soft_routing=1), 'soft_routing=1'),
        (dict(diff_routing=True), 'needs soft_routing=True'),
        (dict(kv_downsample_mode='conv'), "'maxpool'.*got .*='conv'"),
        (dict(kv_downsample_mode='avgpool'), 'kv_downsample_ratio=None'),
        (dict(kv_downsample_mode='ada_avgpool'), 'kv_per_win=None'),
        (
            dict(
                kv_downsample_mode='avgpool',
                kv_downsample_ratio=2,
                kv_per_win=2,
            ),
            "kv_per_win is not used with kv_downsample_mode='avgpool'",
        ),
        (dict(kv_per_win=2), "kv_per_win is not used with .*'identity'"),
        (
            dict(soft_routing=True, attn_backend='native'),
            "need an attn_backend of .*'sdpa'.*got .*='native'",
        ),
    ],
)
def test_routed_attention_refuses(arguments, message):
    arguments = {**dict(dim=64, num_heads=2, n_win=2, topk=1), **arguments}
    with pytest.raises(ConfigError, match=message):
        BiLevelRoutingAttention(**arguments)


def test_global_attention_refuses_a_width_that_8_heads_do_not_divide():
    with pytest.raises(ConfigError, match='multiple of 8.*dim=100'):
        GlobalAttention(100)


def test_add_is_in_place_without_gradients_only():
    x, y = torch.rand(2, 3)
    total = x + y
    assert add(x, y) is not x
    with torch.no_grad():
        assert add(x, y) is x
    assert torch.equal(x, total)
