"""Routed attention on CPUs by the code of ``csrc/routed_attention.cpp``.

It reads keys and values from the maps and gathers nothing. It is registered
as an operator of torch, so that ``torch.compile`` and ``torch.export`` support
it.
"""

import ctypes
import math
from typing import Any, Tuple

import torch
from torch import Tensor

from . import library
from .library import TYPES, is_available

HEAD_DIM = 16
"""int: Channels of a head must be a multiple of it: a head is read in whole
vectors, and the widest vector registers hold 16 numbers."""


class _Arguments(ctypes.Structure):
    """The struct of the same name in the C++ code, field by field."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                'images',
                'height',
                'width',
                'heads',
                'head_dim',
                'n_win',
                'topk',
                'q_stride',
                'k_stride',
                'v_stride',
                'threads',
            )  # fmt: skip
        ),
        ('scale', ctypes.c_double),
        *(
            (name, ctypes.c_void_p)
            for name in (
                'q',
                'k',
                'v',
                'routing',
                'out',
                'softmax_stats',
                'grad_out',
                'grad_q',
                'grad_k',
                'grad_v',
            )  # fmt: skip
        ),
    ]


def supports(q: Tensor, num_heads: int) -> bool:
    """Return whether the compiled code is available and supports an input.

    Args:
        q (Tensor): Map of queries, of shape (N, H, W, C).
        num_heads (int): Attention heads.

    Returns:
        bool: Whether the map is float32 or float64 on a CPU, with a multiple
        of 16 channels in each head.
    """
    return q.dtype in TYPES and _supports_layout(q, num_heads)


def supports_in_float32(q: Tensor, num_heads: int) -> bool:
    """Return whether an input is supported if it is converted to float32.

    Only without gradients: copies would be kept for the backward pass.

    Args:
        q (Tensor): Map of queries, of shape (N, H, W, C).
        num_heads (int): Attention heads.

    Returns:
        bool: Whether the map is bfloat16 or float16 on a CPU, with a multiple
        of 16 channels in each head.
    """
    return (
        q.dtype in (torch.bfloat16, torch.float16)
        and not torch.is_grad_enabled()
        and _supports_layout(q, num_heads)
    )


def _supports_layout(q: Tensor, num_heads: int) -> bool:
    """Return whether the compiled code is there for this device and heads."""
    return (
        is_available()
        and q.device.type == 'cpu'
        and q.shape[-1] // num_heads % HEAD_DIM == 0
    )


def attend_in_float32(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
) -> Tensor:
    """Compute routed attention of shorter types by the compiled code."""
    out = attend(q.float(), k.float(), v.float(), routing, num_heads, scale)
    return out.to(q.dtype)


def _with_token_stride(x: Tensor) -> Tuple[Tensor, int]:
    """Return a map with one stride from token to token, and that stride.

    The map is copied where its layout has no such stride.
    """
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
    **others: Tensor,
) -> None:
    """Call a function of the library.

    Args:
        name (str): ``'forward'`` or ``'backward'``.
        q (Tensor): Map of queries, of shape (N, H, W, C).
        k (Tensor): Map of keys.
        v (Tensor): Map of values.
        routing (Tensor): Routed regions, of shape (N, S*S, K).
        num_heads (int): Attention heads.
        scale (float): Factor on the products of queries and keys.
        **others (Tensor): The other tensors in :class:`_Arguments`, which are
            contiguous.

    Raises:
        IndexError: If ``routing`` names a region that does not exist.
        MemoryError: If there is no memory for the threads' intermediate
            results.
    """
    _check_routing(routing)
    _call_unchecked(name, q, k, v, routing, num_heads, scale, **others)


def _check_routing(routing: Tensor) -> None:
    """Raise an IndexError for regions that do not exist."""
    # The library does not check what it reads.
    if routing.numel() and (
        routing.min() < 0 or routing.max() >= routing.shape[1]
    ):
        raise IndexError(
            f'routing must be from 0 to {routing.shape[1] - 1}, got '
            f'{routing.min()} to {routing.max()}'
        )


def _call_unchecked(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
    **others: Tensor,
) -> None:
    """Call a function of the library, which does not check ``routing``."""
    n, height, width, dim = q.shape
    n_win, topk = math.isqrt(routing.shape[1]), routing.shape[2]
    (q, q_stride), (k, k_stride), (v, v_stride) = map(
        _with_token_stride, (q, k, v)
    )
    # Held by a name, so that a copy lives until the call has ended.
    routing = routing.contiguous()
    threads = torch.get_num_threads()
    arguments = _Arguments(
        n, height, width, num_heads, dim // num_heads, n_win, topk,
        q_stride, k_stride, v_stride, threads, scale,
        *(x.data_ptr() for x in (q, k, v, routing)),
        **{key: x.data_ptr() for key, x in others.items()},
    )  # fmt: skip
    _run(f'routed_attention_{name}_{TYPES[q.dtype]}', arguments)


def _run(name: str, arguments: _Arguments) -> None:
    """Run an exported function, and raise what it reports."""
    missing_bytes = library.call(name, arguments)
    if missing_bytes:
        sizes = ', '.join(
            f'{key}={getattr(arguments, key)}'
            for key in ('height', 'width', 'head_dim', 'n_win', 'topk')
        )
        raise MemoryError(
            f'{name} could not allocate {missing_bytes} bytes for the '
            f'intermediate results of {arguments.threads} threads '
            f'({sizes}); torch.set_num_threads and a lower topk reduce them'
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
    """Return the attended map, and the maxima and sums of the softmaxes."""
    out = q.new_empty(q.shape)
    softmax_stats = q.new_empty(*q.shape[:3], num_heads, 2)
    _call(
        'forward', q, k, v, routing, num_heads, scale,
        out=out, softmax_stats=softmax_stats,
    )  # fmt: skip
    return out, softmax_stats


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
    softmax_stats: Tensor,
    grad_out: Tensor,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values."""
    out, softmax_stats, grad_out = (
        x.contiguous() for x in (out, softmax_stats, grad_out)
    )
    grad_q = q.new_empty(q.shape)
    grad_k, grad_v = q.new_zeros(q.shape), q.new_zeros(q.shape)
    _call(
        'backward', q, k, v, routing, num_heads, scale,
        out=out, softmax_stats=softmax_stats, grad_out=grad_out,
        grad_q=grad_q, grad_k=grad_k, grad_v=grad_v,
    )  # fmt: skip
    return grad_q, grad_k, grad_v


