"""Bi-level routing attention as a layer for other backbones and necks."""

from typing import Any, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from mmbiformer.utils.errors import ConfigError

from .arguments import check_bool, check_int, is_number
from .attention import BiLevelRoutingAttention


@MODELS.register_module()
class BRAPlugin(BaseModule):
    """Bi-level routing attention on a map, as mmcv's plugin layer.

    It computes ``x + layer_scale * attention(norm(x))``, the attention part
    of BiFormer's block (Section 3.3 of the paper). With the defaults, it is
    the identity until it is trained, so that a pretrained network with the
    plugin starts as the network without it.

    Args:
        in_channels (int): Channels of the map, C. ``plugins`` of a ResNet set
            it.
        n_win (int): Regions per side, S; at most the longer side of the map.
            Default: 7.
        topk (int): Regions that each region attends to, between 1 and S*S.
            Default: 4.
        head_dim (int): Channels of a head; must divide C. Default: 32.
        residual (bool): Whether the map itself is added. Default: True.
        layer_scale (float, optional): Initial value of a learned factor for
            each channel of the attention's output. None means no factor. Must
            not be 0 without ``residual``, as the output would be 0. Default:
            0.
        attn_backend (str): Implementation of routed attention, see
            :func:`mmbiformer.ops.routed_attention`. Default: ``'auto'``.
        init_cfg (dict | list[dict], optional): mmengine's initialization
            config. Default: None, which means that of BiFormer.

    Raises:
        ConfigError: If an argument is not as described above.

    Example:
        >>> import torch
        >>> from mmdet.models import ResNet
        >>> import mmbiformer
        >>> bra = dict(type='BRAPlugin', n_win=7, topk=4)
        >>> model = ResNet(
        ...     depth=50,
        ...     plugins=[
        ...         dict(
        ...             cfg=bra,
        ...             stages=(False, True, True, True),
        ...             position='after_conv2',
        ...         )
        ...     ],
        ... )
        >>> print(tuple(model(torch.rand(1, 3, 224, 224))[-1].shape))
        (1, 2048, 7, 7)
    """

    _abbr_ = 'bra'

    def __init__(
        self,
        in_channels: int,
        n_win: int = 7,
        topk: int = 4,
        head_dim: int = 32,
        residual: bool = True,
        layer_scale: Optional[float] = 0.0,
        attn_backend: str = 'auto',
        init_cfg: Union[dict, List[dict], None] = None,
    ) -> None:
        if init_cfg is None:
            # The initialization of a ResNet sets all convolutions in it;
            # that of a layer in it comes later. The last line is torch's own.
            init_cfg = [
                dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
                dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
                dict(
                    type='Kaiming',
                    layer='Conv2d',
                    a=5**0.5,
                    mode='fan_in',
                    nonlinearity='leaky_relu',
                    distribution='uniform',
                ),
            ]
        super().__init__(init_cfg)
        check_int('in_channels', in_channels, 1)
        check_int('head_dim', head_dim, 1)
        if in_channels % head_dim:
            raise ConfigError(
                'head_dim of BRAPlugin must divide the channels of its map, '
                f'got head_dim={head_dim}, in_channels={in_channels}'
            )
        check_bool('residual', residual)
        if layer_scale is not None and not is_number(layer_scale):
            raise ConfigError(
                'layer_scale must be a number or None, got '
                f'layer_scale={layer_scale!r}'
            )
        if not residual and layer_scale == 0:
            raise ConfigError(
                'layer_scale must not be 0 without the residual, as the '
                f'output would be 0; got layer_scale={layer_scale!r}, '
                'residual=False. Use layer_scale=None for no scale'
            )
        self.residual = residual
        self.norm = nn.LayerNorm(in_channels, eps=1e-6)
        self.attn = BiLevelRoutingAttention(
            in_channels, in_channels // head_dim, n_win, topk, attn_backend
        )
        self.layer_scale = (
            None
            if layer_scale is None
            else nn.Parameter(torch.full((in_channels,), float(layer_scale)))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer.

        Args:
            x (Tensor): Map of shape (N, C, H, W), with at least ``n_win``
                rows or columns.

        Returns:
            Tensor: Map of the same shape and data type.

        Raises:
            ConfigError: If both sides of the map are below ``n_win``.
        """
        n_win = self.attn.n_win
        # A long and narrow image among others must not end a run: as in the
        # backbone, it gets regions of padding.
        if max(x.shape[2:]) < n_win:
            raise ConfigError(
                f'n_win={n_win} of BRAPlugin exceeds its map of {x.shape[2]} '
                f'x {x.shape[3]} tokens: use a smaller n_win, larger images, '
                'or no plugin in the stages of the smallest maps'
            )
        out = self.attn(self.norm(x.permute(0, 2, 3, 1)))
        if self.layer_scale is not None:
            out = out * self.layer_scale
        # Under autocast, the factor has another type than the map.
        out = out.permute(0, 3, 1, 2).to(x.dtype)
        return x + out if self.residual else out


@MODELS.register_module()
class BRANeck(BaseModule):
    """Bi-level routing attention on the maps of a backbone or neck.

    For networks without plugins: alone, or before or after another neck in a
    list of necks.

    Args:
        in_channels (Sequence[int]): Channels of each map.
        levels (Sequence[int], optional): Indices of the maps that get a
            :class:`BRAPlugin`; the others are returned as they are. Default:
            None, which means all.
        init_cfg (dict | list[dict], optional): mmengine's initialization
            config. Default: None.
        **plugin: Other arguments of :class:`BRAPlugin`.

    Raises:
        ConfigError: If an argument is not as described above.

    Example:
        >>> import torch
        >>> from mmengine.registry import MODELS
        >>> import mmbiformer
        >>> neck = MODELS.build(
        ...     dict(type='BRANeck', in_channels=[64, 128], n_win=4, topk=2)
        ... )
        >>> maps = torch.rand(1, 64, 16, 16), torch.rand(1, 128, 8, 8)
        >>> print([tuple(level.shape) for level in neck(maps)])
        [(1, 64, 16, 16), (1, 128, 8, 8)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        levels: Optional[Sequence[int]] = None,
        init_cfg: Union[dict, List[dict], None] = None,
        **plugin: Any,
    ) -> None:
        super().__init__(init_cfg)
        if not isinstance(in_channels, (list, tuple)) or not in_channels:
            raise ConfigError(
                'in_channels of BRANeck must be a list or tuple with the '
                f'channels of each map, got in_channels={in_channels!r}'
            )
        indices = range(len(in_channels))
        if levels is None:
            levels = indices
        elif not isinstance(levels, (list, tuple)) or not set(levels) <= set(
            indices
        ):
            raise ConfigError(
                'levels of BRANeck must be a list or tuple of indices from 0 '
                f'to {indices[-1]}, got levels={levels!r}'
            )
        self.num_maps = len(in_channels)
        self.layers = nn.ModuleDict(
            {str(i): BRAPlugin(in_channels[i], **plugin) for i in levels}
        )

    def forward(self, maps: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Compute the layers.

        Args:
            maps (Sequence[Tensor]): Maps of shape (N, C_i, H_i, W_i), each
                with the channels that ``in_channels`` says.

        Returns:
            tuple[Tensor, ...]: Maps of the same shapes.

        Raises:
            ConfigError: If the number of maps is not that of ``in_channels``.
        """
        if len(maps) != self.num_maps:
            raise ConfigError(
                f'in_channels of BRANeck lists {self.num_maps} maps, but it '
                f'gets {len(maps)}'
            )
        return tuple(
            self.layers[str(i)](x) if str(i) in self.layers else x
            for i, x in enumerate(maps)
        )
