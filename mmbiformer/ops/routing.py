"""Region-to-region routing (Section 3.2 of the paper, equations 3 to 5)."""

from typing import Tuple

import torch.nn.functional as F
from torch import Tensor


def region_means(x: Tensor, n_win: int) -> Tensor:
    """Compute the mean over the tokens of each region (equation 3).

    Args:
        x (Tensor): Map of shape (N, H, W, C), where S divides H and W.
        n_win (int): Regions per side, S.

    Returns:
        Tensor: Region descriptors of shape (N, S*S, C).
    """
    region = x.shape[1] // n_win, x.shape[2] // n_win
    return F.avg_pool2d(x.permute(0, 3, 1, 2), region).flatten(2).mT


def route(
    queries: Tensor, keys: Tensor, topk: int, scale: float
) -> Tuple[Tensor, Tensor]:
    """Choose the regions that each region attends to (equations 4 and 5).

    The affinity of two regions is the scaled product of the mean query of one
    and the mean key of the other. The choice has no gradients, the affinities
    have.

    Args:
        queries (Tensor): Mean queries of the regions, of shape (N, S*S, C).
        keys (Tensor): Their mean keys, of the same shape.
        topk (int): Regions to choose, between 1 and S*S.
        scale (float): Factor on the affinities.

    Returns:
        tuple[Tensor, Tensor]: The indices of the routed regions (int64), in
        descending order of affinity, and their affinities, both of shape
        (N, S*S, topk).
    """
    affinity = (queries * scale) @ keys.transpose(-2, -1)
    affinity, routing = affinity.topk(topk, dim=-1)
    return routing, affinity
