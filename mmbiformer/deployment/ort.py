"""Blocks of BiFormer by our operators for onnxruntime on CPUs.

The operators lie in ``csrc/onnxruntime``; the file has one node for each of
them, of the domain :data:`DOMAIN`.
"""

from typing import Any, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmbiformer.models.attention import (
    BiLevelRoutingAttention,
    GlobalAttention,
)
from mmbiformer.models.block import BiFormerBlock

DOMAIN = 'mmbiformer'
"""str: Domain of the operators."""
_LANES = 16
"""int: Channels, those of a head and hidden ones must be a multiple of it."""


def supports(block: BiFormerBlock) -> bool:
    """Tell whether the operators compute a block.

    Args:
        block (BiFormerBlock): The block.

    Returns:
        bool: Whether it has no options, its layers are torch's own, and its
        channels fill whole vectors.
    """
    attention = block.attn
    if isinstance(attention, BiLevelRoutingAttention):
        if attention.soft_routing or attention.kv_down is not None:
            return False
        linears = [attention.qkv.qkv, attention.wo]
    elif isinstance(attention, GlobalAttention) and attention.lepe is not None:
        linears = [attention.qkv, attention.proj]
    else:
        return False
    first, *_, activation, second = block.mlp
    convolutions = [attention.lepe]
    if block.pos_embed is not None:
        convolutions.append(block.pos_embed)
    dim = block.norm1.normalized_shape[0]
    layers = (
        *((one, nn.Linear) for one in (*linears, first, second)),
        *((one, nn.LayerNorm) for one in (block.norm1, block.norm2)),
        *((one, nn.Conv2d) for one in convolutions),
        (activation, nn.GELU),
    )
    return all(type(one) is kind for one, kind in layers) and not (
        dim % _LANES
        or dim // attention.num_heads % _LANES
        or first.out_features % _LANES
    )


def _node(name: str, inputs: Sequence[Any], like: Tensor, **attrs: Any) -> Any:
    """Return the output of a node, of the shape and type of a tensor."""
    return torch.onnx.ops.symbolic(
        f'{DOMAIN}::{name}',
        tuple(inputs),
        attrs,
        dtype=like.dtype,
        shape=tuple(like.shape),
        version=1,
    )


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
) -> Tensor:
    """Routed attention, see :func:`mmbiformer.ops.routed_attention`."""
    return _node(
        'RoutedAttention', (q, k, v, routing), q,
        num_heads=num_heads, scale=float(scale),
    )  # fmt: skip


def _depthwise(conv: nn.Conv2d, x: Tensor, added: Tensor) -> Tensor:
    """Add the depthwise convolution of a map to another map."""
    weight = conv.weight.reshape(conv.out_channels, -1).t().contiguous()
    return _node('Depthwise', (x, weight, conv.bias, added), added)


def _normed_qkv(
    norm: nn.LayerNorm, linear: nn.Linear, x: Tensor, n_win: int
) -> Tuple[Tensor, Tensor, Tensor]:
    """Normalize, pad to whole regions, and compute the three maps."""
    n, height, width, dim = x.shape
    shape = (
        n,
        (height + n_win - 1) // n_win * n_win,
        (width + n_win - 1) // n_win * n_win,
        dim,
    )
    q, k, v = torch.onnx.ops.symbolic_multi_out(
        f'{DOMAIN}::NormQkv',
        (x, norm.weight, norm.bias, linear.weight, linear.bias),
        dict(epsilon=float(norm.eps), n_win=n_win),
        dtypes=[x.dtype] * 3,
        shapes=[shape] * 3,
        version=1,
    )
    return q, k, v


def _route(attention: BiLevelRoutingAttention, q: Tensor, k: Tensor) -> Tensor:
    """Choose the regions, by standard operators."""
    means = (means_of(x, attention.n_win) for x in (q, k))
    return attention.router(*means)[0]


def means_of(x: Tensor, n_win: int) -> Tensor:
    """Compute region means without pooling, whose kernel must be constant.

    Args:
        x (Tensor): Map of shape (N, H, W, C), where S divides H and W.
        n_win (int): Regions per side, S.

    Returns:
        Tensor: Means of shape (N, S*S, C), as of
        :func:`mmbiformer.ops.region_means`.
    """
    n, height, width, dim = x.shape
    x = x.reshape(n, n_win, height // n_win, n_win, width // n_win, dim)
    return x.mean(dim=(2, 4)).reshape(n, n_win * n_win, dim)


def block(self: BiFormerBlock, x: Tensor) -> Tensor:
    """Compute a block that is supported.

    Args:
        self (BiFormerBlock): The block.
        x (Tensor): Map of shape (N, C, H, W).

    Returns:
        Tensor: Map of the same shape.
    """
    attention = self.attn
    x = x.permute(0, 2, 3, 1)
    if self.pos_embed is not None:
        x = _depthwise(self.pos_embed, x, x)
    if isinstance(attention, BiLevelRoutingAttention):
        q, k, v = _normed_qkv(
            self.norm1, attention.qkv.qkv, x, attention.n_win
        )
        out = attend(
            q, k, v, _route(attention, q, k),
            attention.num_heads, attention.scale,
        )  # fmt: skip
        context, linear = v, attention.wo
    else:
        normed = self.norm1(x)
        q, k, v = attention.qkv(normed).chunk(3, dim=-1)
        # One region: its queries attend to all tokens.
        routing = torch.zeros(
            x.shape[0], 1, 1, dtype=torch.int64, device=x.device
        )
        scale = (x.shape[-1] // attention.num_heads) ** -0.5
        out = attend(q, k, v, routing, attention.num_heads, scale)
        context, linear = normed, attention.proj
    out = _depthwise(attention.lepe, context, out)
    x = _node('AddLinear', (out, x, linear.weight, linear.bias), x)
    first, *_, second = self.mlp
    x = _node(
        'Mlp',
        (
            x, self.norm2.weight, self.norm2.bias,
            first.weight, first.bias, second.weight, second.bias,
        ),
        x,
        epsilon=float(self.norm2.eps),
    )  # fmt: skip
    return x.permute(0, 3, 1, 2)
