"""The same computations, written so that sizes may stay unknown.

``torch.export`` follows one run of a model, in which the sides of the images
are symbols. Code that branches on them, or turns them into numbers, either
cannot be exported or gives a file that is right for one size only. Within
:func:`exportable`, such code is replaced; outside, nothing changes.
"""

import contextlib
from typing import Any, Callable, Iterator, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbiformer.models.attention import (
    BiLevelRoutingAttention,
    GlobalAttention,
)
from mmbiformer.models.biformer import BiFormer
from mmbiformer.models.block import MLP, BiFormerBlock
from mmbiformer.ops import map_to_regions, pool_regions, regions_to_map

from . import ort

ATTENTIONS = ('portable', 'ort')
"""tuple[str]: Forms of attention in a file: standard operators, or operators
of ours for onnxruntime, which compute the whole blocks."""


def _depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution to a channels-last map."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _pad(x: Tensor, n_win: int) -> Tensor:
    """Zero-pad a map to a multiple of S, without asking whether it is one."""
    height, width = x.shape[1:3]
    bottom = (height + n_win - 1) // n_win * n_win - height
    right = (width + n_win - 1) // n_win * n_win - width
    return F.pad(x, (0, 0, 0, right, 0, bottom))


def _crop(x: Tensor, height: int, width: int) -> Tensor:
    """Crop a map; slices would ask whether they are contiguous."""
    rows = torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device)
    return x.index_select(1, rows).index_select(2, columns)


