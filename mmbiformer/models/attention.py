"""The attention layers of BiFormer, on channels-last maps."""

from typing import Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmbiformer.ops import (
    ATTENTION_BACKENDS,
    FLEXIBLE_BACKENDS,
    pad_to_regions,
    pool_regions,
    region_means,
    route,
    routed_attention,
)
from mmbiformer.utils.errors import ConfigError

from .arguments import check_bool, check_choice, check_int, is_number

_KV_POOLING = {
    'avgpool': nn.AvgPool2d,
    'maxpool': nn.MaxPool2d,
    'ada_avgpool': nn.AdaptiveAvgPool2d,
    'ada_maxpool': nn.AdaptiveMaxPool2d,
}
"""Poolings of keys and values, by the authors' names."""


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


def is_observed(module: nn.Module) -> bool:
    """Return whether calling a module does more than its class's ``forward``.

    Args:
        module (nn.Module): The module.

    Returns:
        bool: Whether it has forward hooks, or a ``forward`` of its own.
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or 'forward' in vars(module)
    )


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
        """Compute three contiguous maps, as routing and attention read them.

        Args:
            x (Tensor): Map of shape (N, H, W, C).

        Returns:
            tuple[Tensor, Tensor, Tensor]: Queries, keys and values, each of
            the shape of ``x``.
        """
        if (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or type(self.qkv) is not nn.Linear
            or is_observed(self.qkv)
        ):
            q, k, v = (y.contiguous() for y in self.qkv(x).chunk(3, dim=-1))
            return q, k, v
        # The same, without the memory of a map of 3C channels.
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        q, k, v = map(F.linear, (x, x, x), weights, biases)
        return q, k, v


class TopkRouting(nn.Module):
    """Region-to-region routing, as a module so that hooks see its output.

    Args:
        topk (int): Regions to choose.
        scale (float): Factor on the affinities.
        diff_routing (bool): Whether the affinities have gradients. Default:
            False.
    """

    def __init__(
        self, topk: int, scale: float, diff_routing: bool = False
    ) -> None:
        super().__init__()
        self.topk = topk
        self.scale = scale
        self.diff_routing = diff_routing

    def forward(self, queries: Tensor, keys: Tensor) -> Tuple[Tensor, Tensor]:
        """Choose regions, see :func:`mmbiformer.ops.route`."""
        if not self.diff_routing:
            queries, keys = queries.detach(), keys.detach()
        return route(queries, keys, self.topk, self.scale)

    def extra_repr(self) -> str:
        """Return the settings for ``print(model)``."""
        return f'topk={self.topk}, diff_routing={self.diff_routing}'


def _build_kv_pooling(
    mode: str, ratio: Optional[int], per_win: Optional[int]
) -> Optional[nn.Module]:
    """Build the pooling of keys and values; None for none."""
    check_choice('kv_downsample_mode', mode, ('identity', *_KV_POOLING))
    needed = 'kv_per_win' if mode.startswith('ada_') else 'kv_downsample_ratio'
    given = dict(kv_downsample_ratio=ratio, kv_per_win=per_win)
    for name, value in given.items():
        if mode != 'identity' and name == needed:
            check_int(name, value, 1)
        elif value is not None:
            raise ConfigError(
                f'{name} is not used with kv_downsample_mode={mode!r}, got '
                f'{name}={value!r}'
            )
    if mode == 'identity' or ratio == 1:
        return None
    return _KV_POOLING[mode](given[needed])


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
        qk_scale (float, optional): Factor on the products of queries and
            keys, in routing and attention. Default: None, which means
            ``dim**-0.5``.
        soft_routing (bool): Multiply the keys and values of each routed region
            by its routing weight, the softmax over the ``topk`` affinities.
            Default: False.
        diff_routing (bool): Whether the routing weights have gradients; needs
            ``soft_routing``. Default: False.
        kv_downsample_mode (str): Pooling of the keys and values of each
            region before attention. ``'avgpool'`` and ``'maxpool'`` pool
            windows of a fixed size, ``'ada_avgpool'`` and ``'ada_maxpool'``
            to a fixed number of tokens; ``'identity'`` does not pool. Default:
            ``'identity'``.
        kv_downsample_ratio (int, optional): Side of the windows of
            ``'avgpool'`` and ``'maxpool'``, in tokens. Default: None.
        kv_per_win (int, optional): Side of a region after ``'ada_avgpool'``
            and ``'ada_maxpool'``, in tokens. Default: None.

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
        qk_scale: Optional[float] = None,
        soft_routing: bool = False,
        diff_routing: bool = False,
        kv_downsample_mode: str = 'identity',
        kv_downsample_ratio: Optional[int] = None,
        kv_per_win: Optional[int] = None,
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
        check_bool('soft_routing', soft_routing)
        check_bool('diff_routing', diff_routing)
        if qk_scale is not None and not (is_number(qk_scale) and qk_scale > 0):
            raise ConfigError(
                f'qk_scale must be a number above 0, got qk_scale={qk_scale!r}'
            )
        if diff_routing and not soft_routing:
            raise ConfigError(
                'diff_routing=True needs soft_routing=True: gradients reach '
                'the routing only through its weights'
            )
        self.num_heads = num_heads
        self.n_win = n_win
        self.attn_backend = attn_backend
        # The authors scale by the whole width, not by the head's.
        self.scale = dim**-0.5 if qk_scale is None else qk_scale
        self.soft_routing = soft_routing
        self.qkv = QKVLinear(dim)
        self.router = TopkRouting(topk, self.scale, diff_routing)
        self.kv_down = _build_kv_pooling(
            kv_downsample_mode, kv_downsample_ratio, kv_per_win
        )
        if (
            soft_routing or self.kv_down is not None
        ) and attn_backend not in FLEXIBLE_BACKENDS:
            raise ConfigError(
                'soft_routing and kv_downsample_mode need an attn_backend of '
                f'{FLEXIBLE_BACKENDS}, got attn_backend={attn_backend!r}'
            )
        # Local context enhancement, LCE in the paper (equation 7).
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.wo = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the attention.

        Args:
            x (Tensor): Map of shape (N, H, W, C).

        Returns:
            Tensor: Map of the same shape.

        Raises:
            ConfigError: If the regions are smaller than
                ``kv_downsample_ratio``.
        """
        height, width = x.shape[1:3]
        # Padding before the linear layer gives padding tokens its biases.
        q, k, v = self.project(pad_to_regions(x, self.n_win))
        routing, affinity = self.router(*self._describe(q, k))
        weights = None
        if self.soft_routing:
            weights = affinity.softmax(dim=-1).to(q.dtype)
        out = routed_attention(
            q, *self._pool(k, v), routing, self.num_heads, self.scale,
            self.attn_backend, weights,
        )  # fmt: skip
        out = add(out, _depthwise(self.lepe, v))
        return self.wo(out[:, :height, :width])

    def _describe(self, q: Tensor, k: Tensor) -> Tuple[Tensor, Tensor]:
        """Return the mean query and key of each region."""
        if not self.router.diff_routing:
            q, k = q.detach(), k.detach()
        return region_means(q, self.n_win), region_means(k, self.n_win)

    def _pool(self, k: Tensor, v: Tensor) -> Tuple[Tensor, Tensor]:
        """Pool the keys and values of each region, if so configured."""
        if self.kv_down is None:
            return k, v
        region = k.shape[1] // self.n_win, k.shape[2] // self.n_win
        ratio = getattr(self.kv_down, 'kernel_size', 1)
        if min(region) < ratio:
            raise ConfigError(
                f'regions of {region[0]} x {region[1]} tokens cannot be '
                f'pooled with kv_downsample_ratio={ratio}: use a lower ratio, '
                'a lower n_win or larger images'
            )
        k, v = (pool_regions(x, self.n_win, self.kv_down) for x in (k, v))
        return k, v

    def project(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute queries, keys and values of tokens of shape (..., C)."""
        return self.qkv(x)

    def extra_repr(self) -> str:
        """Return the settings for ``print(model)``."""
        return (
            f'num_heads={self.num_heads}, n_win={self.n_win}, '
            f'attn_backend={self.attn_backend!r}, scale={self.scale:.4g}, '
            f'soft_routing={self.soft_routing}'
        )


class GlobalAttention(nn.Module):
    """Attention of all tokens to all tokens, for the last stage.

    Args:
        dim (int): Channels, C; a multiple of :attr:`num_heads`.
        local_context (bool): Whether to add a depthwise convolution of the
            input. Default: True.

    Raises:
        ConfigError: If ``dim`` is not a multiple of :attr:`num_heads`.
    """

    num_heads = 8
    """int: 8 heads whatever the width, as in the authors' models."""

    def __init__(self, dim: int, local_context: bool = True) -> None:
        super().__init__()
        if dim % self.num_heads:
            raise ConfigError(
                f'dim must be a multiple of {self.num_heads}, '
                f'the number of heads, got dim={dim}'
            )
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        # Applied to the input, and in the routed layers to the values.
        self.lepe = None
        if local_context:
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
        if self.lepe is not None:
            out = add(out, _depthwise(self.lepe, x))
        return self.proj(out)

    def project(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute queries, keys and values of tokens of shape (..., C)."""
        return self.qkv(x).chunk(3, dim=-1)


class _Permute(nn.Module):
    """Permutation of dimensions, as a module.

    Args:
        *dims (int): The dimensions in their new order.
    """

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """Permute the dimensions."""
        return x.permute(self.dims)


class ConvolutionLayer(nn.Sequential):
    """Convolutions in place of attention: 1 x 1, depthwise 5 x 5, 1 x 1.

    Maps are channels last, as in the attention layers; the authors' names of
    the parameters count the permutations.

    Args:
        dim (int): Channels, C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(
            _Permute(0, 3, 1, 2),
            nn.Conv2d(dim, dim, 1),
            nn.Conv2d(dim, dim, 5, padding=2, groups=dim),
            nn.Conv2d(dim, dim, 1),
            _Permute(0, 2, 3, 1),
        )
