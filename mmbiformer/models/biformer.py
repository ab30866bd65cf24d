"""The BiFormer backbone."""

from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
import torch.utils.checkpoint as cp
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmbiformer.utils.errors import ConfigError

from .arch import NUM_STAGES, Arch
from .arguments import check_bool, check_int, check_length, is_number
from .attention import BiLevelRoutingAttention, GlobalAttention
from .block import BiFormerBlock
from .pretrained import load_pretrained

GLOBAL_ATTENTION = -2
"""int: The value in ``topks`` that stands for global attention (authors')."""


def _build_stem(dim: int) -> nn.Sequential:
    """Build the patch embedding, of stride 4."""
    return nn.Sequential(
        nn.Conv2d(3, dim // 2, 3, stride=2, padding=1),
        nn.BatchNorm2d(dim // 2),
        nn.GELU(),
        nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        nn.BatchNorm2d(dim),
    )


def _build_downsampling(in_dim: int, dim: int) -> nn.Sequential:
    """Build the layer of stride 2 between two stages."""
    return nn.Sequential(
        nn.Conv2d(in_dim, dim, 3, stride=2, padding=1), nn.BatchNorm2d(dim)
    )


def _build_attention(
    dim: int, head_dim: int, topk: int, n_win: int, attn_backend: str
) -> nn.Module:
    """Build the attention layer that ``topk`` stands for."""
    if topk == GLOBAL_ATTENTION:
        return GlobalAttention(dim)
    check_int('head_dim', head_dim, 1)
    if dim % head_dim:
        raise ConfigError(
            "arch['head_dim'] must divide the dims of the routed stages, got "
            f'head_dim={head_dim}, dim={dim}'
        )
    return BiLevelRoutingAttention(
        dim, dim // head_dim, n_win, topk, attn_backend
    )


def _drop_path_rates(rate: float, depths: Sequence[int]) -> List[List[float]]:
    """Return the rate of each block: from 0 to ``rate`` over all stages."""
    if not is_number(rate) or not 0 <= rate < 1:
        raise ConfigError(
            'drop_path_rate must be a number of at least 0 and below 1, got '
            f'drop_path_rate={rate!r}'
        )
    # Plain numbers, which exist under torch.device('meta') too.
    rates = torch.linspace(0, rate, sum(depths), device='cpu')
    return [part.tolist() for part in rates.split(list(depths))]


def _check_out_indices(out_indices: Sequence[int]) -> None:
    """Raise an error for indices that are not ascending stages."""
    if (
        not isinstance(out_indices, (list, tuple))
        or not out_indices
        or any(type(i) is not int for i in out_indices)
        or list(out_indices)
        != sorted(set(out_indices) & set(range(NUM_STAGES)))
    ):
        raise ConfigError(
            'out_indices must be whole numbers from 0 to '
            f'{NUM_STAGES - 1} in ascending order, got '
            f'out_indices={out_indices!r}'
        )


def _check_init_cfg(init_cfg: object) -> None:
    """Raise an error for settings that would fail only when used."""
    configs = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    for cfg in configs or [None]:
        if not isinstance(cfg, dict) or not isinstance(cfg.get('type'), str):
            raise ConfigError(
                "init_cfg must be a dict with a 'type', or a list of such "
                f'dicts, got init_cfg={init_cfg!r}'
            )
        if cfg['type'] == 'Pretrained' and (
            not isinstance(cfg.get('checkpoint'), str)
            or set(cfg) - {'type', 'checkpoint', 'prefix', 'map_location'}
        ):
            raise ConfigError(
                "init_cfg of type 'Pretrained' needs checkpoint=PATH and may "
                f'have prefix and map_location, got init_cfg={cfg!r}'
            )


@MODELS.register_module()
class BiFormer(BaseModule):
    """BiFormer backbone for dense prediction.

    From `BiFormer: Vision Transformer with Bi-Level Routing Attention
    <https://arxiv.org/abs/2303.08810>`_ (CVPR 2023). Parameter names are those
    of the authors' released checkpoints.

    Args:
        arch (str | dict): ``'tiny'``, ``'small'``, ``'base'``, or a dict with

            - **depths** (Sequence[int]): Blocks in each of the four stages.
            - **dims** (Sequence[int]): Channels in each of them; multiples of
              8 where attention is global.
            - **head_dim** (int, optional): Channels of a head in the routed
              stages; must divide their ``dims``. Default: 32.
            - **mlp_ratio** (float, optional): Hidden width of the MLPs in
              units of the stage's channels. Default: 3.

            Default: ``'tiny'``.
        n_win (int): Regions per side, S. The authors use 7 on ImageNet, 16 on
            COCO and 8 on ADE20K. Default: 7.
        topks (Sequence[int], optional): For each stage, the regions that each
            region attends to, between 1 and S*S; -2 stands for global
            attention. Default: None, which means (1, 4, 16, -2).
        out_indices (Sequence[int]): Stages whose maps are returned, from 0 to
            3 in ascending order. Default: (0, 1, 2, 3).
        drop_path_rate (float): Stochastic depth rate of the last block; it
            rises linearly from 0 over all blocks. Default: 0.
        frozen_stages (int): -1 freezes nothing, 0 the stem, and i from 1 to 4
            the stem and the first i stages with the norms of their outputs.
            Default: -1.
        norm_eval (bool): Keep the batch norms in evaluation mode while
            training, so that their statistics do not change. Default: False.
        with_cp (bool): Recompute blocks in the backward pass, to save memory.
            Default: False.
        attn_backend (str): Implementation of routed attention, see
            :func:`mmbiformer.ops.routed_attention`. Default: ``'auto'``.
        init_cfg (dict | list[dict], optional): mmengine's initialization
            config. A released ImageNet checkpoint loads without conversion by
            ``dict(type='Pretrained', checkpoint=...)``, see
            :func:`mmbiformer.models.pretrained.load_pretrained`. Default:
            None, which means the authors' initialization.

    Raises:
        ConfigError: If an argument is not as described above.

    Example:
        >>> import torch
        >>> from mmengine.registry import MODELS
        >>> import mmbiformer
        >>> model = MODELS.build(dict(type='BiFormer', arch='tiny'))
        >>> for level in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(level.shape))
        (1, 64, 16, 24)
        (1, 128, 8, 12)
        (1, 256, 4, 6)
        (1, 512, 2, 3)
    """

    init_cfg: Union[dict, List[dict]]
    # Table 1 of the paper.
    arch_zoo = {
        'tiny': dict(depths=(2, 2, 8, 2), dims=(64, 128, 256, 512)),
        'small': dict(depths=(4, 4, 18, 4), dims=(64, 128, 256, 512)),
        'base': dict(depths=(4, 4, 18, 4), dims=(96, 192, 384, 768)),
    }

    def __init__(
        self,
        arch: Union[str, dict] = 'tiny',
        n_win: int = 7,
        topks: Optional[Sequence[int]] = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        attn_backend: str = 'auto',
        init_cfg: Union[dict, List[dict], None] = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [
                dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
                dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
            ]
        _check_init_cfg(init_cfg)
        super().__init__(init_cfg)
        _check_out_indices(out_indices)
        check_int('frozen_stages', frozen_stages, -1, NUM_STAGES)
        check_bool('norm_eval', norm_eval)
        check_bool('with_cp', with_cp)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp

        settings = self._parse_arch(arch)
        topks = (1, 4, 16, GLOBAL_ATTENTION) if topks is None else topks
        check_length('topks', topks, NUM_STAGES)
        rates = _drop_path_rates(drop_path_rate, settings.depths)
        # A parameter that never gets a gradient would stop distributed
        # training: no stages after the last map, no norms of other maps.
        num_stages = self.out_indices[-1] + 1
        dims = settings.dims
        self.downsample_layers = nn.ModuleList(
            [
                _build_stem(dims[0]),
                *map(_build_downsampling, dims, dims[1:num_stages]),
            ]
        )
        self.stages = nn.ModuleList(
            self._build_stage(
                i, settings, topks[i], n_win, attn_backend, rates[i]
            )
            for i in range(num_stages)
        )
        self.extra_norms = nn.ModuleDict(
            {str(i): nn.LayerNorm(dims[i], eps=1e-6) for i in self.out_indices}
        )
        self._freeze_stages()

    @classmethod
    def _parse_arch(cls, arch: Union[str, dict]) -> Arch:
        """Return the settings of an arch given by name or as a dict."""
        if isinstance(arch, str) and arch in cls.arch_zoo:
            arch = cls.arch_zoo[arch]
        if not isinstance(arch, dict):
            raise ConfigError(
                f'arch must be one of {tuple(cls.arch_zoo)} or a dict, got '
                f'arch={arch!r}'
            )
        return Arch.parse(arch)

    @staticmethod
    def _build_stage(
        index: int,
        arch: Arch,
        topk: int,
        n_win: int,
        attn_backend: str,
        drop_path_rates: Sequence[float],
    ) -> nn.Sequential:
        """Build the blocks of a stage; errors name the stage."""
        dim = arch.dims[index]
        blocks = []
        try:
            for rate in drop_path_rates:
                attn = _build_attention(
                    dim, arch.head_dim, topk, n_win, attn_backend
                )
                blocks.append(BiFormerBlock(dim, attn, arch.mlp_ratio, rate))
        except ConfigError as error:
            raise ConfigError(
                f'stage {index} of BiFormer (topks[{index}]={topk!r}, '
                f'dims[{index}]={dim}): {error}'
            ) from None
        return nn.Sequential(*blocks)

    def init_weights(self) -> None:
        """Initialize the weights, or load them if ``init_cfg`` says so."""
        init_cfg = self.init_cfg
        configs = init_cfg if isinstance(init_cfg, list) else [init_cfg]
        pretrained = [cfg for cfg in configs if cfg['type'] == 'Pretrained']
        if len(pretrained) < len(configs):
            self.init_cfg = [cfg for cfg in configs if cfg not in pretrained]
            super().init_weights()
            self.init_cfg = init_cfg
        for cfg in pretrained:
            load_pretrained(
                self, **{k: v for k, v in cfg.items() if k != 'type'}
            )

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the maps of the chosen stages.

        Args:
            x (Tensor): Images of shape (N, 3, H, W), of any size.

        Returns:
            tuple[Tensor]: For each i in ``out_indices`` a map of shape
            (N, C_i, H_i, W_i) at stride 4 * 2**i; sides are rounded up.

        Raises:
            ValueError: If ``x`` is not of shape (N, 3, H, W), or H or W is 0.
            ConfigError: If ``x`` is one image so small that its last map has
                one value per channel, and batch norms are trained.
        """
        self._check_images(x)
        # The layout of the linear layers; the convolutions keep it.
        x = x.contiguous(memory_format=torch.channels_last)
        outs = []
        for i, (downsample, stage) in enumerate(
            zip(self.downsample_layers, self.stages, strict=True)
        ):
            x = downsample(x)
            for block in stage.children():
                if self.with_cp and x.requires_grad:
                    x = cp.checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            if i in self.out_indices:
                # The next stage takes the map before this norm.
                out = self.extra_norms[str(i)](x.permute(0, 2, 3, 1))
                outs.append(out.permute(0, 3, 1, 2).contiguous())
        return tuple(outs)

    def _check_images(self, x: Tensor) -> None:
        """Raise an error for images that cannot be computed."""
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < 1:
            raise ValueError(
                'BiFormer takes images of shape (N, 3, H, W), '
                f'got {tuple(x.shape)}'
            )
        *_, norm = self.downsample_layers[-1].children()
        stride = 4 * 2 ** (len(self.stages) - 1)
        if (
            norm.training
            and not isinstance(norm, nn.SyncBatchNorm)
            and x.shape[0] == 1
            and max(x.shape[2:]) <= stride
        ):
            raise ConfigError(
                'batch norms cannot be trained on one image of '
                f'{x.shape[2]} x {x.shape[3]} px, whose last map has one '
                'value per channel: use batches of two or more, sides above '
                f'{stride} px, or norm_eval=True'
            )

    def _freeze_stages(self) -> None:
        """Freeze the stem and the first ``frozen_stages`` stages."""
        if self.frozen_stages < 0:
            return
        frozen = [self.downsample_layers[0]]
        for i in range(min(self.frozen_stages, len(self.stages))):
            frozen += [self.downsample_layers[i], self.stages[i]]
            if i in self.out_indices:
                frozen.append(self.extra_norms[str(i)])
        for module in frozen:
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad = False

    def train(self, mode: bool = True) -> 'BiFormer':
        """Set the mode; frozen stages and norms stay in evaluation mode.

        Args:
            mode (bool): Whether to train. Default: True.

        Returns:
            BiFormer: Itself.
        """
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
