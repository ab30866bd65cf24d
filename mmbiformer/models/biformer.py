"""The BiFormer backbone."""

import math
from typing import Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
import torch.utils.checkpoint as cp
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmbiformer.ops import ATTENTION_BACKENDS

from .attention import BiLevelRoutingAttention, GlobalAttention, add
from .pretrained import load_pretrained

NUM_STAGES = 4
GLOBAL_ATTENTION = -2
"""int: The value in ``topks`` that stands for global attention (authors')."""


def _check_ints(
    name: str, values: object, length: Optional[int] = None
) -> None:
    """Refuse what is not a sequence of whole numbers, naming the argument."""
    if not isinstance(values, (list, tuple)) or (
        length is not None and len(values) != length
    ):
        many = '' if length is None else f'{length} '
        raise ValueError(
            f'{name} must be a sequence of {many}whole numbers, got '
            f'{name}={values!r}'
        )
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(
                f'{name} takes whole numbers, got {name}={value!r}'
            )


def _is_number(value: object) -> bool:
    """Tell whether a value is a finite number."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _check_init_cfg(init_cfg: object) -> None:
    """Refuse initialization configs that would fail only in use."""
    configs = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    for cfg in configs or [None]:
        if not isinstance(cfg, dict) or not isinstance(cfg.get('type'), str):
            raise ValueError(
                "init_cfg must be a dict with 'type', a name, or a list of "
                f'such, got init_cfg={init_cfg!r}'
            )
        if cfg['type'] == 'Pretrained' and (
            not isinstance(cfg.get('checkpoint'), str)
            or set(cfg) - {'type', 'checkpoint', 'prefix', 'map_location'}
        ):
            raise ValueError(
                "init_cfg of type 'Pretrained' needs checkpoint=PATH and may "
                f'have prefix and map_location, got init_cfg={cfg!r}'
            )


class MLP(nn.Sequential):
    """Two linear layers with GELU between them, token by token.

    Args:
        dim (int): Channels, C.
        hidden (int): Channels between the layers.
    """

    HIDDEN_BYTES = 2**22
    """int: Hidden values computed at a time where no gradient needs them, in
    bytes. Small memory is used again, large memory asked for anew."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(
            nn.Linear(dim, hidden),
            # The released checkpoints name the second linear layer mlp.3.
            nn.Identity(),
            nn.GELU(),
            nn.Linear(hidden, dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        forward = super().forward
        step = self.HIDDEN_BYTES // (self[0].out_features * x.element_size())
        if (
            x.device.type != 'cpu'
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
        ):
            return forward(x)
        tokens = x.flatten(0, -2)
        parts = tokens.chunk(max(1, -(-len(tokens) // max(1, step))))
        return torch.cat([forward(part) for part in parts]).view(x.shape)


class BiFormerBlock(nn.Module):
    """One block: position, attention, MLP, each on a residual branch.

    Args:
        dim (int): Channels, C.
        attn (nn.Module): The attention layer, on channels-last maps.
        mlp_ratio (float): Hidden width of the MLP in units of ``dim``.
        drop_path_rate (float): Probability of stochastic depth. Default: 0.
    """

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp_ratio: float,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, int(mlp_ratio * dim))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block.

        Args:
            x (Tensor): Map of shape (N, C, H, W).

        Returns:
            Tensor: Map of the same shape, channels last in memory.
        """
        x = x + self.pos_embed(x)
        x = x.permute(0, 2, 3, 1)
        x = add(x, self.drop_path(self.attn(self.norm1(x))))
        x = add(x, self.drop_path(self.mlp(self.norm2(x))))
        return x.permute(0, 3, 1, 2)


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
        out_indices (Sequence[int]): Stages whose maps are returned, rising,
            from 0 to 3. Default: (0, 1, 2, 3).
        drop_path_rate (float): Stochastic depth rate of the last block; it
            rises linearly from 0 over all blocks. Default: 0.
        frozen_stages (int): -1 freezes nothing, 0 the stem, and i from 1 to 4
            the stem and the first i stages with the norms of their outputs.
            Default: -1.
        norm_eval (bool): Keep the batch norms' statistics as they are in
            training too. Default: False.
        with_cp (bool): Recompute blocks in the backward pass, to save memory.
            Default: False.
        attn_backend (str): How routed attention is computed, see
            :func:`mmbiformer.ops.routed_attention`. Default: ``'auto'``.
        init_cfg (dict, optional): mmengine's initialization config.
            ``dict(type='Pretrained', checkpoint=...)`` takes a released
            ImageNet checkpoint as it is, see
            :func:`mmbiformer.models.pretrained.load_pretrained`. Default:
            None, which means the authors' initialization.

    Raises:
        TypeError: If ``arch`` is neither a name nor a dict.
        ValueError: If an argument is outside what is said above.

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
        init_cfg: Optional[dict] = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [
                dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
                dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
            ]
        _check_init_cfg(init_cfg)
        super().__init__(init_cfg)
        depths, dims, head_dim, mlp_ratio = self._parse_arch(arch)
        topks = (1, 4, 16, GLOBAL_ATTENTION) if topks is None else topks
        _check_ints('n_win', [n_win])
        _check_ints('topks', topks, NUM_STAGES)
        self._check_arguments(out_indices, drop_path_rate, frozen_stages)
        if n_win < 1:
            raise ValueError(f'n_win must be at least 1, got n_win={n_win}')
        for name, value in (('norm_eval', norm_eval), ('with_cp', with_cp)):
            if not isinstance(value, bool):
                raise ValueError(
                    f'{name} must be True or False, got {name}={value!r}'
                )
        if attn_backend not in ATTENTION_BACKENDS:
            raise ValueError(
                f'attn_backend must be one of {ATTENTION_BACKENDS}, got '
                f'attn_backend={attn_backend!r}'
            )
        if any(
            dim % head_dim
            for dim, topk in zip(dims, topks, strict=True)
            if topk != GLOBAL_ATTENTION
        ):
            raise ValueError(
                "arch['head_dim'] must divide the dims of the routed "
                f'stages, got head_dim={head_dim}, dims={dims}, topks={topks}'
            )
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        # A parameter that never gets a gradient would stop distributed
        # training: no stages behind the last map, no norms of other maps.
        num_stages = self.out_indices[-1] + 1

        self.downsample_layers = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(3, dims[0] // 2, 3, stride=2, padding=1),
                    nn.BatchNorm2d(dims[0] // 2),
                    nn.GELU(),
                    nn.Conv2d(dims[0] // 2, dims[0], 3, stride=2, padding=1),
                    nn.BatchNorm2d(dims[0]),
                )
            ]
        )
        for i in range(1, num_stages):
            self.downsample_layers.append(
                nn.Sequential(
                    nn.Conv2d(dims[i - 1], dims[i], 3, stride=2, padding=1),
                    nn.BatchNorm2d(dims[i]),
                )
            )

        # Numbers, not weights: wanted where weights are built on 'meta', too.
        rates = torch.linspace(
            0, drop_path_rate, sum(depths), device='cpu'
        ).split(depths)
        self.stages = nn.ModuleList()
        for i in range(num_stages):
            dim, topk = dims[i], topks[i]
            self.stages.append(nn.Sequential())
            for rate in rates[i].tolist():
                try:
                    if topk == GLOBAL_ATTENTION:
                        attn = GlobalAttention(dim)
                    else:
                        attn = BiLevelRoutingAttention(
                            dim, dim // head_dim, n_win, topk, attn_backend
                        )
                except ValueError as error:
                    raise ValueError(
                        f'stage {i} of BiFormer (topks[{i}]={topk}, '
                        f'dims[{i}]={dim}): {error}'
                    ) from None
                self.stages[i].append(
                    BiFormerBlock(dim, attn, mlp_ratio, rate)
                )

        self.extra_norms = nn.ModuleDict(
            {str(i): nn.LayerNorm(dims[i], eps=1e-6) for i in self.out_indices}
        )
        self._freeze_stages()

    @classmethod
    def _parse_arch(cls, arch: Union[str, dict]) -> tuple:
        """Return depths, dims, head_dim and mlp_ratio of an arch."""
        if isinstance(arch, str):
            if arch not in cls.arch_zoo:
                raise ValueError(
                    f'arch must be one of {tuple(cls.arch_zoo)} '
                    f'or a dict, got arch={arch!r}'
                )
            arch = cls.arch_zoo[arch]
        if not isinstance(arch, dict):
            raise TypeError(
                f'arch must be one of {tuple(cls.arch_zoo)} or a '
                f'dict, got arch={arch!r}'
            )
        required, optional = {'depths', 'dims'}, {'head_dim', 'mlp_ratio'}
        missing = required - set(arch)
        surplus = set(arch) - required - optional
        if missing or surplus:
            raise ValueError(
                f'arch needs the keys {sorted(required)} and may have '
                f'{sorted(optional)}; missing {sorted(missing)}, unknown '
                f'{sorted(surplus)}, got arch={arch}'
            )
        for key in required:
            _check_ints(f"arch['{key}']", arch[key], NUM_STAGES)
            if min(arch[key]) < 1:
                raise ValueError(
                    f"arch['{key}'] must be positive, got {arch[key]}"
                )
        head_dim = arch.get('head_dim', 32)
        mlp_ratio = arch.get('mlp_ratio', 3)
        _check_ints("arch['head_dim']", [head_dim])
        if head_dim < 1:
            raise ValueError(
                f"arch['head_dim'] must be positive, got head_dim={head_dim}"
            )
        if not _is_number(mlp_ratio) or mlp_ratio * min(arch['dims']) < 1:
            raise ValueError(
                "arch['mlp_ratio'] must be a positive number that leaves the "
                f'MLPs a channel, got mlp_ratio={mlp_ratio!r}, '
                f'dims={arch["dims"]}'
            )
        if arch['dims'][0] < 2:
            raise ValueError(
                "arch['dims'] must begin with 2 or more, as the stem has half "
                f'of them, got dims={arch["dims"]}'
            )
        return tuple(arch['depths']), tuple(arch['dims']), head_dim, mlp_ratio

    @staticmethod
    def _check_arguments(
        out_indices: Sequence[int], drop_path_rate: float, frozen_stages: int
    ) -> None:
        """Refuse what no layer would refuse by itself."""
        _check_ints('out_indices', out_indices)
        if not out_indices or list(out_indices) != sorted(
            set(out_indices) & set(range(NUM_STAGES))
        ):
            raise ValueError(
                'out_indices must be rising numbers from 0 to '
                f'{NUM_STAGES - 1}, got out_indices={out_indices}'
            )
        if not _is_number(drop_path_rate) or not 0 <= drop_path_rate < 1:
            raise ValueError(
                'drop_path_rate must be a number of at least 0 and below 1, '
                f'got drop_path_rate={drop_path_rate!r}'
            )
        _check_ints('frozen_stages', [frozen_stages])
        if frozen_stages not in range(-1, NUM_STAGES + 1):
            raise ValueError(
                f'frozen_stages must be between -1 and {NUM_STAGES}, got '
                f'frozen_stages={frozen_stages!r}'
            )

    def init_weights(self) -> None:
        """Initialize the weights, or load them where ``init_cfg`` says so."""
        configs = self.init_cfg
        configs = configs if isinstance(configs, list) else [configs]
        pretrained = [cfg for cfg in configs if cfg['type'] == 'Pretrained']
        if len(pretrained) < len(configs):
            self.init_cfg = [cfg for cfg in configs if cfg not in pretrained]
            super().init_weights()
            self.init_cfg = configs
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
            ValueError: If ``x`` is not of shape (N, 3, H, W), or has no
                pixel. Or if it is one image so small that its last map is one
                value a channel, and batch norms are trained.
        """
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < 1:
            raise ValueError(
                'BiFormer takes images of shape (N, 3, H, W), '
                f'got {tuple(x.shape)}'
            )
        norm = self.downsample_layers[-1][-1]
        stride = 4 * 2 ** (len(self.stages) - 1)
        if (
            norm.training
            and not isinstance(norm, nn.SyncBatchNorm)
            and x.shape[0] == 1
            and max(x.shape[2:]) <= stride
        ):
            raise ValueError(
                'batch norms cannot be trained on one image of '
                f'{x.shape[2]} x {x.shape[3]} px, whose last map is one value '
                'a channel: take batches of two or more, sides above '
                f'{stride} px, or norm_eval=True'
            )
        # The layout of the linear layers; the convolutions keep it.
        x = x.contiguous(memory_format=torch.channels_last)
        outs = []
        for i in range(len(self.stages)):
            x = self.downsample_layers[i](x)
            for block in self.stages[i]:
                if self.with_cp and x.requires_grad:
                    x = cp.checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            if i in self.out_indices:
                # The next stage takes the map as it was before this norm.
                out = self.extra_norms[str(i)](x.permute(0, 2, 3, 1))
                outs.append(out.permute(0, 3, 1, 2).contiguous())
        return tuple(outs)

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
        """Set training mode; frozen stages and norms stay in evaluation.

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