def attend_portable(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
    n_win: int,
    routing_weights: Any = None,
) -> Tensor:
    """Routed attention by standard operators, with one gather.

    Args:
        q (Tensor): Map of queries, of shape (N, H, W, C).
        k (Tensor): Map of keys, may have smaller regions.
        v (Tensor): Map of values, of the shape of ``k``.
        routing (Tensor): Routed regions, of shape (N, S*S, K).
        num_heads (int): Attention heads.
        scale (float): Factor on the products of queries and keys.
        n_win (int): Regions per side, S.
        routing_weights (Tensor, optional): Factors on the keys and values of
            routed regions, of the shape of ``routing``. Default: None.

    Returns:
        Tensor: Map of attended values, of shape (N, H, W, C).
    """
    size, channels = (q.shape[1], q.shape[2]), q.shape[3]
    n, regions, topk = q.shape[0], n_win * n_win, routing.shape[2]
    q, k, v = (map_to_regions(x, n_win) for x in (q, k, v))
    # Regions of all images are numbered through.
    first = torch.arange(n, device=q.device).view(-1, 1, 1) * regions
    index = (routing + first).flatten()

    def split_heads(x: Tensor, tokens: int) -> Tensor:
        x = x.reshape(n * regions, tokens, num_heads, channels // num_heads)
        return x.transpose(1, 2)

    def gather(x: Tensor) -> Tensor:
        gathered = x.flatten(0, 1).index_select(0, index)
        if routing_weights is not None:
            gathered = gathered * routing_weights.reshape(-1, 1, 1)
        return split_heads(gathered, topk * x.shape[2])

    out = F.scaled_dot_product_attention(
        split_heads(q, q.shape[2]), gather(k), gather(v), scale=scale
    )
    out = out.transpose(1, 2).reshape(n, regions, -1, channels)
    return regions_to_map(out, size, n_win)


def _route_and_attend(self: BiLevelRoutingAttention, x: Tensor) -> Tensor:
    """Compute bi-level routing attention, for maps of any size."""
    height, width = x.shape[1:3]
    n_win = self.n_win
    q, k, v = self.qkv.qkv(_pad(x, n_win)).chunk(3, dim=-1)
    means = (ort.means_of(y, n_win) for y in (q, k))
    # By the module, so that hooks see the routing.
    routing, affinity = self.router(*means)
    keys, values = k, v
    if self.kv_down is not None:
        keys, values = (pool_regions(y, n_win, self.kv_down) for y in (k, v))
    weights = affinity.softmax(dim=-1) if self.soft_routing else None
    out = attend_portable(
        q, keys, values, routing, self.num_heads, self.scale, n_win, weights
    )
    out = out + _depthwise(self.lepe, v)
    return self.wo(_crop(out, height, width))


def _attend_globally(self: GlobalAttention, x: Tensor) -> Tensor:
    """Compute global attention."""
    n, height, width, dim = x.shape
    shape = n, height * width, self.num_heads, dim // self.num_heads
    q, k, v = (
        y.reshape(shape).transpose(1, 2) for y in self.qkv(x).chunk(3, dim=-1)
    )
    out = F.scaled_dot_product_attention(q, k, v)
    out = out.transpose(1, 2).reshape(n, height, width, dim)
    if self.lepe is not None:
        out = out + _depthwise(self.lepe, x)
    return self.proj(out)


def _ort_block(self: BiFormerBlock, x: Tensor) -> Tensor:
    """Compute a block by our operators where they support it."""
    return (ort.block if ort.supports(self) else _block)(self, x)


def _block(self: BiFormerBlock, x: Tensor) -> Tensor:
    """Compute a block, adding nothing in place."""
    if self.pos_embed is not None:
        x = x + self.pos_embed(x)
    x = x.permute(0, 2, 3, 1)
    x = x + self.attn(self.norm1(x))
    x = x + self.mlp(self.norm2(x))
    return x.permute(0, 3, 1, 2)


def _pool_adaptively(self: nn.AdaptiveAvgPool2d, x: Tensor) -> Tensor:
    """Compute adaptive average pooling as a product with two matrices."""
    sizes = self.output_size
    if not isinstance(sizes, tuple):
        sizes = (sizes, sizes)
    rows, columns = (
        _means(out, side, x)
        for out, side in zip(sizes, x.shape[2:], strict=True)
    )
    return rows @ x @ columns.transpose(0, 1)


def _means(out: int, side: int, like: Tensor) -> Tensor:
    """Return the matrix (out, side) that averages a side to ``out`` cells."""
    cell = torch.arange(out, device=like.device)[:, None]
    position = torch.arange(side, device=like.device)[None]
    start = cell * side // out
    end = ((cell + 1) * side + out - 1) // out
    inside = (position >= start) & (position < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


def _upsample(self: nn.Module, x: Tensor) -> Tensor:
    """Upsample by a whole factor; ``int(side * 2.0)`` would be a constant."""
    from mmseg.models.utils import resize

    size = self.size
    if not size:
        factors = self.scale_factor
        if not isinstance(factors, tuple):
            factors = (factors, factors)
        size = [
            side * int(factor) if factor == int(factor) else int(side * factor)
            for side, factor in zip(x.shape[-2:], factors, strict=True)
        ]
    return resize(x, size, None, self.mode, self.align_corners, warning=False)


def _replacements(attention: str) -> List[Tuple[type, str, Callable]]:
    """Return the methods to replace: class, name and the new one."""
    blocks = dict(portable=_block, ort=_ort_block)
    found: List[Tuple[type, str, Callable]] = [
        (BiFormer, '_check_images', lambda self, x: None),
        (BiFormerBlock, 'forward', blocks[attention]),
        (MLP, 'forward', nn.Sequential.forward),
        (BiLevelRoutingAttention, 'forward', _route_and_attend),
        (GlobalAttention, 'forward', _attend_globally),
        (nn.AdaptiveAvgPool2d, 'forward', _pool_adaptively),
    ]
    with contextlib.suppress(ImportError):
        from mmseg.models.utils import Upsample

        found.append((Upsample, 'forward', _upsample))
    return found


@contextlib.contextmanager
def exportable(attention: str = 'portable') -> Iterator[None]:
    """Replace what ``torch.export`` cannot follow at sizes of any kind.

    Args:
        attention (str): Form of routed attention, one of
            :data:`ATTENTIONS`. Default: ``'portable'``.

    Yields:
        None: Within the block, models compute the same in other words.
    """
    with contextlib.ExitStack() as stack:
        for owner, name, method in _replacements(attention):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, method)
        yield
