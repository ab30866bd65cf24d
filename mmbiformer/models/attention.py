"""The two attention layers of BiFormer; channels last in and out."""

from typing import Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmbiformer.ops import (
    ATTENTION_BACKENDS,
    pad_to_regions,
    region_means,
    route,
    routed_attention,
)


def _depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution to a channels-last map."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def add(x: Tensor, y: Tensor) -> Tensor:
    """Add to a tensor that nobody else needs, in its memory if possible.

    Args:
        x (Tensor): Tensor of any shape; overwritten where no gradient needs
            it.
        y (Tensor): Tensor of the same shape.

    Returns:
        Tensor: The sum.
    """
    return x + y if torch.is_grad_enabled() else x.add_(y)


class QKVLinear(nn.Module):
    """Queries, keys and values by one linear layer.

    A module of its own only because the released checkpoints name the layer
    ``qkv.qkv``.

    Args:
        dim (int): Channels, C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Return three maps, each of its own memory, without copies.

        Args:
            x (Tensor): Map of shape (N, H, W, C).

        Returns:
            tuple[Tensor, Tensor, Tensor]: Queries, keys and values, each of
            the shape of ``x``.
        """
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        q, k, v = map(F.linear, (x, x, x), weights, biases)
        return q, k, v


class TopkRouting(nn.Module):
    """Region-to-region routing; a module so that hooks can see its choice.

    Args:
        topk (int): Regions to choose.
        scale (float): Factor on the affinities.
    """

    def __init__(self, topk: int, scale: float) -> None:
        super().__init__()
        self.topk = topk
        self.scale = scale

    def forward(self, queries: Tensor, keys: Tensor) -> Tuple[Tensor, Tensor]:
        """Choose as :func:`mmbiformer.ops.route` does."""
        return route(queries, keys, self.topk, self.scale)

    def extra_repr(self) -> str:
        """Name the settings."""
        return f'topk={self.topk}'


class BiLevelRoutingAttention(nn.Module):
    """Bi-level routing attention (Section 3.2 of the paper, Algorithm 1).

    The map is cut into S x S regions. Every region is routed to the ``topk``
    regions with the highest affinity, and its tokens attend to all tokens of
    these. Sides that S does not divide are zero-padded on the right and
    bottom; padding takes part like any other token and is cropped at the end,
    as in the authors' released models.

    Args:
        dim (int): Channels, C.
        num_heads (int): Attention heads; must divide ``dim``.
        n_win (int): Regions per side, S.
        topk (int): Regions that each region attends to, between 1 and S*S.
        attn_backend (str): One of
            :data:`mmbiformer.ops.ATTENTION_BACKENDS`. Default: ``'auto'``.

    Raises:
        ValueError: If an argument is outside what is said above.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        n_win: int,
        topk: int,
        attn_backend: str = 'auto',
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(
                'num_heads must divide dim, got '
                f'num_heads={num_heads}, dim={dim}'
            )
        if n_win < 1:
            raise ValueError(f'n_win must be at least 1, got n_win={n_win}')
        if not 1 <= topk <= n_win**2:
            raise ValueError(
                'topk must be between 1 and the number of '
                f'regions, n_win**2={n_win**2}, got topk={topk}'
            )
        if attn_backend not in ATTENTION_BACKENDS:
            raise ValueError(
                f'attn_backend must be one of '
                f'{ATTENTION_BACKENDS}, got '
                f'attn_backend={attn_backend!r}'
            )
        self.num_heads = num_heads
        self.n_win = n_win
        self.attn_backend = attn_backend
        # The authors scale by the whole width, not by the head's.
        self.scale = dim**-0.5
        self.qkv = QKVLinear(dim)
        self.router = TopkRouting(topk, self.scale)
        # Local context enhancement, LCE in the paper (equation 7).
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.wo = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend.

        Args:
            x (Tensor): Map of shape (N, H, W, C).

        Returns:
            Tensor: Map of the same shape.
        """
        height, width = x.shape[1:3]
        # Padded before the linear layer, so that padding carries its biases.
        q, k, v = self.project(pad_to_regions(x, self.n_win))
        routing, _ = self.router(
            region_means(q, self.n_win), region_means(k, self.n_win)
        )
        out = routed_attention(
            q, k, v, routing, self.num_heads, self.scale, self.attn_backend
        )
        out = add(out, _depthwise(self.lepe, v))
        return self.wo(out[:, :height, :width])

    def project(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Return queries, keys and values of tokens of shape (..., C)."""
        return self.qkv(x)

    def extra_repr(self) -> str:
        """Name the settings that no submodule shows."""
        return (
            f'num_heads={self.num_heads}, n_win={self.n_win}, '
            f'attn_backend={self.attn_backend!r}'
        )


class GlobalAttention(nn.Module):
    """Attention of every token to every token, for the last stage.

    Args:
        dim (int): Channels, C; a multiple of :attr:`num_heads`.

    Raises:
        ValueError: If ``dim`` is not a multiple of :attr:`num_heads`.
    """

    num_heads = 8
    """int: The authors keep 8 heads whatever the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim % self.num_heads:
            raise ValueError(
                f'dim must be a multiple of {self.num_heads}, '
                f'the number of heads, got dim={dim}'
            )
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        # Unlike in the routed layers, it sees the layer's input.
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend.

        Args:
            x (Tensor): Map of shape (N, H, W, C).

        Returns:
            Tensor: Map of the same shape.
        """
        n, height, width, dim = x.shape
        shape = n, height * width, self.num_heads, dim // self.num_heads
        q, k, v = (y.view(shape).transpose(1, 2) for y in self.project(x))
        out = F.scaled_dot_product_attention(q, k, v)
        out = out.transpose(1, 2).reshape(n, height, width, dim)
        return self.proj(add(out, _depthwise(self.lepe, x)))

    def project(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Return queries, keys and values of tokens of shape (..., C)."""
        return self.qkv(x).chunk(3, dim=-1)
