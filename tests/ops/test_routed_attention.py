"""Routed attention: by hand, and every backend against the reference."""

import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbiformer.ops import (
    ATTENTION_BACKENDS,
    map_to_regions,
    regions_to_map,
    routed_attention,
)
from mmbiformer.ops.backends import library, native, sdpa, triton

FAST = ('sdpa', 'native')
# The kernels themselves are tested in test_triton.py; without a GPU, the
# backend is sdpa. Triton has no wheels for some platforms.
BACKENDS = [
    name
    for name in ATTENTION_BACKENDS
    if name != 'triton' or triton.is_available()
]


def make_inputs(
    n=2, n_win=3, region=(2, 4), topk=3, num_heads=2, head_dim=32,
    dtype=torch.float64, seed=0,
):  # fmt: skip
    """Return queries, keys, values and a routing without repetition."""
    generator = torch.Generator().manual_seed(seed)
    size = n_win * region[0], n_win * region[1]
    qkv = torch.randn(
        3, n, *size, num_heads * head_dim, generator=generator
    ).to(dtype)
    order = torch.rand(n, n_win**2, n_win**2, generator=generator).argsort(-1)
    return *qkv, order[..., :topk].contiguous(), num_heads


def run(q, k, v, routing, num_heads, backend, scale=0.3):
    """Return the output and the gradients of a sum of its squares."""
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    out = routed_attention(*leaves, routing, num_heads, scale, backend)
    return out, *torch.autograd.grad((out * out).sum(), leaves)


def kept_bytes(function):
    """Return the bytes that a function's graph keeps, each memory once."""
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = function()
    del result
    return sum(kept.values())


def attend_by_hand(q, k, v, routing, num_heads, scale):
    """One query token and one head at a time, over 2 x 2 regions."""
    size = q.shape[1:3]
    q, k, v = (map_to_regions(x, 2) for x in (q, k, v))
    out = torch.zeros_like(q)
    head_dim = q.shape[-1] // num_heads
    for n in range(q.shape[0]):
        for region in range(q.shape[1]):
            keys = torch.cat([k[n, j] for j in routing[n, region]])
            values = torch.cat([v[n, j] for j in routing[n, region]])
            for head in range(num_heads):
                part = slice(head * head_dim, (head + 1) * head_dim)
                for token in range(q.shape[2]):
                    weights = scale * (
                        keys[:, part] @ q[n, region, token, part]
                    )
                    out[n, region, token, part] = (
                        weights.softmax(0) @ values[:, part]
                    )
    return regions_to_map(out, size, 2)


def make_options(n_win=3, topk=4, weighted=True, pooled=True):
    """Return inputs with weights, and keys of fewer tokens than queries."""
    q, _, _, routing, num_heads = make_inputs(n_win=n_win, topk=topk)
    size = (2, 3 * n_win, n_win) if pooled else q.shape[:3]
    generator = torch.Generator().manual_seed(1)
    k, v = torch.randn(2, *size, q.shape[-1], generator=generator).to(q)
    weights = torch.rand(routing.shape, generator=generator).to(q)
    return q, k, v, routing, weights if weighted else None, num_heads


