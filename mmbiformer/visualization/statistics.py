"""Figures that tell how a layer routes."""

import math
from typing import Dict

import torch
from torch import Tensor


def region_usage(routing: Tensor) -> Tensor:
    """Count how often each region is chosen.

    Args:
        routing (Tensor): Routed regions of shape (N, S*S, K), int64.

    Returns:
        Tensor: For each image and region the share of regions that are
        routed to it, of shape (N, S*S); their mean is K / (S*S).
    """
    n, regions, _ = routing.shape
    counts = torch.zeros(n, regions, device=routing.device)
    chosen = routing.flatten(1)
    counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float))
    return counts / regions


def routing_statistics(routing: Tensor) -> Dict[str, float]:
    """Sum up how a layer routes, as means over images.

    Args:
        routing (Tensor): Routed regions of shape (N, S*S, K), int64.

    Returns:
        dict[str, float]: All between 0 and 1:

        - **entropy**: That of the distribution of the routes over the
          regions, in units of its maximum: 1 where all regions are chosen
          equally often, 0 where all routes lead to one. 1 by definition
          where there is a single region.
        - **unused**: Share of the regions that no region is routed to.
        - **most_used**: Share of the regions that are routed to the region
          which is chosen most often.
        - **far**: Share of the routes that lead outside the neighbourhood,
          which is the region itself and the eight around it.
    """
    regions = routing.shape[1]
    n_win = math.isqrt(regions)
    usage = region_usage(routing)
    p = usage / usage.sum(1, keepdim=True)
    entropy = torch.special.entr(p).sum(1)
    maximum = math.log(regions)
    own = torch.arange(regions, device=routing.device).view(-1, 1)
    rows = (routing // n_win - own // n_win).abs()
    columns = (routing % n_win - own % n_win).abs()
    far = torch.maximum(rows, columns) > 1
    return {
        'entropy': entropy.mean().item() / maximum if maximum else 1.0,
        'unused': (usage == 0).float().mean().item(),
        'most_used': usage.max(1).values.mean().item(),
        'far': far.float().mean().item(),
    }
