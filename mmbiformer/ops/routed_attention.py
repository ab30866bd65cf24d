"""Token-to-token attention in routed regions (equations 6 and 7)."""

import math
from typing import Callable, Dict, Optional, Tuple

import torch
from torch import Tensor

from mmbiformer.utils.errors import ConfigError

from .backends import native, reference, sdpa, triton

_BACKENDS: Dict[str, Callable[..., Tensor]] = {
    'reference': reference.attend,
    'sdpa': sdpa.attend,
    'native': native.attend,
    'triton': triton.attend,
}

ATTENTION_BACKENDS: Tuple[str, ...] = ('auto', *_BACKENDS)
"""tuple[str]: Values of ``backend`` in :func:`routed_attention`."""
FLEXIBLE_BACKENDS: Tuple[str, ...] = tuple(
    name for name in ATTENTION_BACKENDS if name != 'native'
)
"""tuple[str]: Those that support ``routing_weights``, and keys and values of
another size than the queries."""


def routed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
    backend: str = 'auto',
    routing_weights: Optional[Tensor] = None,
) -> Tensor:
    """Let the queries of every region attend to its routed regions.

    Args:
        q (Tensor): Map of queries, of shape (N, H, W, C), cut into S x S
            regions; S divides H and W.
        k (Tensor): Map of keys, of the same shape, or with regions of another
            size (N, S*h, S*w, C), see :func:`mmbiformer.ops.pool_regions`.
        v (Tensor): Map of values, of the shape of ``k``.
        routing (Tensor): int64 indices of the routed regions, of shape
            (N, S*S, K).
        num_heads (int): Attention heads; must divide C.
        scale (float): Factor on the products of queries and keys.
        backend (str): One of

            - ``'auto'``: ``'native'`` where it supports the input, also
              for bfloat16 and float16 on a CPU without gradients, computed in
              float32; else ``'sdpa'``;
            - ``'triton'``: kernels for NVIDIA GPUs of compute capability 8.0
              or newer, for float16, bfloat16 and float32 and heads of 16 to
              64 channels, a multiple of 8; for all else it is ``'sdpa'``. A
              wrong index in ``routing`` gives NaN, not an error;
            - ``'native'``: compiled code for CPUs, for float32 and float64
              and heads of a multiple of 16 channels, without pooled keys and
              without ``routing_weights``;
            - ``'sdpa'``: torch's operators only, for every device and type;
            - ``'reference'``: the paper's equations written out, slow; the
              other backends are tested against it.

            Default: ``'auto'``.
        routing_weights (Tensor, optional): Factors on the keys and values of
            the routed regions (soft routing), of the shape of ``routing``.
            Default: None, which means 1.

    Returns:
        Tensor: Map of attended values, of shape (N, H, W, C).

    Raises:
        ConfigError: If ``backend`` is ``'triton'`` and Triton is not
            installed.
        ValueError: If the maps or the weights do not fit in shape or type; if
            ``num_heads`` does not divide C; or if ``backend`` is none of the
            above.
        RuntimeError: If ``backend`` is ``'native'`` and does not support the
            input, or was not compiled.
    """
    _check_inputs(q, k, v, routing, num_heads, backend)
    if backend == 'triton' and not triton.is_available():
        raise ConfigError(
            "backend='triton' needs Triton, which is not installed; torch's "
            "builds for CUDA contain it. backend='auto' works without it"
        )
    if routing_weights is not None or k.shape != q.shape:
        return _attend_with_options(
            q, k, v, routing, num_heads, scale, backend, routing_weights
        )
    if backend == 'auto':
        if native.supports(q, num_heads):
            backend = 'native'
        elif native.supports_in_float32(q, num_heads):
            return native.attend_in_float32(q, k, v, routing, num_heads, scale)
        elif triton.AUTO_ON_CUDA and q.is_cuda and triton.is_available():
            backend = 'triton'
        else:
            backend = 'sdpa'
    elif backend == 'native':
        _check_native(q, num_heads)
    return _BACKENDS[backend](q, k, v, routing, num_heads, scale)


def _attend_with_options(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
    backend: str,
    routing_weights: Optional[Tensor],
) -> Tensor:
    """Attend to weighted or pooled regions, which two backends can do."""
    if routing_weights is not None and (
        routing_weights.shape != routing.shape
        or routing_weights.dtype != q.dtype
    ):
        raise ValueError(
            'routing_weights must have the shape of routing and the type of '
            f'q, got {tuple(routing_weights.shape)} and '
            f'{routing_weights.dtype}, with routing of '
            f'{tuple(routing.shape)} and q of {q.dtype}'
        )
    if backend not in FLEXIBLE_BACKENDS:
        raise RuntimeError(
            f'backend={backend!r} supports neither routing_weights nor keys '
            f'and values of another size than the queries; '
            f'{FLEXIBLE_BACKENDS} do'
        )
    attend = reference.attend if backend == 'reference' else sdpa.attend
    return attend(q, k, v, routing, num_heads, scale, routing_weights)


def _check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    backend: str,
) -> None:
    """Raise a ValueError for inputs that no backend supports."""
    n_win = math.isqrt(routing.shape[1])
    if (
        k.shape != v.shape
        or q.shape[0] != k.shape[0]
        or q.shape[-1] != k.shape[-1]
        or not q.dtype == k.dtype == v.dtype
        or routing.shape[:2] != (q.shape[0], n_win**2)
        or routing.dtype != torch.int64
        or q.shape[1] % n_win
        or q.shape[2] % n_win
        or k.shape[1] % n_win
        or k.shape[2] % n_win
    ):
        raise ValueError(
            'q, k and v must be maps (N, H, W, C) of one type, k and v of one '
            'shape, and routing int64 of shape (N, S*S, K), where S divides '
            'all H and W; got '
            + ', '.join(
                f'{name} of {tuple(x.shape)} and {x.dtype}'
                for name, x in zip(
                    ('q', 'k', 'v', 'routing'), (q, k, v, routing), strict=True
                )
            )
        )
    if num_heads < 1 or q.shape[-1] % num_heads:
        raise ValueError(
            'num_heads must divide the channels of q, got '
            f'num_heads={num_heads} and {q.shape[-1]} channels'
        )
    if backend not in ATTENTION_BACKENDS:
        raise ValueError(
            f'backend must be one of {ATTENTION_BACKENDS}, got '
            f'backend={backend!r}'
        )


def _check_native(q: Tensor, num_heads: int) -> None:
    """Raise a RuntimeError where the compiled code cannot be used."""
    if not native.is_available():
        raise RuntimeError(
            "backend='native' was not compiled when mmbiformer was "
            "installed, or not for this machine; backend='auto' works "
            'without it'
        )
    if not native.supports(q, num_heads):
        raise RuntimeError(
            "backend='native' needs float32 or float64 on a CPU and heads of "
            f'a multiple of {native.HEAD_DIM} channels, got {q.dtype} on '
            f'{q.device} and heads of {q.shape[-1] // num_heads} channels'
        )
