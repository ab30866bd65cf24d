"""The BiFormer backbone."""

from typing import Any, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmbiformer.utils.errors import ConfigError

from .arch import NUM_STAGES, Arch
from .arguments import (
    check_bool,
    check_int,
    check_length,
    is_number,
    resolve_stages,
)
from .authors_options import refuse_authors_options
from .fused import run_stage
from .pretrained import load_pretrained
from .stage import GLOBAL_ATTENTION, attn_cfg_of_stages, build_stage


def _build_stem(in_channels: int, dim: int) -> nn.Sequential:
    """Build the patch embedding, of stride 4."""
    return nn.Sequential(
        nn.Conv2d(in_channels, dim // 2, 3, stride=2, padding=1),
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


def _checkpointed_stages(with_cp: object) -> Sequence[int]:
    """Return the stages that ``with_cp`` names."""
    if isinstance(with_cp, bool):
        return range(NUM_STAGES) if with_cp else ()
    if isinstance(with_cp, (list, tuple, range)):
        none = len(with_cp) == 0
        return () if none else resolve_stages('with_cp', with_cp, NUM_STAGES)
    raise ConfigError(
        'with_cp must be a list of stages, True or False, got '
        f'with_cp={with_cp!r}'
    )


def _is_pretrained(cfg: dict) -> bool:
    """Return whether an initialization config loads weights."""
    return cfg['type'] in ('Pretrained', PretrainedInit)


def _check_init_cfg(init_cfg: object) -> None:
    """Raise an error for settings that would fail only when used."""
    configs = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    for cfg in configs or [None]:
        if not isinstance(cfg, dict) or not isinstance(
            cfg.get('type'), (str, type)
        ):
            raise ConfigError(
                "init_cfg must be a dict with a 'type', or a list of such "
                f'dicts, got init_cfg={init_cfg!r}'
            )
        if _is_pretrained(cfg) and (
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
            - **mlp_ratio** (float | Sequence[float], optional): Hidden width
              of the MLPs in units of the stage's channels, for all stages or
              for each of the four. Default: 3.

            Default: ``'tiny'``.
        n_win (int): Regions per side, S. The authors use 7 on ImageNet, 16 on
            COCO and 8 on ADE20K. Default: 7.
        topks (Sequence[int], optional): For each stage, the regions that each
            region attends to, between 1 and S*S; or -2 for global attention,
            -1 for global attention without local context, and 0 for
            convolutions (1 x 1, depthwise 5 x 5, 1 x 1) in place of attention.
            Default: None, which means (1, 4, 16, -2).
        out_indices (int | Sequence[int]): Stages whose maps are returned, from
            0 to 3 in ascending order, or from -4 to -1. Default: (0, 1, 2, 3).
        drop_path_rate (float): Stochastic depth rate of the last block; it
            rises linearly from 0 over all blocks. Default: 0.
        frozen_stages (int): -1 freezes nothing, 0 the stem, and i from 1 to 4
            the stem and the first i stages with the norms of their outputs.
            Default: -1.
        norm_eval (bool): Keep the batch norms in evaluation mode while
            training, so that their statistics do not change. Default: False.
        with_cp (bool | Sequence[int]): Recompute blocks in the backward pass,
            to save memory: those of all stages, or of the given ones, counted
            from 0. Default: False.
        attn_backend (str): Implementation of routed attention, see
            :func:`mmbiformer.ops.routed_attention`. Default: ``'auto'``.
        in_channels (int): Channels of the images. Default: 3.
        attn_cfg (dict | Sequence[dict], optional): Options of the routed
            attention layers, for all routed stages or for each of the four
            stages: ``qk_scale``, ``soft_routing``, ``diff_routing``,
            ``kv_downsample_mode``, ``kv_downsample_ratio`` and ``kv_per_win``,
            see :class:`mmbiformer.models.BiLevelRoutingAttention`. Default:
            None, which means those of the released models.
        init_cfg (dict | list[dict], optional): mmengine's initialization
            config. A released ImageNet checkpoint loads without conversion by
            ``dict(type='Pretrained', checkpoint=...)``, see
            :func:`mmbiformer.models.pretrained.load_pretrained`. Default:
            None, which means the authors' initialization.

    Raises:
        ConfigError: If an argument is not as described above, or is one of
            the authors' code that has another name here.

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
    _is_init: bool

    arch_zoo = {
        'tiny': dict(depths=(2, 2, 8, 2), dims=(64, 128, 256, 512)),
        'small': dict(depths=(4, 4, 18, 4), dims=(64, 128, 256, 512)),
        'base': dict(depths=(4, 4, 18, 4), dims=(96, 192, 384, 768)),
    }

    def __new__(cls, *args: Any, **kwargs: Any) -> 'BiFormer':
        """Translate names of the authors, which ``__init__`` does not have."""
        refuse_authors_options(kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        arch: Union[str, dict] = 'tiny',
        n_win: int = 7,
        topks: Optional[Sequence[int]] = None,
        out_indices: Union[int, Sequence[int]] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: Union[bool, Sequence[int]] = False,
        attn_backend: str = 'auto',
        in_channels: int = 3,
        attn_cfg: Union[dict, Sequence[dict], None] = None,
        init_cfg: Union[dict, List[dict], None] = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [
                dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
                dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
            ]
        _check_init_cfg(init_cfg)
        super().__init__(init_cfg)
        check_int('frozen_stages', frozen_stages, -1, NUM_STAGES)
        check_bool('norm_eval', norm_eval)
        check_int('in_channels', in_channels, 1)
        cp_stages = _checkpointed_stages(with_cp)
        self.out_indices = resolve_stages(
            'out_indices', out_indices, NUM_STAGES
        )
        self.in_channels = in_channels
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp

        settings = self._parse_arch(arch)
        topks = (1, 4, 16, GLOBAL_ATTENTION) if topks is None else topks
        check_length('topks', topks, NUM_STAGES)
        options = [
            dict(n_win=n_win, attn_backend=attn_backend, **cfg)
            for cfg in attn_cfg_of_stages(attn_cfg, topks)
        ]
        rates = _drop_path_rates(drop_path_rate, settings.depths)
        # A parameter that never gets a gradient would stop distributed
        # training: no stages after the last map, no norms of other maps.
        num_stages = self.out_indices[-1] + 1
        dims = settings.dims
        self.downsample_layers = nn.ModuleList(
            [
                _build_stem(in_channels, dims[0]),
                *map(_build_downsampling, dims, dims[1:num_stages]),
            ]
        )
        self.stages = nn.ModuleList(
            build_stage(
                i, settings, topks[i], options[i], rates[i], i in cp_stages
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

    def init_weights(self) -> None:
        """Initialize the weights, or load them if ``init_cfg`` says so.

        As everywhere in mmengine, a second call does nothing but warn.
        """
        if self._is_init:
            super().init_weights()
            return
        init_cfg = self.init_cfg
        configs = init_cfg if isinstance(init_cfg, list) else [init_cfg]
        pretrained = [cfg for cfg in configs if _is_pretrained(cfg)]
        if len(pretrained) < len(configs):
            self.init_cfg = [cfg for cfg in configs if cfg not in pretrained]
            super().init_weights()
            self.init_cfg = init_cfg
        for cfg in pretrained:
            load_pretrained(
                self, **{k: v for k, v in cfg.items() if k != 'type'}
            )
        self._is_init = True

    def get_layer_depth(
        self, param_name: str, prefix: str = ''
    ) -> Tuple[int, int]:
        """Return the depth of a parameter, for layer-wise learning rates.

        The contract is that of mmpretrain's backbones: the stem has depth 0,
        the blocks count on from 1 over all stages, a downsampling layer has
        the depth of the block after it, and everything else, such as the
        norms of the outputs and parameters outside the backbone, the last.

        Args:
            param_name (str): Name of the parameter.
            prefix (str): Beginning of the backbone's names. Default: ``''``.

        Returns:
            tuple[int, int]: The depth, and the number of depths: blocks + 2.
        """
        depths = [len(list(stage.children())) for stage in self.stages]
        num_layers = sum(depths) + 2
        kind, stage, block = (
            *param_name[len(prefix) :].split('.'), '', ''
        )[:3]  # fmt: skip
        if not param_name.startswith(prefix) or kind not in (
            'downsample_layers',
            'stages',
        ):
            return num_layers - 1, num_layers
        before = sum(depths[: int(stage)])
        if kind == 'stages':
            return before + int(block) + 1, num_layers
        return (before + 1 if int(stage) else 0), num_layers

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the maps of the chosen stages.

        Args:
            x (Tensor): Images of shape (N, C, H, W), of any size, with C
                ``in_channels``.

        Returns:
            tuple[Tensor]: For each i in ``out_indices`` a map of shape
            (N, C_i, H_i, W_i) at stride 4 * 2**i; sides are rounded up.

        Raises:
            ValueError: If ``x`` is not of this shape, or H or W is 0.
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
            x = run_stage(stage, downsample(x))
            if i in self.out_indices:
                # The next stage takes the map before this norm.
                out = self.extra_norms[str(i)](x.permute(0, 2, 3, 1))
                outs.append(out.permute(0, 3, 1, 2).contiguous())
        return tuple(outs)

    def _check_images(self, x: Tensor) -> None:
        """Raise an error for images that cannot be computed."""
        channels = self.in_channels
        if x.dim() != 4 or x.shape[1] != channels or min(x.shape[2:]) < 1:
            raise ValueError(
                f'BiFormer takes images of shape (N, {channels}, H, W), '
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
