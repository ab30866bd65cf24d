"""The block of BiFormer: position, attention and MLP (Section 3.3)."""

import torch
import torch.nn as nn
import torch.utils.checkpoint as cp
from mmcv.cnn.bricks import DropPath
from torch import Tensor

from mmbiformer.utils.errors import ConfigError

from .arguments import is_number
from .attention import add, is_observed


class MLP(nn.Sequential):
    """Two linear layers with GELU between them, applied to each token.

    Args:
        dim (int): Channels, C.
        hidden (int): Channels between the layers.
        identity (bool): Whether a layer that does nothing is counted in the
            names of the weights. Default: True.
    """

    HIDDEN_BYTES = 2**22
    """int: Upper bound on the hidden values computed at a time without
    gradients, in bytes. Small blocks of memory are used again; large ones are
    requested from the system each time."""

    def __init__(self, dim: int, hidden: int, identity: bool = True) -> None:
        super().__init__(
            nn.Linear(dim, hidden),
            # The released checkpoints name the second linear layer mlp.3, and
            # those of BiFormer-STL mlp.2.
            *([nn.Identity()] if identity else []),
            nn.GELU(),
            nn.Linear(hidden, dim),
        )
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        """Compute the MLP.

        Args:
            x (Tensor): Tokens of shape (..., C).

        Returns:
            Tensor: Tokens of the same shape.
        """
        forward = super().forward
        # A hook is to see the whole map.
        if (
            x.device.type != 'cpu'
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or any(map(is_observed, self))
        ):
            return forward(x)
        step = max(1, self.HIDDEN_BYTES // (self.hidden * x.element_size()))
        tokens = x.flatten(0, -2)
        parts = tokens.chunk(max(1, -(-len(tokens) // step)))
        return torch.cat([forward(part) for part in parts]).view(x.shape)


class BiFormerBlock(nn.Module):
    """A depthwise convolution, attention and an MLP, each with a residual.

    Args:
        dim (int): Channels, C.
        attn (nn.Module): The attention layer, for channels-last maps.
        mlp_ratio (float): Hidden channels of the MLP in units of ``dim``.
        drop_path_rate (float): Probability of stochastic depth. Default: 0.
        with_cp (bool): Compute the block again in the backward pass, to save
            memory. Default: False.
        layout (str): ``'biformer'``, or ``'stl'`` for a block without the
            depthwise convolution, as in Swin Transformer. Default:
            ``'biformer'``.

    Raises:
        ConfigError: If ``mlp_ratio`` leaves the MLP no hidden channel.
    """

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp_ratio: float,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        layout: str = 'biformer',
    ) -> None:
        super().__init__()
        if not is_number(mlp_ratio) or mlp_ratio * dim < 1:
            raise ConfigError(
                'mlp_ratio must be a number of at least 1 / dim, got '
                f'mlp_ratio={mlp_ratio!r}, dim={dim}'
            )
        own_position = layout == 'biformer'
        self.pos_embed = None
        if own_position:
            self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, int(mlp_ratio * dim), identity=own_position)
        self.drop_path = DropPath(drop_path_rate)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block.

        Args:
            x (Tensor): Map of shape (N, C, H, W).

        Returns:
            Tensor: Map of the same shape, channels last in memory.
        """
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        """Compute the block, without checkpointing."""
        if self.pos_embed is None:
            # What the block takes belongs to others, who may use it again.
            x = x.permute(0, 2, 3, 1)
            x = x + self.drop_path(self.attn(self.norm1(x)))
        else:
            x = x + self.pos_embed(x)
            x = x.permute(0, 2, 3, 1)
            x = add(x, self.drop_path(self.attn(self.norm1(x))))
        x = add(x, self.drop_path(self.mlp(self.norm2(x))))
        return x.permute(0, 3, 1, 2)
