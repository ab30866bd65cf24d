"""Token-to-token attention in routed regions (equations 6 and 7)."""

import math
from typing import Callable, Dict

import torch
import torch.nn.functional as F
from torch import Tensor

from .regions import map_to_regions, regions_to_map


def _gather_regions(x: Tensor, routing: Tensor) -> Tensor:
    """Gather the routed regions of every region.

    Args:
        x (Tensor): Regions of shape (N, R, T, C).
        routing (Tensor): Region indices of shape (N, R, K).

    Returns:
        Tensor: Tokens of shape (N * R, K * T, C).
    """
    n, regions, tokens, channels = x.shape
    offset = torch.arange(0, n * regions, regions, device=x.device)
    index = (routing + offset.view(-1, 1, 1)).flatten()
    # Whole regions are contiguous in memory: one copy each.
    gathered = x.reshape(n * regions, tokens * channels).index_select(0, index)
    return gathered.view(n * regions, -1, channels)


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Turn (B, T, C) into (B, heads, T, C / heads)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
) -> Tensor:
    """Gather, multiply, softmax, multiply: the paper's text, line by line."""
    size, n_win = q.shape[1:3], math.isqrt(routing.shape[1])
    q, k, v = (map_to_regions(x, n_win) for x in (q, k, v))
    n, regions, tokens, channels = q.shape
    topk = routing.shape[-1]
    index = routing.view(n, regions, topk, 1, 1)
    index = index.expand(-1, -1, -1, tokens, channels)

    def gather(x: Tensor) -> Tensor:
        x = x.unsqueeze(1).expand(-1, regions, -1, -1, -1)
        x = x.gather(2, index).view(n * regions, topk * tokens, channels)
        return _split_heads(x, num_heads)

    q = _split_heads(q.reshape(n * regions, tokens, channels), num_heads)
    weights = ((q * scale) @ gather(k).transpose(-2, -1)).softmax(dim=-1)
    out = weights @ gather(v)
    out = out.transpose(1, 2).reshape(n, regions, tokens, channels)
    return regions_to_map(out, size, n_win)


def _sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
) -> Tensor:
    """Whole regions by ``index_select``, then torch's fused attention."""
    size, n_win = q.shape[1:3], math.isqrt(routing.shape[1])
    q, k, v = (map_to_regions(x, n_win) for x in (q, k, v))
    shape = q.shape
    out = F.scaled_dot_product_attention(
        _split_heads(q.flatten(0, 1), num_heads),
        _split_heads(_gather_regions(k, routing), num_heads),
        _split_heads(_gather_regions(v, routing), num_heads),
        scale=scale,
    )
    return regions_to_map(out.transpose(1, 2).reshape(shape), size, n_win)


_BACKENDS: Dict[str, Callable[..., Tensor]] = {
    'auto': _sdpa,
    'reference': _reference,
}

ATTENTION_BACKENDS = tuple(_BACKENDS)
"""tuple[str]: What ``backend`` of :func:`routed_attention` may be."""


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
        backend (str): ``'reference'``, the plain algorithm that judges every
            other, or ``'auto'``, the fast one. Default: ``'auto'``.

    Returns:
        Tensor: Map of attended values, of shape (N, H, W, C).
    """
    return _BACKENDS[backend](q, k, v, routing, num_heads, scale)