@pytest.mark.parametrize('backend', ['auto', 'sdpa'])
@pytest.mark.parametrize(
    ('weighted', 'pooled'), [(True, False), (False, True), (True, True)]
)
def test_weighted_and_pooled_regions(weighted, pooled, backend, monkeypatch):
    """Also in several steps, with gradients of all inputs."""
    monkeypatch.setattr(sdpa, 'GATHERED_BYTES', 2**15)
    q, k, v, routing, weights, num_heads = make_options(
        weighted=weighted, pooled=pooled
    )
    leaves = [x for x in (q, k, v, weights) if x is not None]
    results = []
    for name in ('reference', backend):
        inputs = [x.clone().requires_grad_() for x in leaves]
        out = routed_attention(
            *inputs[:3], routing, num_heads, 0.3, name, *inputs[3:]
        )
        grads = torch.autograd.grad((out * out).sum(), inputs)
        results.append([out, *grads])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_weights_multiply_keys_and_values():
    """Two regions, of which each attends to both."""
    n_win, scale = 2, 0.3
    q, k, v, _, _ = make_inputs(n=1, n_win=n_win, topk=1, num_heads=1)
    routing = torch.tensor([[[0, 3]] * 4])
    weights = torch.tensor([[[0.25, 0.75]] * 4]).to(q)
    factors = torch.tensor([0.25, 0, 0, 0.75]).to(q).view(1, 4, 1, 1)
    size = tuple(q.shape[1:3])
    factors = regions_to_map(
        factors.expand(-1, -1, size[0] * size[1] // 4, 1), size, n_win
    )
    out = routed_attention(q, k, v, routing, 1, scale, 'auto', weights)
    expected = routed_attention(
        q, factors * k, factors * v, routing, 1, scale, 'reference'
    )
    torch.testing.assert_close(out, expected)


def test_refuses_weights_and_keys_that_do_not_fit():
    q, k, v, routing, weights, num_heads = make_options()
    fixed = routing, num_heads, 0.3
    for unsupported in (weights, None):
        with pytest.raises(RuntimeError, match="'native' supports neither"):
            routed_attention(q, k, v, *fixed, 'native', unsupported)
    with pytest.raises(ValueError, match='shape of routing and the type'):
        routed_attention(q, k, v, *fixed, 'auto', weights[..., :1])
    with pytest.raises(ValueError, match='torch.float32, with routing'):
        routed_attention(q, k, v, *fixed, 'auto', weights.float())
    with pytest.raises(ValueError, match='k and v of one shape'):
        routed_attention(q, k, v[:, :3], *fixed)
    with pytest.raises(ValueError, match='S divides all H and W'):
        routed_attention(q, k[:, :8], v[:, :8], *fixed)


def test_the_compiled_code_is_there():
    """It is optional for users; here, a failed compilation must show."""
    assert native.is_available()


@pytest.mark.parametrize('backend', BACKENDS)
def test_against_attention_by_hand(backend):
    *maps, routing, heads = make_inputs(n_win=2, topk=2)
    out = routed_attention(*maps, routing, heads, 0.3, backend)
    torch.testing.assert_close(out, attend_by_hand(*maps, routing, heads, 0.3))


@pytest.mark.parametrize('backend', FAST)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_backend_equals_the_reference(backend, data):
    n_win = data.draw(st.integers(1, 5), 'n_win')
    head_dims = (16, 32, 48) if backend == 'native' else (1, 6, 32)
    inputs = make_inputs(
        n=data.draw(st.integers(1, 3), 'n'),
        n_win=n_win,
        region=data.draw(st.tuples(*[st.integers(1, 11)] * 2), 'region'),
        topk=data.draw(st.integers(1, n_win**2), 'topk'),
        num_heads=data.draw(st.integers(1, 3), 'num_heads'),
        head_dim=data.draw(st.sampled_from(head_dims), 'head_dim'),
        seed=data.draw(st.integers(0, 99), 'seed'),
    )
    actual = run(*inputs, backend)
    for a, b in zip(actual, run(*inputs, 'reference'), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('backend', FAST)
@pytest.mark.parametrize('layout', ['parts of one map', 'NCHW', 'every other'])
def test_any_layout_in_memory(backend, layout):
    *maps, routing, heads = make_inputs()
    expected = run(*maps, routing, heads, 'reference')
    if layout == 'parts of one map':
        maps = torch.cat(maps, -1).chunk(3, -1)
    elif layout == 'NCHW':
        maps = [x.permute(0, 3, 1, 2).contiguous() for x in maps]
        maps = [x.permute(0, 2, 3, 1) for x in maps]
    else:
        maps = [x.repeat_interleave(2, 2)[:, :, ::2] for x in maps]
    out = routed_attention(*maps, routing, heads, 0.3, backend)
    torch.testing.assert_close(out, expected[0])


@pytest.mark.parametrize(
    'size', [(1, (1, 1)), (1, (1, 5)), (1, (5, 1)), (3, (1, 1)), (1, (9, 40))]
)
def test_small_and_long_maps(size):
    inputs = make_inputs(n=1, n_win=size[0], region=size[1], topk=1)
    actual = run(*inputs, 'native')
    for a, b in zip(actual, run(*inputs, 'reference'), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.half])
def test_as_exact_as_the_reference_in_each_type(dtype):
    inputs = make_inputs(region=(5, 4), topk=5, dtype=dtype)
    exact = run(*(x.double() for x in inputs[:3]), *inputs[3:], 'reference')
    errors = {
        backend: [
            (a.double() - b).abs().max() / b.abs().max()
            for a, b in zip(run(*inputs, backend), exact, strict=True)
        ]
        for backend in ('reference', 'auto', 'sdpa')
    }
    for backend in ('auto', 'sdpa'):
        for error, allowed in zip(
            errors[backend], errors['reference'], strict=True
        ):
            # Rounding differs with the order of sums.
            assert error <= 4 * allowed + torch.finfo(dtype).eps


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.half])
def test_short_types_are_computed_in_float32_without_gradients(dtype):
    """So the result is the exact one, rounded once."""
    *maps, routing, heads = make_inputs(region=(5, 4), topk=5, dtype=dtype)
    double = (x.double() for x in maps)
    exact = routed_attention(*double, routing, heads, 0.3, 'reference')
    with torch.no_grad():
        out = routed_attention(*maps, routing, heads, 0.3)
    assert out.dtype is dtype
    error = (out.double() - exact).abs()
    assert (error <= 0.51 * torch.finfo(dtype).eps * exact.abs() + 1e-6).all()


