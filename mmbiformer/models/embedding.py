"""The layers that halve or quarter the sides of a map, and widen it."""

import torch.nn.functional as F
from torch import Tensor, nn

from .arch import Arch


class PatchConv2d(nn.Conv2d):
    """A convolution of patches that do not overlap.

    A map whose sides are no multiples of the patches' is zero-padded on the
    right and bottom, so that maps of any size are rounded up to whole patches,
    as by the overlapping convolutions.

    Args:
        in_channels (int): Channels of the map.
        out_channels (int): Channels of the result.
        side (int): Side of a patch.
    """

    def __init__(self, in_channels: int, out_channels: int, side: int) -> None:
        super().__init__(in_channels, out_channels, side, stride=side)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the convolution.

        Args:
            x (Tensor): Map of shape (N, C, H, W).

        Returns:
            Tensor: Map of shape (N, C', H / side, W / side), rounded up.
        """
        height, width = x.shape[2:]
        side = self.stride[0]
        bottom, right = -height % side, -width % side
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        return super().forward(x)


def build_stem(arch: Arch, in_channels: int) -> nn.Sequential:
    """Build the patch embedding, of stride 4.

    Args:
        arch (Arch): Widths and layout.
        in_channels (int): Channels of the images.

    Returns:
        nn.Sequential: The layers.
    """
    dim = arch.dims[0]
    if arch.layout == 'stl':
        return nn.Sequential(
            PatchConv2d(in_channels, dim, 4), nn.BatchNorm2d(dim)
        )
    return nn.Sequential(
        nn.Conv2d(in_channels, dim // 2, 3, stride=2, padding=1),
        nn.BatchNorm2d(dim // 2),
        nn.GELU(),
        nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        nn.BatchNorm2d(dim),
    )


def build_downsampling(arch: Arch, stage: int) -> nn.Sequential:
    """Build the layer of stride 2 before a stage.

    Args:
        arch (Arch): Widths and layout.
        stage (int): Stage, from 1 to 3, counted from 0.

    Returns:
        nn.Sequential: The layers.
    """
    in_dim, dim = arch.dims[stage - 1 : stage + 1]
    if arch.layout == 'stl':
        return nn.Sequential(
            nn.BatchNorm2d(in_dim), PatchConv2d(in_dim, dim, 2)
        )
    return nn.Sequential(
        nn.Conv2d(in_dim, dim, 3, stride=2, padding=1), nn.BatchNorm2d(dim)
    )
