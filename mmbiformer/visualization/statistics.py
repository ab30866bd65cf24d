"""Statistics of the routing of a layer."""

import math
from typing import Dict

import torch
from torch import Tensor


def region_usage(routing: Tensor) -> Tensor:
    """Compute how often each region is selected.

    Args:
        routing (Tensor): Routed regions of shape (N, S*S, K), int64.

    Returns:
        Tensor: For each image and region, the fraction of regions that are
        routed to it, of shape (N, S*S); the mean is K / (S*S).
    """
    n, regions, _ = routing.shape
    counts = torch.zeros(n, regions, device=routing.device)
    chosen = routing.flatten(1)
    counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float))
    return counts / regions


def routing_statistics(routing: Tensor) -> Dict[str, float]:
    """Summarize the routing of a layer, averaged over images.

    Args:
        routing (Tensor): Routed regions of shape (N, S*S, K), int64.

    Returns:
        dict[str, float]: All between 0 and 1:

        - **entropy**: Normalized entropy of the selection: 1 if all regions
          are selected equally often, 0 if all routes lead to the same region.
          1 by definition for a single region.
        - **unused**: Fraction of the regions that no region is routed to.
        - **most_used**: Fraction of the regions that are routed to the most
          frequently selected region.
        - **far**: Fraction of the routes that lead outside the 3 x 3
          neighborhood of a region.
    """
    regions = routing.shape[1]
    n_win = math.isqrt(regions)
    usage = region_usage(routing)
    probabilities = usage / usage.sum(1, keepdim=True)
    entropy = torch.special.entr(probabilities).sum(1)
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