@_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
) -> Tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(*q.shape[:3], num_heads, 2)


@_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
    out: Tensor,
    softmax_stats: Tensor,
    grad_out: Tensor,
) -> Tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape)


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    """Save inputs and outputs; all of them have the size of the map."""
    *tensors, ctx.num_heads, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad_out: Tensor, _: None) -> tuple:
    """Return the gradients with respect to the arguments of ``_forward``."""
    *inputs, out, softmax_stats = ctx.saved_tensors
    grads = _backward(
        *inputs, ctx.num_heads, ctx.scale, out, softmax_stats, grad_out
    )
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
    """Compute routed attention by the compiled code."""
    return _forward(q, k, v, routing, num_heads, scale)[0]


def attend_into(
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
) -> None:
    """Compute routed attention without gradients, into memory that is given.

    Args:
        out (Tensor): Contiguous map that is overwritten, of shape
            (N, H, W, C).
        q (Tensor): Map of queries, of the same shape.
        k (Tensor): Map of keys.
        v (Tensor): Map of values.
        routing (Tensor): Routed regions, of shape (N, S*S, K), which must
            exist.
        num_heads (int): Attention heads.
        scale (float): Factor on the products of queries and keys.
    """
    _call_unchecked('forward', q, k, v, routing, num_heads, scale, out=out)
