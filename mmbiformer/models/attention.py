"""The two attention layers of BiFormer, on channels-last maps."""

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
from mmbiformer.utils.errors import ConfigError

from .arguments import check_choice, check_int


def _depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution to a channels-last map."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def add(x: Tensor, y: Tensor) -> Tensor:
    """Add two tensors, in place if gradients are disabled.

    Args:
        x (Tensor): Tensor of any shape that the caller does not use again;
            overwritten if gradients are disabled.
        y (Tensor): Tensor of the same shape.

    Returns:
        Tensor: The sum.
    """
    return x + y if torch.is_grad_enabled() else x.add_(y)


class QKVLinear(nn.Module):
    """One linear layer for queries, keys and values.

    It is a module of its own because the released checkpoints name the layer
    ``qkv.qkv``.

    Args:
        dim (int): Channels, C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Compute three contiguous maps, without copying parts of one.

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
    """Region-to-region routing, as a module so that hooks see its output.

    Args:
        topk (int): Regions to choose.
        scale (float): Factor on the affinities.
    """

    def __init__(self, topk: int, scale: float) -> None:
        super().__init__()
        self.topk = topk
        self.scale = scale

    def forward(self, queries: Tensor, keys: Tensor) -> Tuple[Tensor, Tensor]:
        """Choose regions, see :func:`mmbiformer.ops.route`."""
        return route(queries, keys, self.topk, self.scale)

    def extra_repr(self) -> str:
        """Return the settings for ``print(model)``."""
        return f'topk={self.topk}'


class BiLevelRoutingAttention(nn.Module):
    """Bi-level routing attention (Section 3.2 of the paper, Algorithm 1).

    The map is split into S x S regions. Each region is routed to the ``topk``
    regions with the highest affinity, and its tokens attend to all tokens of
    these. A map whose sides S does not divide is zero-padded on the right and
    bottom; padding tokens take part in routing and attention and are cropped
    at the end, as in the authors' released models.

    Args:
        dim (int): Channels, C.
        num_heads (int): Attention heads; must divide ``dim``.
        n_win (int): Regions per side, S.
        topk (int): Regions that each region attends to, between 1 and S*S.
        attn_backend (str): One of
            :data:`mmbiformer.ops.ATTENTION_BACKENDS`. Default: ``'auto'``.

    Raises:
        ConfigError: If an argument is not as described above.
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
            raise ConfigError(
                f'num_heads must divide dim, got num_heads={num_heads}, '
                f'dim={dim}'
            )
        check_int('n_win', n_win, 1)
        check_int('topk', topk, 1)
        if topk > n_win**2:
            raise ConfigError(
                'topk must be at most the number of regions, '
                f'n_win**2={n_win**2}, got topk={topk}'
            )
        check_choice('attn_backend', attn_backend, ATTENTION_BACKENDS)
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
        """Compute the attention.

        Args:
            x (Tensor): Map of shape (N, H, W, C).

        Returns:
            Tensor: Map of the same shape.
        """
        height, width = x.shape[1:3]
        # Padding before the linear layer gives padding tokens its biases.
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
        """Compute queries, keys and values of tokens of shape (..., C)."""
        return self.qkv(x)

    def extra_repr(self) -> str:
        """Return the settings for ``print(model)``."""
        return (
            f'num_heads={self.num_heads}, n_win={self.n_win}, '
            f'attn_backend={self.attn_backend!r}'
        )


class GlobalAttention(nn.Module):
    """Attention of all tokens to all tokens, for the last stage.

    Args:
        dim (int): Channels, C; a multiple of :attr:`num_heads`.

    Raises:
        ConfigError: If ``dim`` is not a multiple of :attr:`num_heads`.
    """

    num_heads = 8
    """int: 8 heads whatever the width, as in the authors' models."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim % self.num_heads:
            raise ConfigError(
                f'dim must be a multiple of {self.num_heads}, '
                f'the number of heads, got dim={dim}'
            )
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        # Applied to the input, and in the routed layers to the values.
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the attention.

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
        """Compute queries, keys and values of tokens of shape (..., C)."""
        return self.qkv(x).chunk(3, dim=-1)
