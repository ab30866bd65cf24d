"""The Triton backend in Triton's interpreter, on CPU tensors.

The interpreter must be chosen before triton is imported, so test_triton.py
runs this file in a process of its own, with TRITON_INTERPRET=1. A program
takes about 0.1 s there, so the cases are small.
"""

import logging
import sys

import mmengine.optim  # noqa: F401
import pytest
import torch

# With torch 2.6, mmengine imports both.
BEFORE = set(sys.modules)

from mmbiformer.ops import routed_attention  # noqa: E402
from mmbiformer.ops.backends import triton  # noqa: E402

HALF = torch.float16
IMPORTED = {'triton', 'torch._dynamo'} & ({*sys.modules} - BEFORE)


def test_importing_the_package_imports_neither_triton_nor_dynamo():
    assert not IMPORTED


def make_inputs(
    n=1, n_win=2, region=(2, 4), topk=2, heads=1, head_dim=16,
    dtype=torch.float32, routing=None,
):  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    size = n_win * region[0], n_win * region[1], heads * head_dim
    qkv = torch.randn(3, n, *size, generator=generator).to(dtype)
    order = torch.rand(n, n_win**2, n_win**2, generator=generator).argsort(-1)
    chosen = order[..., :topk].contiguous()
    if routing is not None:
        chosen = torch.tensor(routing).expand(n, n_win**2, -1)
    return *qkv, chosen, heads