def test_large_products_do_not_overflow():
    *maps, routing, heads = make_inputs(dtype=torch.float32)
    maps = [300 * x for x in maps]
    out = routed_attention(*maps, routing, heads, 1.0, 'native')
    expected = routed_attention(*maps, routing, heads, 1.0, 'reference')
    assert out.isfinite().all()
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-1)


def test_what_is_not_a_number_stays_so():
    q, k, v, routing, heads = make_inputs(n=1, dtype=torch.float32)
    q[0, 0, 0, 0] = torch.nan
    out = routed_attention(q, k, v, routing, heads, 0.3, 'native')
    assert out[0, 0, 0, :32].isnan().all()
    assert out[0, 0, 1:].isfinite().all()


@pytest.mark.parametrize('backend', FAST)
def test_it_is_deterministic(backend):
    inputs = make_inputs(n=1, region=(6, 7), topk=8, dtype=torch.float32)
    threads = torch.get_num_threads()
    first = run(*inputs, backend)
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        again = run(*inputs, backend)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize('backend', FAST)
def test_nothing_of_topk_times_the_map_is_kept(backend):
    *maps, routing, heads = make_inputs(n_win=4, topk=16, region=(4, 4))
    maps = [x.requires_grad_() for x in maps]
    size = maps[0].nbytes

    def attend():
        return routed_attention(*maps, routing, heads, 0.3, backend)

    assert kept_bytes(attend) < 6 * size
    reference = kept_bytes(
        lambda: routed_attention(*maps, routing, heads, 0.3, 'reference')
    )
    assert reference > 32 * size


def test_chunks_change_nothing(monkeypatch):
    inputs = make_inputs(region=(3, 5))
    expected = run(*inputs, 'sdpa')
    for name in ('GATHERED_BYTES', 'GATHERED_BYTES_IN_CACHE'):
        monkeypatch.setattr(sdpa, name, 1)
    for a, b in zip(run(*inputs, 'sdpa'), expected, strict=True):
        torch.testing.assert_close(a, b)
    calls = []
    attend = sdpa.F.scaled_dot_product_attention
    monkeypatch.setattr(
        sdpa.F,
        'scaled_dot_product_attention',
        lambda q, *others, **kw: calls.append(1) or attend(q, *others, **kw),
    )
    with torch.inference_mode():
        q, k, v, routing, heads = inputs
        out = routed_attention(q, k, v, routing, heads, 0.3, 'sdpa')
    torch.testing.assert_close(out, expected[0])
    # One for each region, of which more than one would exceed the bound.
    assert len(calls) == routing.shape[0] * routing.shape[1]


@pytest.mark.parametrize(
    ('head_dim', 'chosen', 'other'),
    [(32, 'native', 'sdpa'), (20, 'sdpa', 'reference')],
)
def test_auto_chooses_the_compiled_code_where_it_can(head_dim, chosen, other):
    """The results differ by the rounding of the backends."""
    *maps, routing, heads = make_inputs(head_dim=head_dim, dtype=torch.float32)
    out = {
        backend: routed_attention(*maps, routing, heads, 0.3, backend)
        for backend in ('auto', chosen, other)
    }
    assert torch.equal(out['auto'], out[chosen])
    assert not torch.equal(out['auto'], out[other])


def test_the_compiled_code_runs_on_as_many_threads_as_torch(monkeypatch):
    seen = []
    run = native._run
    monkeypatch.setattr(
        native,
        '_run',
        lambda name, arguments: (
            seen.append(arguments.threads) or run(name, arguments)
        ),
    )
    *maps, routing, heads = make_inputs()
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            routed_attention(*maps, routing, heads, 0.3, 'native')
    finally:
        torch.set_num_threads(threads)
    assert seen == [1, 2]


@pytest.mark.parametrize('backend', BACKENDS)
def test_second_derivatives_are_right_or_refused(backend):
    q, k, v, routing, heads = make_inputs(
        n=1, n_win=2, region=(1, 1), topk=2, num_heads=1, head_dim=16
    )
    maps = [x.requires_grad_() for x in (q, k, v)]

    def attend(*maps):
        return routed_attention(*maps, routing, heads, 0.3, backend)

    torch.autograd.gradcheck(attend, maps)
    if backend == 'reference':
        torch.autograd.gradgradcheck(attend, maps)
        return
    with pytest.raises((RuntimeError, NotImplementedError)) as error:
        grads = torch.autograd.grad(
            attend(*maps).square().sum(), maps, create_graph=True
        )
        sum(grad.square().sum() for grad in grads).backward()
    assert 'backward' in str(error.value)


