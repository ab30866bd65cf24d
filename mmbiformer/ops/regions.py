"""Splitting a map into regions and back (Section 3.2 of the paper)."""

from typing import Callable, Tuple

import torch.nn.functional as F
from torch import Tensor


def pad_to_regions(x: Tensor, n_win: int) -> Tensor:
    """Zero-pad a map on the right and bottom to a multiple of S.

    Args:
        x (Tensor): Map of shape (N, H, W, C).
        n_win (int): Regions per side, S.

    Returns:
        Tensor: Map of shape (N, Hp, Wp, C), where S divides Hp and Wp; ``x``
        itself if S divides H and W.
    """
    height, width = x.shape[1:3]
    bottom, right = -height % n_win, -width % n_win
    if bottom or right:
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
    return x


def map_to_regions(x: Tensor, n_win: int) -> Tensor:
    """Split a map into S x S regions, row by row.

    Args:
        x (Tensor): Map of shape (N, H, W, C), where S divides H and W.
        n_win (int): Regions per side, S.

    Returns:
        Tensor: Regions of shape (N, S*S, T, C), each with T = (H/S) * (W/S)
        tokens, row by row as well.
    """
    n, height, width, channels = x.shape
    x = x.reshape(n, n_win, height // n_win, n_win, width // n_win, channels)
    return x.transpose(2, 3).reshape(n, n_win * n_win, -1, channels)


def regions_to_map(x: Tensor, size: Tuple[int, int], n_win: int) -> Tensor:
    """Join regions to a map; the inverse of :func:`map_to_regions`.

    Args:
        x (Tensor): Regions of shape (N, S*S, T, C).
        size (tuple[int, int]): Height and width of the map, in tokens.
        n_win (int): Regions per side, S.

    Returns:
        Tensor: Map of shape (N, H, W, C).
    """
    height, width = size
    n, channels = x.shape[0], x.shape[-1]
    x = x.reshape(n, n_win, n_win, height // n_win, width // n_win, channels)
    return x.transpose(2, 3).reshape(n, height, width, channels)


def pool_regions(
    x: Tensor, n_win: int, pool: Callable[[Tensor], Tensor]
) -> Tensor:
    """Pool each region of a map by itself.

    Args:
        x (Tensor): Map of shape (N, H, W, C), where S divides H and W.
        n_win (int): Regions per side, S.
        pool (Callable): Pooling of the regions as images of shape
            (N*S*S, C, H/S, W/S), to (N*S*S, C, h, w).

    Returns:
        Tensor: Map of the pooled regions, of shape (N, S*h, S*w, C).
    """
    n, height, width, channels = x.shape
    regions = map_to_regions(x, n_win).reshape(
        n * n_win**2, height // n_win, width // n_win, channels
    )
    pooled = pool(regions.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    size = n_win * pooled.shape[1], n_win * pooled.shape[2]
    pooled = pooled.reshape(n, n_win**2, -1, channels)
    return regions_to_map(pooled, size, n_win)