def run(q, k, v, routing, heads, backend='triton', scale=0.3):
    """Return the output and the gradients of a random sum of it."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = routed_attention(*leaves, routing, heads, scale, backend)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(out.shape, generator=generator).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, leaves, weights)


def assert_as_exact_as_the_reference(inputs):
    q, k, v, *others = inputs
    actual = run(*inputs)
    own = run(*inputs, 'reference')
    exact = run(q.double(), k.double(), v.double(), *others, 'reference')
    for a, b, c in zip(actual, own, exact, strict=True):
        assert a.dtype == q.dtype
        error, allowed = ((x.double() - c).abs().max() for x in (a, b))
        eps = torch.finfo(q.dtype).eps
        assert error <= 3 * allowed + 4 * eps * c.abs().max()


@pytest.mark.parametrize(
    'case',
    [
        dict(dtype=torch.bfloat16, heads=2, head_dim=32, topk=1),
        # Partial tiles of queries and keys, and channels beyond the head's.
        dict(dtype=HALF, region=(5, 7), head_dim=24),
        # The tiles of large regions; one region, so nothing is cut.
        dict(dtype=HALF, region=(9, 16), n_win=1, topk=1),
        # One token a region.
        dict(region=(1, 1), topk=3),
        # One region twice, which counts twice; the others are not used.
        dict(region=(1, 3), routing=[3, 3]),
    ],
    ids=lambda case: '-'.join(map(str, case)),
)  # fmt: skip
def test_it_equals_the_reference(case):
    assert_as_exact_as_the_reference(make_inputs(**case))


def test_large_products_of_a_partial_tile_do_not_overflow():
    """The exponentials of absent keys would be infinite."""
    q, k, v, routing, heads = make_inputs(n_win=1, region=(1, 3), topk=1)
    inputs = 30 + q, -30 + k, v, routing, heads
    for a, b in zip(run(*inputs), run(*inputs, 'reference'), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_skewed_routing():
    """All regions route to one, in three pieces, with equal bits each time."""
    q, k, v, routing, heads = make_inputs(
        region=(1, 2), n_win=3, topk=1, routing=[4]
    )
    leaves = [x.requires_grad_() for x in (q, k, v)]
    results = []
    for backend in ('triton', 'reference'):
        out = routed_attention(*leaves, routing, heads, 0.3, backend)
        grads = [
            torch.autograd.grad(out, leaves, q.detach(), retain_graph=True)
            for _ in range(2)
        ]
        for a, b in zip(*grads, strict=True):
            assert torch.equal(a, b)
        results.append((out, *grads[0]))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_any_layout_in_memory():
    q, k, v, routing, heads = make_inputs(n=2, region=(1, 3), topk=1)
    part = torch.cat([q, q], -1)[..., :16]
    expanded = k[:, :, :1].expand_as(k)
    nchw = v.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    leaves = [x.detach().requires_grad_() for x in (part, expanded, nchw)]
    results = []
    for backend in ('triton', 'reference'):
        out = routed_attention(*leaves, routing, heads, 0.3, backend)
        # Its gradient is transposed.
        total = out.transpose(1, 2).square().sum()
        results.append((out, *torch.autograd.grad(total, leaves)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('wrong', [-1, 4, 2**40])
def test_a_wrong_index_gives_nan_and_reads_nothing_outside(wrong):
    q, k, v, routing, heads = make_inputs(region=(1, 1))
    routing[0, 1, 1] = wrong
    out = routed_attention(q, k, v, routing, heads, 0.3, 'triton')
    assert out[0, 0, 1].isnan().all()
    assert out[0, 1].isfinite().all()


def test_it_casts_under_autocast_as_sdpa_does():
    *maps, routing, heads = make_inputs(n_win=1, region=(1, 2), topk=1)
    with torch.autocast('cpu', torch.bfloat16):
        outs = [
            routed_attention(*maps, routing, heads, 0.3, backend)
            for backend in ('triton', 'sdpa')
        ]
    assert outs[0].dtype == outs[1].dtype == torch.bfloat16
    torch.testing.assert_close(*outs, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (dict(dtype=torch.float64), 'float64'),
        (dict(head_dim=12), 'heads of 12'),
        (dict(head_dim=72), 'heads of 72'),
        (dict(scale=-0.3), 'scale=-0.3'),
    ],
)
def test_what_it_does_not_support_is_left_to_sdpa(change, reason, caplog):
    scale = change.pop('scale', 0.3)
    *maps, routing, heads = make_inputs(**change)
    with caplog.at_level(logging.DEBUG, 'mmbiformer'):
        out = routed_attention(*maps, routing, heads, scale, 'triton')
    assert reason in caplog.text
    expected = routed_attention(*maps, routing, heads, scale, 'sdpa')
    assert torch.equal(out, expected)


def test_a_call_without_tasks():
    inputs = make_inputs(n=0)
    assert [x.shape for x in run(*inputs)] == 4 * [inputs[0].shape]


def test_torch_knows_the_operators():
    *maps, routing, heads = make_inputs(n_win=1, region=(1, 2), topk=1)
    leaves = [x.requires_grad_() for x in maps]
    inputs = (*leaves, routing, heads, 0.3)
    operator = torch.ops.mmbiformer.routed_attention_triton
    # test_aot_dispatch_dynamic, the last, is that of the next test.
    checks = 'test_schema', 'test_autograd_registration', 'test_faketensor'
    torch.library.opcheck(operator, inputs, test_utils=checks)
    meta = [x.to('meta') for x in inputs[:4]]
    shapes = [x.shape for x in operator(*meta, *inputs[4:])]
    assert shapes == [x.shape for x in operator(*inputs)]


def test_it_compiles_and_exports():
    *maps, routing, heads = make_inputs(n_win=1, region=(1, 2), topk=1)

    class Attention(torch.nn.Module):
        def forward(self, q, k, v, routing):
            return routed_attention(q, k, v, routing, heads, 0.3, 'triton')

    attend = Attention()
    results = []
    for function in (
        attend,
        torch.compile(attend, backend='aot_eager', fullgraph=True),
    ):
        leaves = [x.detach().requires_grad_() for x in maps]
        out = function(*leaves, routing)
        results.append((out, *torch.autograd.grad(out.sum(), leaves)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    program = torch.export.export(attend, (*maps, routing))
    names = [str(node.target) for node in program.graph.nodes]
    assert 'mmbiformer.routed_attention_triton.default' in names
    assert torch.equal(program.module()(*maps, routing), results[0][0])


def test_second_derivatives_are_refused():
    *maps, routing, heads = make_inputs(n_win=1, region=(1, 2), topk=1)
    leaves = [x.requires_grad_() for x in maps]
    out = routed_attention(*leaves, routing, heads, 0.3, 'triton')
    grads = torch.autograd.grad(out.sum(), leaves, create_graph=True)
    with pytest.raises(NotImplementedError, match='no double backward'):
        sum(grad.square().sum() for grad in grads).backward()


def test_only_what_has_the_maps_size_is_kept():
    *maps, routing, heads = make_inputs(n_win=1, region=(1, 2), topk=1)
    leaves = [x.requires_grad_() for x in maps]
    kept = {}

    def pack(x):
        kept[x.data_ptr()] = x.nbytes
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = routed_attention(*leaves, routing, heads, 0.3, 'triton')
    lse = 4 * out.numel() // out.shape[-1] * heads
    assert sum(kept.values()) == 4 * out.nbytes + routing.nbytes + lse


@pytest.mark.parametrize('precision', ['ieee', 'tf32'])
def test_float32_follows_the_setting_of_torch(monkeypatch, precision):
    matmul = torch.backends.cuda.matmul
    name, value = 'fp32_precision', precision
    if not hasattr(matmul, name):
        name, value = 'allow_tf32', precision == 'tf32'
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        actual = triton._float32_precision()
    finally:
        setattr(matmul, name, before)
    assert actual == {'ieee': 'tf32x3', 'tf32': 'tf32'}[precision]