def test_torch_knows_the_operators():
    q, k, v, routing, heads = make_inputs(n=1)
    maps = [x.requires_grad_() for x in (q, k, v)]
    torch.library.opcheck(
        torch.ops.mmbiformer.routed_attention, (*maps, routing, heads, 0.3)
    )


@pytest.mark.parametrize('device', ['meta', 'cpu'])
def test_without_data(device):
    from torch._subclasses import FakeTensor, FakeTensorMode

    with FakeTensorMode():
        q = torch.empty(2, 6, 9, 64, device=device)
        routing = torch.empty(2, 9, 4, dtype=torch.long, device=device)
        out = routed_attention(q, q, q, routing, 2, 0.3)
    assert isinstance(out, FakeTensor)
    assert out.shape == q.shape
    assert out.dtype == q.dtype
    assert out.device.type == device


@pytest.mark.parametrize(
    'change',
    [
        lambda q, k, v, r: (q, k[:, :3], v, r),
        lambda q, k, v, r: (q, k.float(), v, r),
        lambda q, k, v, r: (q, k, v, r[:1]),
        lambda q, k, v, r: (q, k, v, r[:, :8]),
        lambda q, k, v, r: (q, k, v, r.int()),
        lambda q, k, v, r: (*(x[:, :5] for x in (q, k, v)), r),
    ],
)
def test_maps_that_do_not_fit_are_refused(change):
    *inputs, heads = make_inputs()
    with pytest.raises(ValueError, match='S divides all H and W; got q of'):
        routed_attention(*change(*inputs), heads, 0.3)


@pytest.mark.parametrize('num_heads', [0, 3])
def test_heads_that_do_not_divide_the_channels_are_refused(num_heads):
    *maps, routing, _ = make_inputs()
    with pytest.raises(ValueError, match=f'num_heads={num_heads} and 64'):
        routed_attention(*maps, routing, num_heads, 0.3)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="'auto'.*'native'.*backend='fast'"):
        routed_attention(*make_inputs(), 0.3, 'fast')


@pytest.mark.parametrize('wrong', [-1, 9])
@pytest.mark.parametrize('backend', FAST)
def test_a_routing_out_of_the_map_is_refused(backend, wrong):
    *maps, routing, heads = make_inputs(n=1)
    routing[0, 3, 1] = wrong
    with pytest.raises((IndexError, RuntimeError), match='index|from 0 to 8'):
        routed_attention(*maps, routing, heads, 0.3, backend)


def test_the_compiled_code_says_what_it_takes(monkeypatch):
    q, k, v, routing, heads = make_inputs(head_dim=20)
    with pytest.raises(RuntimeError, match='16 channels.*heads of 20'):
        routed_attention(q, k, v, routing, heads, 0.3, 'native')
    monkeypatch.setattr(library, '_LIBRARY', None)
    with pytest.raises(RuntimeError, match='was not compiled'):
        routed_attention(q, k, v, routing, heads, 0.3, 'native')
    out = routed_attention(q, k, v, routing, heads, 0.3, 'auto')
    expected = routed_attention(q, k, v, routing, heads, 0.3, 'reference')
    torch.testing.assert_close(out, expected)


def test_too_large_a_request_for_memory_is_an_error():
    """Before anything is read: the pointers are null."""
    arguments = native._Arguments(
        images=1, height=2**46, width=1, heads=1, head_dim=16, n_win=1,
        topk=1, threads=1,
    )  # fmt: skip
    for name in ('forward_f32', 'backward_f64'):
        with pytest.raises(
            MemoryError,
            match=rf'{name} could not allocate \d{{16}} bytes .* 1 threads '
            rf'\(height={2**46}, width=1, head_dim=16, n_win=1, topk=1\)',
        ):
            native._run(f'routed_attention_{name}', arguments)


def test_a_process_survives_the_lack_of_memory():
    """A map of 256 KiB, and a routing that needs a table of 512 MiB."""
    code = """
        import resource
        import torch
        from mmbiformer.ops import routed_attention

        def attend(topk):
            q = torch.ones(1, 64, 64, 16, requires_grad=True)
            routing = torch.zeros(1, 1, topk, dtype=torch.long)
            return routed_attention(q, q, q, routing, 1, 1.0, 'native')

        attend(1)
        with open('/proc/self/statm') as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        limit = used + 2**28
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            attend(2**14)
        except MemoryError as error:
            print(error)
        print(attend(2).mean().item())
    """
    result = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    message, survived = result.stdout.splitlines()
    assert 'height=64, width=64, head_dim=16, n_win=1, topk=16384' in message
    assert float(survived) == 1


def test_a_call_without_tasks():
    q = torch.rand(0, 4, 4, 16)
    routing = torch.zeros(0, 4, 1, dtype=torch.long)
    assert (
        routed_attention(q, q, q, routing, 1, 1.0, 'native').shape == q.shape
    )
