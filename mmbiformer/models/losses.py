"""Losses that mmseg lacks."""

from typing import Optional, Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional


@MODELS.register_module()
class WeightedCrossEntropyLoss(nn.Module):
    """Cross entropy of label maps, with a weight for each class.

    The value is that of mmseg's ``CrossEntropyLoss`` with ``class_weight``,
    which fails on pixels that are ignored; here they do not count.

    Args:
        class_weight (Sequence[float]): Weight of each class.
        loss_weight (float): Weight of the loss. Default: 1.0.
        loss_name (str): Its name in the log, which starts with ``loss_`` as
            in mmseg. Default: ``'loss_ce'``.
    """

    def __init__(
        self,
        class_weight: Sequence[float],
        loss_weight: float = 1.0,
        loss_name: str = 'loss_ce',
    ) -> None:
        super().__init__()
        self.class_weight = list(class_weight)
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Optional[Tensor] = None,
        ignore_index: int = -100,
    ) -> Tensor:
        """Compute the loss.

        Args:
            cls_score (Tensor): Scores before softmax, of shape
                (N, classes, H, W).
            label (Tensor): Label map, int64, of shape (N, H, W).
            weight (Tensor, optional): Weight of each pixel, of shape
                (N, H, W). Default: None, which is 1.
            ignore_index (int): The label that is ignored. Default: -100.

        Returns:
            Tensor: The mean over the pixels that are not ignored, weighted by
            their classes; a scalar.
        """
        class_weight = cls_score.new_tensor(self.class_weight)
        loss = functional.cross_entropy(
            cls_score,
            label,
            class_weight,
            ignore_index=ignore_index,
            reduction='none',
        )
        valid = label != ignore_index
        total = class_weight[label[valid]].sum()
        if weight is not None:
            loss = loss * weight
        eps = torch.finfo(torch.float32).eps
        return self.loss_weight * loss.sum() / (total + eps)
