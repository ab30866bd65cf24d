"""Routed attention on CPUs by the code of ``csrc/routed_attention.cpp``.

It reads regions where they lie in the map and gathers nothing. Torch sees it
as an operator of its own, so that ``torch.compile`` and ``torch.export`` take
it as it is.
"""

import contextlib
import ctypes
import math
import sys
from pathlib import Path
from typing import Optional, Tuple

import torch
from torch import Tensor

_TYPES = {torch.float32: 'f32', torch.float64: 'f64'}
HEAD_DIM = 16
"""int: The widest vectors hold as many numbers, and a head whole vectors."""


def _load() -> Optional[ctypes.CDLL]:
    """Load the library built for this CPU; None where there is none."""
    capability = torch.backends.cpu.get_cpu_capability().lower()
    here = Path(__file__).parent
    # One OpenMP for torch and us: two would fight for the cores. The library
    # names none, and takes the one that is loaded for all.
    runtimes = [*Path(torch.__file__).parent.glob('lib/libgomp*.so*')]
    for runtime in [*runtimes, 'libgomp.so.1']:
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
            break
    suffix = {'win32': '.dll', 'darwin': '.dylib'}.get(sys.platform, '.so')
    for name in (f'_native_{capability}', '_native'):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(str(here / f'{name}{suffix}'))
    return None


_LIBRARY = _load()


def is_available() -> bool:
    """Tell whether the compiled code is there."""
    return _LIBRARY is not None


def takes(q: Tensor, num_heads: int) -> bool:
    """Tell whether the compiled code is there and takes such queries.

    Args:
        q (Tensor): Map of queries, of shape (N, H, W, C).
        num_heads (int): Attention heads.

    Returns:
        bool: Whether it is float32 or float64 on a CPU, with a width of heads
        that is a multiple of 16.
    """
    return (
        is_available()
        and q.device.type == 'cpu'
        and q.dtype in _TYPES
        and q.shape[-1] // num_heads % HEAD_DIM == 0
    )


def _by_tokens(x: Tensor) -> Tuple[Tensor, int]:
    """Return a map whose tokens lie at equal distances, and the distance."""
    n, height, width, dim = x.shape
    batch, row, token, channel = x.stride()
    if width == 1:
        token = row if height > 1 else batch if n > 1 else dim
    if (
        channel == 1
        and (height == 1 or row == width * token)
        and (n == 1 or batch == height * width * token)
    ):
        return x, token
    return x.contiguous(), dim


def _call(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
    *others: Tensor,
) -> None:
    """Call a function of the library (the end of the C++ file)."""
    # The library reads where it is told to.
    if routing.numel() and (
        routing.min() < 0 or routing.max() >= routing.shape[1]
    ):
        raise IndexError(
            f'routing must be from 0 to {routing.shape[1] - 1}, got '
            f'{routing.min()} to {routing.max()}'
        )
    n, height, width, dim = q.shape
    maps, strides = zip(*map(_by_tokens, (q, k, v)), strict=True)
    shape = (n, height, width, num_heads, dim // num_heads)
    shape += (math.isqrt(routing.shape[1]), routing.shape[2])
    others = [x.contiguous() for x in others]
    routing = routing.contiguous()

    def pointer(x: Tensor) -> ctypes.c_void_p:
        return ctypes.c_void_p(x.data_ptr())

    getattr(_LIBRARY, f'{name}_{_TYPES[q.dtype]}')(
        (ctypes.c_int64 * 10)(*shape, *strides),
        *map(pointer, maps),
        pointer(routing),
        ctypes.c_double(scale),
        *map(pointer, others),
        ctypes.c_int(torch.get_num_threads()),
    )


@torch.library.custom_op(
    'mmbiformer::routed_attention', mutates_args=(), device_types='cpu'
)
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
) -> Tuple[Tensor, Tensor]:
    """Return the attended map, and what normalized the softmaxes."""
    out = q.new_empty(q.shape)
    softmax = q.new_empty(*q.shape[:3], num_heads, 2)
    _call('forward', q, k, v, routing, num_heads, scale, out, softmax)
    return out, softmax


@torch.library.custom_op(
    'mmbiformer::routed_attention_backward',
    mutates_args=(),
    device_types='cpu',
)
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
    out: Tensor,
    softmax: Tensor,
    grad: Tensor,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values."""
    grad_q = q.new_empty(q.shape)
    grad_k, grad_v = q.new_zeros(q.shape), q.new_zeros(q.shape)
    _call(
        'backward', q, k, v, routing, num_heads, scale,
        out, softmax, grad, grad_q, grad_k, grad_v,
    )  # fmt: skip
    return grad_q, grad_k, grad_v


@_forward.register_fake
def _(q, k, v, routing, num_heads, scale):
    softmax = q.new_empty(*q.shape[:3], num_heads, 2)
    return q.new_empty(q.shape), softmax


@_backward.register_fake
def _(q, k, v, routing, num_heads, scale, out, softmax, grad):
    return tuple(q.new_empty(q.shape) for _ in range(3))


def _setup_context(ctx, inputs: tuple, output: tuple) -> None:
    """Keep what the backward pass needs; nothing of topk times the map."""
    *tensors, ctx.num_heads, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, grad: Tensor, _: None) -> tuple:
    """Gradients with respect to what ``_forward`` takes."""
    *inputs, out, softmax = ctx.saved_tensors
    grads = _backward(*inputs, ctx.num_heads, ctx.scale, out, softmax, grad)
    return *grads, None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
) -> Tensor:
    """Attend, in one pass over the map."""
    return _forward(q, k, v, routing, num_heads, scale)[0]
