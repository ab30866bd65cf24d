"""Token-to-token attention in routed regions (equations 6 and 7)."""

import math
from typing import Callable, Dict, Tuple

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


def routed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
    backend: str = 'auto',
) -> Tensor:
    """Let the queries of every region attend to its routed regions.

    Args:
        q (Tensor): Map of queries, of shape (N, H, W, C), cut into S x S
            regions; S divides H and W.
        k (Tensor): Map of keys, of the same shape.
        v (Tensor): Map of values, of the same shape.
        routing (Tensor): int64 indices of the routed regions, of shape
            (N, S*S, K).
        num_heads (int): Attention heads; must divide C.
        scale (float): Factor on the products of queries and keys.
        backend (str): One of

            - ``'auto'``: ``'native'`` where it supports the input, else
              ``'sdpa'``;
            - ``'triton'``: kernels for NVIDIA GPUs of compute capability 8.0
              or newer, for float16, bfloat16 and float32 and heads of 16 to
              64 channels, a multiple of 8; for all else it is ``'sdpa'``. A
              wrong index in ``routing`` gives NaN, not an error;
            - ``'native'``: compiled code for CPUs, for float32 and float64
              and heads of a multiple of 16 channels;
            - ``'sdpa'``: torch's operators only, for every device and type;
            - ``'reference'``: the paper's equations written out, slow; the
              other backends are tested against it.

            Default: ``'auto'``.

    Returns:
        Tensor: Map of attended values, of shape (N, H, W, C).

    Raises:
        ConfigError: If ``backend`` is ``'triton'`` and Triton is not
            installed.
        ValueError: If the maps differ in shape or type, or do not fit the
            routing; if ``num_heads`` does not divide C; or if ``backend`` is
            none of the above.
        RuntimeError: If ``backend`` is ``'native'`` and does not support the
            input, or was not compiled.
    """
    _check_inputs(q, k, v, routing, num_heads, backend)
    if backend == 'auto':
        if native.supports(q, num_heads):
            backend = 'native'
        elif triton.AUTO_ON_CUDA and q.is_cuda and triton.is_available():
            backend = 'triton'
        else:
            backend = 'sdpa'
    elif backend == 'native':
        _check_native(q, num_heads)
    elif backend == 'triton' and not triton.is_available():
        raise ConfigError(
            "backend='triton' needs Triton, which is not installed; torch's "
            "builds for CUDA contain it. backend='auto' works without it"
        )
    return _BACKENDS[backend](q, k, v, routing, num_heads, scale)


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
        not q.shape == k.shape == v.shape
        or not q.dtype == k.dtype == v.dtype
        or routing.shape[:2] != (q.shape[0], n_win**2)
        or routing.dtype != torch.int64
        or q.shape[1] % n_win
        or q.shape[2] % n_win
    ):
        raise ValueError(
            'q, k and v must be maps (N, H, W, C) of one shape and type, and '
            'routing int64 of shape (N, S*S, K), where S divides H and W; got '
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
