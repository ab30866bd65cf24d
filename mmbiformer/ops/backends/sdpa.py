"""Routed attention by torch's fused attention, for any device and type."""

import math
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..regions import map_to_regions, regions_to_map

GATHERED_BYTES = 2**28
"""int: Upper bound on the keys and values gathered at a time, in bytes."""
GATHERED_BYTES_IN_CACHE = 2**22
"""int: The same on a CPU without gradients, where staying in the cache saves
more than fewer calls do."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
    routing_weights: Optional[Tensor] = None,
) -> Tensor:
    """Gather whole regions, as many at a time as the bound allows.

    With gradients, keys and values are gathered again in the backward pass,
    so that no tensor of topk times the map's size is kept.
    """
    size, n_win = (q.shape[1], q.shape[2]), math.isqrt(routing.shape[1])
    q, k, v = (map_to_regions(x, n_win) for x in (q, k, v))
    n, regions, tokens, channels = q.shape
    # Regions of all images are numbered through.
    offset = torch.arange(0, n * regions, regions, device=q.device)
    index = (routing + offset.view(-1, 1, 1)).flatten(0, 1)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    weights = routing_weights
    if weights is not None:
        weights = weights.flatten(0, 1)

    def attend_some(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        index: Tensor,
        weights: Optional[Tensor],
    ) -> Tensor:
        def split_heads(x: Tensor) -> Tensor:
            x = x.reshape(len(q), -1, num_heads, channels // num_heads)
            return x.transpose(1, 2)

        def gather(x: Tensor) -> Tensor:
            # A region is contiguous in memory, and copied at once.
            gathered = x.index_select(0, index.flatten())
            if weights is not None:
                gathered = gathered * weights.reshape(-1, 1, 1)
            return split_heads(gathered)

        out = F.scaled_dot_product_attention(
            split_heads(q), gather(k), gather(v), scale=scale
        )
        return out.transpose(1, 2).reshape(q.shape)

    needs_grad = torch.is_grad_enabled() and (
        q.requires_grad
        or k.requires_grad
        or v.requires_grad
        or (weights is not None and weights.requires_grad)
    )
    in_cache = q.device.type == 'cpu' and not (
        needs_grad or torch.compiler.is_compiling()
    )
    budget = GATHERED_BYTES_IN_CACHE if in_cache else GATHERED_BYTES
    region_bytes = 2 * k.shape[1] * channels * q.element_size()
    step = max(1, budget // (index.shape[1] * region_bytes))
    outs = []
    for start in range(0, n * regions, step):
        part = slice(start, start + step)
        some_weights = None if weights is None else weights[part]
        some = q[part], k, v, index[part], some_weights
        if needs_grad:
            out = checkpoint(
                attend_some,
                *some,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        else:
            out = attend_some(*some)
        outs.append(out)
    out = outs[0] if len(outs) == 1 else torch.cat(outs)
    out = out.view(n, regions, tokens, channels)
    return regions_to_map(out, size, n_win)
