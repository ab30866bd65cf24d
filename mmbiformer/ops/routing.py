"""Region-to-region routing (Section 3.2 of the paper, equations 3 to 5)."""

from typing import Tuple

import torch
from torch import Tensor


@torch.no_grad()
def route(
    q: Tensor, k: Tensor, topk: int, scale: float
) -> Tuple[Tensor, Tensor]:
    """Choose the regions that each region attends to.

    A region is described by the mean of its queries and the mean of its keys;
    the affinity of two regions is the scaled product of these. The choice has
    no gradient, as in the authors' default.

    Args:
        q (Tensor): Queries of shape (N, S*S, T, C).
        k (Tensor): Keys of the same shape.
        topk (int): Regions to choose, between 1 and S*S.
        scale (float): Factor on the affinities.

    Returns:
        tuple[Tensor, Tensor]: The routed regions as int64 indices, by falling
        affinity, and their affinities, both of shape (N, S*S, topk).
    """
    affinity = (q.mean(2) * scale) @ k.mean(2).transpose(-2, -1)
    affinity, routing = affinity.topk(topk, dim=-1)
    return routing, affinity
