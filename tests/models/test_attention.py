import pytest
import reference
import torch

from mmbiformer.models import BiLevelRoutingAttention, GlobalAttention
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
    ],
)
def test_routed_attention_refuses(arguments, message):
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
