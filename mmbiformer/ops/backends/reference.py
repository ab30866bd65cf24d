"""Routed attention as the paper writes it; slow, to test the others by."""

import math
from typing import Optional

from torch import Tensor

from ..regions import map_to_regions, regions_to_map


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
    routing_weights: Optional[Tensor] = None,
) -> Tensor:
    """Gather keys and values, then attend (equations 6 and 7)."""
    size, n_win = (q.shape[1], q.shape[2]), math.isqrt(routing.shape[1])
    q, k, v = (map_to_regions(x, n_win) for x in (q, k, v))
    n, regions, tokens, channels = q.shape
    per_region = n, regions, routing.shape[-1], 1, 1
    index = routing.view(per_region).expand(-1, -1, -1, *k.shape[2:])

    def split_heads(x: Tensor) -> Tensor:
        x = x.reshape(n * regions, -1, num_heads, channels // num_heads)
        return x.transpose(1, 2)

    def gather(x: Tensor) -> Tensor:
        x = x.unsqueeze(1).expand(-1, regions, -1, -1, -1)
        gathered = x.gather(2, index)
        if routing_weights is not None:
            gathered = gathered * routing_weights.view(per_region)
        return split_heads(gathered)

    weights = (split_heads(q) * scale) @ gather(k).transpose(-2, -1)
    out = weights.softmax(dim=-1) @ gather(v)
    out = out.transpose(1, 2).reshape(n, regions, tokens, channels)
    return regions_to_map(out, size, n_win)
