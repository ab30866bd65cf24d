"""The BiFormer backbone."""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmbiformer.checkpoints.classifiers import (
    name_as_mmpretrain,
    weights_of_authors,
)
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
from .embedding import build_downsampling, build_stem
from .fused import run_stage
from .pretrained import check_init_cfg, is_pretrained, load_pretrained
from .stage import GLOBAL_ATTENTION, attn_cfg_of_stages, build_stage


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


@MODELS.register_module()
class BiFormer(BaseModule):
    """BiFormer backbone, for dense prediction and classification.

    From `BiFormer: Vision Transformer with Bi-Level Routing Attention
    <https://arxiv.org/abs/2303.08810>`_ (CVPR 2023). Parameter names are those
    of the authors' released checkpoints.

    Args:
        arch (str | dict): ``'tiny'``, ``'small'``, ``'base'``, ``'stl'``, or a
            dict with

            - **depths** (Sequence[int]): Blocks in each of the four stages.
            - **dims** (Sequence[int]): Channels in each of them; multiples of
              8 where attention is global.
            - **head_dim** (int, optional): Channels of a head in the routed
              stages; must divide their ``dims``. Default: 32.
            - **mlp_ratio** (float | Sequence[float], optional): Hidden width
              of the MLPs in units of the stage's channels, for all stages or
              for each of the four. Default: 3.
            - **layout** (str, optional): What surrounds the attention:
              ``'biformer'``, or ``'stl'`` for that of Swin Transformer, with
              convolutions of whole patches, batch norms before those between
              stages, and no positional convolution. Default:
              ``'biformer'``.

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
        final_norm (bool): Put the batch norm of the authors' classifiers,
            ``norm``, on the last map, in place of the layer norms of all maps,
            for image classification; needs ``out_indices=(3,)``. Default:
            False.
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

    arch_zoo: Dict[str, dict] = {
        'tiny': dict(depths=(2, 2, 8, 2), dims=(64, 128, 256, 512)),
        'small': dict(depths=(4, 4, 18, 4), dims=(64, 128, 256, 512)),
        'base': dict(depths=(4, 4, 18, 4), dims=(96, 192, 384, 768)),
        # Of the authors' released models; its layout is Swin-T's.
        'stl': dict(
            depths=(2, 2, 6, 2),
            dims=(96, 192, 384, 768),
            mlp_ratio=4,
            layout='stl',
        ),
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
        final_norm: bool = False,
        init_cfg: Union[dict, List[dict], None] = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [
                dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
                dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
            ]
        check_init_cfg(init_cfg)
        super().__init__(init_cfg)
        check_int('frozen_stages', frozen_stages, -1, NUM_STAGES)
        check_bool('norm_eval', norm_eval)
        check_bool('final_norm', final_norm)
        check_int('in_channels', in_channels, 1)
        cp_stages = _checkpointed_stages(with_cp)
        self.out_indices = resolve_stages(
            'out_indices', out_indices, NUM_STAGES
        )
        if final_norm and self.out_indices != (NUM_STAGES - 1,):
            raise ConfigError(
                'final_norm=True needs the last map alone, out_indices=(3,), '
                f'got out_indices={out_indices!r}'
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
                build_stem(settings, in_channels),
                *(
                    build_downsampling(settings, stage)
                    for stage in range(1, num_stages)
                ),
            ]
        )
        self.stages = nn.ModuleList(
            build_stage(
                i, settings, topks[i], options[i], rates[i], i in cp_stages
            )
            for i in range(num_stages)
        )
        self.norm = nn.BatchNorm2d(dims[-1]) if final_norm else None
        self.extra_norms = nn.ModuleDict(
            {str(i): nn.LayerNorm(dims[i], eps=1e-6) for i in self.out_indices}
            if self.norm is None
            else {}
        )
        self._depths = settings.depths[:num_stages]
        self._freeze_stages()

    @classmethod
    def _parse_arch(cls, arch: Union[str, dict]) -> Arch:
        """Return the settings of an arch given by name or as a dict."""
        if isinstance(arch, str) and arch in cls.arch_zoo:
            arch = cls.arch_zoo[arch]
        if isinstance(arch, str) and 'nchw' in arch:
            raise ConfigError(
                'the channels-first form of BiFormer-STL is not supported, as '
                "its weights have other names: use arch='stl', which computes "
                f'the same, and its weights; got arch={arch!r}'
            )
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
        pretrained = [cfg for cfg in configs if is_pretrained(cfg)]
        if len(pretrained) < len(configs):
            self.init_cfg = [cfg for cfg in configs if cfg not in pretrained]
            super().init_weights()
            self.init_cfg = init_cfg
        for cfg in pretrained:
            load_pretrained(
                self, **{k: v for k, v in cfg.items() if k != 'type'}
            )
        self._is_init = True

    @staticmethod
    def _checkpoint_filter(state_dict: dict, *_: Any) -> None:
        """Rename the weights of a classifier of the authors' code.

        mmpretrain's ``ImageClassifier`` calls it before it loads weights.

        Args:
            state_dict (dict): The weights, or what such a file holds beside
                them, too; changed in place.
            *_ (Any): Other arguments of torch's hook.
        """
        weights = weights_of_authors(state_dict)
        if weights is not None:
            named = name_as_mmpretrain(weights)
            state_dict.clear()
            state_dict.update(named)

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
        depths = self._depths
        num_layers = sum(depths) + 2
        name = param_name[len(prefix) :].replace('.blocks.', '.')
        kind, stage, block = (*name.split('.'), '', '')[:3]
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
            if self.norm is None and i in self.out_indices:
                # The next stage takes the map before this norm.
                out = self.extra_norms[str(i)](x.permute(0, 2, 3, 1))
                outs.append(out.permute(0, 3, 1, 2).contiguous())
        if self.norm is not None:
            outs.append(self.norm(x).contiguous())
        return tuple(outs)

    def _check_images(self, x: Tensor) -> None:
        """Raise an error for images that cannot be computed."""
        channels = self.in_channels
        if x.dim() != 4 or x.shape[1] != channels or min(x.shape[2:]) < 1:
            raise ValueError(
                f'BiFormer takes images of shape (N, {channels}, H, W), '
                f'got {tuple(x.shape)}'
            )
        norm, stride = self._coarsest_batch_norm()
        if (
            norm.training
            and not isinstance(norm, nn.SyncBatchNorm)
            and x.shape[0] == 1
            and max(x.shape[2:]) <= stride
        ):
            raise ConfigError(
                'batch norms cannot be trained on one image of '
                f'{x.shape[2]} x {x.shape[3]} px, whose map of stride '
                f'{stride} has one value per channel: use batches of two or '
                f'more, sides above {stride} px, or norm_eval=True'
            )

    def _coarsest_batch_norm(self) -> Tuple[nn.Module, int]:
        """Return the batch norm of the smallest map, and the map's stride."""
        if self.norm is not None:
            return self.norm, 4 * 2 ** (NUM_STAGES - 1)
        layers = [*self.downsample_layers[-1].children()]
        stride = 4 * 2 ** (len(self.stages) - 1)
        if isinstance(layers[0], _BatchNorm):
            return layers[0], stride // 2
        return layers[-1], stride

    def _freeze_stages(self) -> None:
        """Freeze the stem and the first ``frozen_stages`` stages."""
        if self.frozen_stages < 0:
            return
        frozen = [self.downsample_layers[0]]
        for i in range(min(self.frozen_stages, len(self.stages))):
            frozen += [self.downsample_layers[i], self.stages[i]]
            if i in self.out_indices:
                frozen.append(self.norm or self.extra_norms[str(i)])
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
