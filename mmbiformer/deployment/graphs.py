"""Whole models as functions from images to tensors, for export."""

from typing import List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbiformer.utils.errors import ConfigError


class Preprocessing(nn.Module):
    """The part of a data preprocessor that computes: colours and padding.

    Args:
        preprocessor (nn.Module): Of mmdet, mmseg, mmpretrain or mmengine.

    Raises:
        ConfigError: If it pads to a fixed size.
    """

    def __init__(self, preprocessor: nn.Module) -> None:
        super().__init__()
        own = vars(preprocessor)
        # By mmseg, mmengine and mmpretrain.
        names = 'channel_conversion', '_channel_conversion', 'to_rgb'
        self.swap = any(own.get(name) for name in names)
        mean = std = None
        if own.get('_enable_normalize'):
            mean, std = preprocessor.mean.clone(), preprocessor.std.clone()
        self.register_buffer('mean', mean)
        self.register_buffer('std', std)
        # Detectors pad the sides of a batch, segmentors as their test_cfg
        # says.
        self.divisor = own.get('pad_size_divisor', 1)
        self.value = float(own.get('pad_value', own.get('pad_val', 0)))
        test_cfg = own.get('test_cfg')
        if test_cfg:
            self.divisor = test_cfg.get('size_divisor') or 1
            if test_cfg.get('size') is not None:
                raise ConfigError(
                    'a data_preprocessor that pads to a fixed size in testing '
                    'cannot be exported, got model.data_preprocessor.test_cfg='
                    f'{test_cfg!r}'
                )

    def forward(self, images: Tensor) -> Tensor:
        """Normalize and pad images of shape (N, C, H, W)."""
        x = images
        if self.swap:
            x = x.flip(1)
        if self.mean is not None:
            x = (x - self.mean) / self.std
        if self.divisor > 1:
            bottom, right = (
                (side + self.divisor - 1) // self.divisor * self.divisor - side
                for side in x.shape[2:]
            )
            x = F.pad(x, (0, right, 0, bottom), value=self.value)
        return x


class BackboneGraph(nn.Module):
    """Images to the maps of a backbone.

    Args:
        model (nn.Module): Detector, segmentor or classifier.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.prepare = Preprocessing(model.data_preprocessor)
        self.backbone = model.backbone

    @property
    def output_names(self) -> List[str]:
        """list[str]: Names of the outputs."""
        return [f'map{i}' for i in range(len(self.backbone.out_indices))]

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Compute the maps.

        Args:
            images (Tensor): Images of shape (N, C, H, W).

        Returns:
            tuple[Tensor]: Maps of shape (N, C_i, H_i, W_i).
        """
        return tuple(self.backbone(self.prepare(images)))


class SegmentorGraph(nn.Module):
    """Images to the logits of their pixels.

    Args:
        model (nn.Module): An ``EncoderDecoder`` of mmseg.

    Raises:
        ConfigError: If it is tested in windows.
    """

    output_names = ('logits',)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if model.test_cfg.get('mode', 'whole') != 'whole':
            raise ConfigError(
                'a segmentor that is tested in windows cannot be exported, '
                f'got model.test_cfg.mode={model.test_cfg.mode!r}; set it to '
                "'whole', or export windows by --shape and slide them yourself"
            )
        self.prepare = Preprocessing(model.data_preprocessor)
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            images (Tensor): Images of shape (N, C, H, W).

        Returns:
            Tensor: Logits of shape (N, classes, H, W).
        """
        x = self.prepare(images)
        height, width = x.shape[2:]
        metas = [dict(img_shape=(height, width), ori_shape=(height, width))]
        logits = self.model.encode_decode(x, metas)
        if self.prepare.divisor > 1:
            rows = torch.arange(images.shape[2], device=x.device)
            columns = torch.arange(images.shape[3], device=x.device)
            logits = logits.index_select(2, rows).index_select(3, columns)
        return logits


class ClassifierGraph(nn.Module):
    """Images to the probabilities of their classes.

    Args:
        model (nn.Module): An ``ImageClassifier`` of mmpretrain, whose head
            takes the softmax of what it computes.
    """

    output_names = ('scores', 'logits')

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.prepare = Preprocessing(model.data_preprocessor)
        self.model = model

    def forward(self, images: Tensor) -> Tuple[Tensor, Tensor]:
        """Compute the probabilities, and what they are the softmax of.

        Args:
            images (Tensor): Images of shape (N, C, H, W).

        Returns:
            tuple[Tensor, Tensor]: Both of shape (N, classes).
        """
        maps = self.model.extract_feat(self.prepare(images))
        logits = self.model.head(maps)
        return logits.softmax(dim=1), logits


def is_overridden(module: nn.Module, base: type, *names: str) -> bool:
    """Tell whether a class has other methods than a base class.

    Args:
        module (nn.Module): The module.
        base (type): The class that it should inherit them from.
        *names (str): Names of the methods.

    Returns:
        bool: Whether any differs.
    """
    return any(
        getattr(type(module), name) is not getattr(base, name)
        for name in names
    )
