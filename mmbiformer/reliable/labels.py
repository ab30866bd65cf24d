"""What label maps hold, and what losses do with it."""

from typing import List, Optional

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmbiformer.datacheck.checks import check_labels
from mmbiformer.utils.errors import ConfigError

from .hooks import data_samples


class LabelCheck(Hook):
    """Refuse label maps with values that are no class.

    The loss would end with an index out of range, on a GPU with an assertion
    that names nothing, and the metric would ignore them.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._ignored: Optional[List[int]] = None
        self._failing: Optional[bool] = None

    def _before_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        mode: str = 'train',
    ) -> None:
        """Check the labels of a batch."""
        dataset = getattr(runner, f'{mode}_dataloader').dataset
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        if not classes:
            return
        ignored = [
            getattr(dataset, 'ignore_index', 255),
            *self._ignored_by_heads(runner.model),
        ]
        for sample in data_samples(data_batch):
            if 'gt_sem_seg' not in sample:
                continue
            labels = sample.gt_sem_seg.data
            name = sample.get('seg_map_path', 'a label map')
            check_labels(labels, len(classes), ignored, name)
            if mode == 'train' and self._fails_on_ignored(runner.model):
                _check_all_pixels_count(labels, len(classes), runner, name)

    def _ignored_by_heads(self, model: nn.Module) -> List[int]:
        """Return the labels that the heads of a model ignore."""
        if self._ignored is None:
            values = (
                getattr(module, 'ignore_index', None)
                for module in model.modules()
            )
            self._ignored = [one for one in values if isinstance(one, int)]
        return self._ignored

    def _fails_on_ignored(self, model: nn.Module) -> bool:
        """Tell whether a loss of a model fails on pixels that are ignored."""
        if self._failing is None:
            self._failing = any(
                _fails_on_ignored(loss)
                for head in model.modules()
                # Other heads do not apply their losses to label maps.
                if getattr(
                    type(head), 'loss_by_feat', _fails_on_ignored
                ).__qualname__
                == 'BaseDecodeHead.loss_by_feat'
                for loss in head.loss_decode.modules()
            )
        return self._failing


def _fails_on_ignored(loss: nn.Module) -> bool:
    """Tell whether a loss looks up the class weight of ignored pixels."""
    weights = getattr(loss, 'class_weight', None)
    if weights is None or len(weights) > 255:
        return False
    scores = torch.zeros(1, len(weights), 1, 1)
    try:
        loss(scores, torch.full((1, 1, 1), 255), ignore_index=255)
    except IndexError:
        return True
    except Exception:
        # It takes something else.
        return False
    return False


def _check_all_pixels_count(
    labels: torch.Tensor, classes: int, runner: Runner, name: str
) -> None:
    """Check that no pixel is ignored, here or by padding."""
    model = runner.model
    model = model.module if is_model_wrapper(model) else model
    shape = labels.shape[-2:]
    size = getattr(model.data_preprocessor, 'size', None) or shape
    padded = shape[0] < size[0] or shape[1] < size[1]
    if padded or (labels >= classes).any():
        raise ConfigError(
            f'{name} has pixels that are ignored, or is padded with some, and '
            "mmseg's CrossEntropyLoss with class_weight fails on them; "
            "loss_decode=dict(type='WeightedCrossEntropyLoss', "
            'class_weight=…) of mmbiformer leaves them out'
        )
