"""Routed attention as the paper writes it; slow, to test the others by."""

import math

from torch import Tensor

from ..regions import map_to_regions, regions_to_map


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
) -> Tensor:
    """Gather keys and values, then attend (equations 6 and 7)."""
    size, n_win = (q.shape[1], q.shape[2]), math.isqrt(routing.shape[1])
    q, k, v = (map_to_regions(x, n_win) for x in (q, k, v))
    n, regions, tokens, channels = q.shape
    topk = routing.shape[-1]
    index = routing.view(n, regions, topk, 1, 1)
    index = index.expand(-1, -1, -1, tokens, channels)

    def split_heads(x: Tensor) -> Tensor:
        x = x.reshape(n * regions, -1, num_heads, channels // num_heads)
        return x.transpose(1, 2)

    def gather(x: Tensor) -> Tensor:
        x = x.unsqueeze(1).expand(-1, regions, -1, -1, -1)
        return split_heads(x.gather(2, index))

    weights = (split_heads(q) * scale) @ gather(k).transpose(-2, -1)
    out = weights.softmax(dim=-1) @ gather(v)
    out = out.transpose(1, 2).reshape(n, regions, tokens, channels)
    return regions_to_map(out, size, n_win)
