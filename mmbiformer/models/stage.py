"""The stages of BiFormer: what its layers are, by ``topks``."""

from typing import Iterator, List, Sequence, Union

from torch import Tensor, nn

from mmbiformer.utils.errors import ConfigError

from .arch import NUM_STAGES, Arch
from .arguments import check_int, check_length
from .attention import (
    BiLevelRoutingAttention,
    ConvolutionLayer,
    GlobalAttention,
)
from .block import BiFormerBlock

# The authors' values of ``topks`` for layers without routing.
GLOBAL_ATTENTION = -2
"""int: Global attention with local context."""
GLOBAL_WITHOUT_CONTEXT = -1
"""int: Global attention without local context."""
CONVOLUTION = 0
"""int: Convolutions in place of attention."""
ATTN_CFG_KEYS = (
    'qk_scale',
    'soft_routing',
    'diff_routing',
    'kv_downsample_mode',
    'kv_downsample_ratio',
    'kv_per_win',
)
"""tuple[str]: Arguments of the routed layers that ``attn_cfg`` may set."""


def attn_cfg_of_stages(
    attn_cfg: Union[dict, Sequence[dict], None], topks: Sequence[int]
) -> List[dict]:
    """Return the options of the attention layers of each stage.

    Args:
        attn_cfg (dict | Sequence[dict], optional): Options of all routed
            stages, or of each stage.
        topks (Sequence[int]): Of each stage.

    Returns:
        list[dict]: Options of each stage, none of those without routing.

    Raises:
        ConfigError: If there are unknown options, or options that no routed
            stage reads.
    """
    routed = [type(topk) is not int or topk > CONVOLUTION for topk in topks]
    if attn_cfg is None or isinstance(attn_cfg, dict):
        cfgs = [(attn_cfg or {}) if one else {} for one in routed]
        unread = bool(attn_cfg) and not any(routed)
    else:
        check_length('attn_cfg', attn_cfg, NUM_STAGES)
        cfgs = [{} if cfg is None else cfg for cfg in attn_cfg]
        unread = any(
            cfg and not one for cfg, one in zip(cfgs, routed, strict=True)
        )
    for cfg in cfgs:
        if not isinstance(cfg, dict) or set(cfg) - set(ATTN_CFG_KEYS):
            raise ConfigError(
                'attn_cfg must be a dict, or a list of one for each stage, '
                f'with keys of {ATTN_CFG_KEYS}, got attn_cfg={attn_cfg!r}'
            )
    if unread:
        raise ConfigError(
            'attn_cfg is read only by routed stages, with topks of 1 or more, '
            f'got attn_cfg={attn_cfg!r} with topks={tuple(topks)}'
        )
    return cfgs


def _build_layer(
    dim: int, head_dim: int, topk: int, options: dict
) -> nn.Module:
    """Build the layer that ``topk`` stands for."""
    if topk == GLOBAL_ATTENTION:
        return GlobalAttention(dim)
    if topk == GLOBAL_WITHOUT_CONTEXT:
        return GlobalAttention(dim, local_context=False)
    if topk == CONVOLUTION:
        return ConvolutionLayer(dim)
    check_int('head_dim', head_dim, 1)
    if dim % head_dim:
        raise ConfigError(
            "arch['head_dim'] must divide the dims of the routed stages, got "
            f'head_dim={head_dim}, dim={dim}'
        )
    return BiLevelRoutingAttention(dim, dim // head_dim, topk=topk, **options)


class NamedStage(nn.Module):
    """A stage whose blocks are named ``blocks``, as in BiFormer-STL.

    It counts, indexes and iterates over its blocks as ``nn.Sequential`` does.

    Args:
        *blocks (BiFormerBlock): The blocks.
    """

    def __init__(self, *blocks: BiFormerBlock) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.blocks)

    def __iter__(self) -> Iterator[nn.Module]:
        """Iterate over the blocks."""
        return iter(self.blocks)

    def __getitem__(self, index: int) -> nn.Module:
        """Return a block."""
        return self.blocks[index]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the blocks.

        Args:
            x (Tensor): Map of shape (N, C, H, W).

        Returns:
            Tensor: Map of the same shape.
        """
        return self.blocks(x)


def build_stage(
    index: int,
    arch: Arch,
    topk: int,
    options: dict,
    drop_path_rates: Sequence[float],
    with_cp: bool,
) -> Union[nn.Sequential, NamedStage]:
    """Build the blocks of a stage.

    Args:
        index (int): Stage, counted from 0.
        arch (Arch): Depths and widths.
        topk (int): Regions that each region attends to, or a constant above.
        options (dict): Other arguments of
            :class:`mmbiformer.models.BiLevelRoutingAttention`.
        drop_path_rates (Sequence[float]): Of each block.
        with_cp (bool): Whether to compute the blocks again in the backward
            pass.

    Returns:
        nn.Sequential | NamedStage: The blocks.

    Raises:
        ConfigError: If an argument is wrong; the message names the stage.
    """
    dim = arch.dims[index]
    mlp_ratio = arch.mlp_ratio_of(index)
    container = nn.Sequential if arch.layout == 'biformer' else NamedStage
    try:
        return container(
            *(
                BiFormerBlock(
                    dim,
                    _build_layer(dim, arch.head_dim, topk, options),
                    mlp_ratio,
                    rate,
                    with_cp,
                    arch.layout,
                )
                for rate in drop_path_rates
            )
        )
    except ConfigError as error:
        raise ConfigError(
            f'stage {index} of BiFormer (topks[{index}]={topk!r}, '
            f'dims[{index}]={dim}): {error}'
        ) from None
