"""The blocks of a stage by compiled layers, for inference on CPUs.

What :class:`mmbiformer.models.block.BiFormerBlock` computes by calling its
modules is computed here from their weights: norms, padding, cropping, GELU and
sums are done where a linear layer reads or writes its map, and all blocks use
the same memory. A stage is computed this way only where nobody could notice:
without gradients, autocast, tracing and hooks, and with all modules as they
were built.
"""

from typing import Any, Dict, Iterable, Iterator, List, Tuple

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmbiformer.ops import layers, region_means
from mmbiformer.ops.backends import native

from .attention import (
    BiLevelRoutingAttention,
    GlobalAttention,
    QKVLinear,
    TopkRouting,
    is_observed,
)
from .block import MLP, BiFormerBlock
from .stage import NamedStage

_BUILT = (
    BiFormerBlock, BiLevelRoutingAttention, GlobalAttention, QKVLinear,
    TopkRouting, MLP, DropPath, nn.Linear, nn.LayerNorm, nn.Conv2d,
    nn.Identity, nn.GELU,
)  # fmt: skip
"""tuple[type]: Modules that a block is made of."""

_Memory = Dict[Tuple[int, int], Tensor]
"""Four maps of the padded sizes that the layers of a stage need."""


def run_stage(stage: nn.Module, x: Tensor) -> Tensor:
    """Compute a stage, by compiled layers where they do the same.

    Args:
        stage (nn.Module): The blocks, as
            :func:`mmbiformer.models.stage.build_stage` returns them.
        x (Tensor): Map of shape (N, C, H, W).

    Returns:
        Tensor: Map of the same shape, channels last in memory.
    """
    tokens = x.permute(0, 2, 3, 1)
    if not (_is_plain_inference(tokens) and _is_as_built(stage, tokens)):
        return stage(x)
    return _run_blocks(_blocks_of(stage).children(), tokens).permute(
        0, 3, 1, 2
    )


def _is_plain_inference(x: Tensor) -> bool:
    """Return whether only the values of the result matter."""
    return (
        layers.is_available()
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled('cpu')
        and layers.supports(x)
        and x.numel() > 0
    )


def _blocks_of(stage: nn.Module) -> nn.Module:
    """Return what holds the blocks of a stage."""
    return stage.blocks if type(stage) is NamedStage else stage


def _is_as_built(stage: nn.Module, x: Tensor) -> bool:
    """Return whether calling a stage does no more than its blocks say."""
    sequence = _blocks_of(stage)
    return (
        type(sequence) is nn.Sequential
        and len(sequence) > 0
        and not is_observed(stage)
        and not is_observed(sequence)
        and all(_is_block_as_built(block, x) for block in sequence)
    )


def _is_block_as_built(block: nn.Module, x: Tensor) -> bool:
    """Return whether a block is one that this module can compute."""
    return (
        type(block) is BiFormerBlock
        and _is_attention_as_built(block.attn, x)
        and not (block.training and block.drop_path.drop_prob)
        and block.mlp.hidden % layers.CHANNELS == 0
        and all(
            type(module) in _BUILT and not is_observed(module)
            for module in block.modules()
        )
        and all(
            parameter.dtype is x.dtype and layers.supports(parameter)
            for parameter in block.parameters()
        )
    )


def _is_attention_as_built(attn: nn.Module, x: Tensor) -> bool:
    """Return whether an attention layer is one that is computed here."""
    if type(attn) is BiLevelRoutingAttention:
        return (
            attn.attn_backend in ('auto', 'native')
            and not attn.soft_routing
            and attn.kv_down is None
            and native.supports(x, attn.num_heads)
        )
    return (
        type(attn) is GlobalAttention
        and attn.lepe is not None
        and native.supports(x, attn.num_heads)
    )


def _norm(module: nn.LayerNorm) -> layers.Norm:
    """Return what the compiled layers need of a norm."""
    return layers.Norm(module.weight, module.bias, module.eps)


def _linear(module: nn.Linear) -> layers.Linear:
    """Return what the compiled layers need of a linear layer."""
    return layers.Linear(module.weight, module.bias)


def _convolve(conv: Any, x: Tensor, added: Tensor, out: Tensor) -> None:
    """Compute a depthwise convolution of a map, plus another map."""
    layers.depthwise(x, conv.weight, conv.bias, added, out)


def _run_blocks(blocks: Iterable[Any], x: Tensor) -> Tensor:
    """Compute all blocks on a map of shape (N, H, W, C)."""
    maps = _alternate(x)
    memory: _Memory = {}
    for block in blocks:
        out = next(maps)
        if block.pos_embed is None:
            # What the stage takes belongs to others.
            out.copy_(x)
        else:
            _convolve(block.pos_embed, x, x, out)
        if type(block.attn) is GlobalAttention:
            _add_global_attention(block.attn, block.norm1, out)
        else:
            _add_routed_attention(block.attn, block.norm1, out, memory)
        mlp = block.mlp
        layers.add_mlp(
            out, _norm(block.norm2), _linear(mlp[0]), _linear(mlp[-1])
        )
        x = out
    return x


def _alternate(x: Tensor) -> Iterator[Tensor]:
    """Return two maps of the shape of ``x`` in turn, made when needed."""
    maps: List[Tensor] = []
    while True:
        if len(maps) < 2:
            maps.append(torch.empty_like(x))
        yield maps[-1]
        if len(maps) == 2:
            maps.reverse()


def _add_routed_attention(
    attn: BiLevelRoutingAttention,
    norm: nn.LayerNorm,
    x: Tensor,
    memory: _Memory,
) -> None:
    """Add routed attention to a map, in place."""
    n, height, width, dim = x.shape
    size = height + -height % attn.n_win, width + -width % attn.n_win
    if size not in memory:
        memory[size] = x.new_empty(4, n, *size, dim)
    q, k, v, out = memory[size]
    layers.norm_linear(x, _linear(attn.qkv.qkv), _norm(norm), memory[size][:3])
    means = (region_means(y, attn.n_win) for y in (q, k))
    routing, _ = attn.router(*means)
    native.attend_into(out, q, k, v, routing, attn.num_heads, attn.scale)
    _convolve(attn.lepe, v, out, out)
    layers.add_linear(x, out, _linear(attn.wo))


def _add_global_attention(
    attn: GlobalAttention, norm: nn.LayerNorm, x: Tensor
) -> None:
    """Add global attention to a map, in place: one region routed to itself."""
    normed = norm(x)
    n, height, width, dim = x.shape
    qkv = x.new_empty(3, n, height, width, dim)
    layers.norm_linear(normed, _linear(attn.qkv), None, qkv)
    out = torch.empty_like(x)
    routing = torch.zeros(n, 1, 1, dtype=torch.int64)
    scale = (dim // attn.num_heads) ** -0.5
    q, k, v = qkv
    native.attend_into(out, q, k, v, routing, attn.num_heads, scale)
    _convolve(attn.lepe, normed, out, out)
    layers.add_linear(x, out, _linear(attn.proj))
