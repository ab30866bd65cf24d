"""Create random batches, to measure models without a data set."""

from typing import List, Tuple

import torch
from mmengine.structures import PixelData
from torch import Tensor, nn

from .config import TASKS

NUM_OBJECTS = 10
"""int: Number of boxes with masks in each image of a detection batch."""


def random_batch(
    model: nn.Module,
    scope: str,
    shape: Tuple[int, int],
    batch_size: int = 1,
    training: bool = False,
) -> Tuple[Tensor, list]:
    """Create a batch of noise, preprocessed for a model.

    Args:
        model (nn.Module): A detector, segmentor or classifier.
        scope (str): The model's framework, one of
            :data:`mmbiformer.utils.config.TASKS`.
        shape (tuple[int, int]): Height and width of the images, in pixels.
        batch_size (int): Number of images. Default: 1.
        training (bool): Whether to preprocess for training. Default: False.

    Returns:
        tuple[Tensor, list]: Images of shape (N, 3, H', W'), which the
        preprocessor may have padded, and N data samples with annotations.
    """
    make_samples = {
        'detection': _detection_samples,
        'segmentation': _segmentation_samples,
        'classification': _classification_samples,
    }[TASKS[scope]]
    images = torch.randint(256, (batch_size, 3, *shape), dtype=torch.uint8)
    data = dict(inputs=list(images))
    data['data_samples'] = make_samples(model, shape, batch_size)
    # Keep the given shape: no crops, no random resizing.
    preprocessor = model.data_preprocessor
    if getattr(preprocessor, 'size', None) is not None:
        preprocessor.size = shape
    preprocessor.batch_augments = None
    data = preprocessor(data, training)
    return data['inputs'], data['data_samples']


def _detection_samples(
    model: nn.Module, shape: Tuple[int, int], batch_size: int
) -> List:
    """Create demo annotations of mmdet: boxes, masks, semantic maps."""
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(
        batch_size,
        (3, *shape),
        num_items=[NUM_OBJECTS] * batch_size,
        num_classes=2,
        with_mask=True,
        with_semantic=True,
    )['data_samples']


def _classification_samples(
    model: nn.Module, shape: Tuple[int, int], batch_size: int
) -> List:
    """Create random labels."""
    from mmpretrain.structures import DataSample

    labels = torch.randint(model.head.num_classes, (batch_size,))
    return [DataSample().set_gt_label(label) for label in labels]


def _segmentation_samples(
    model: nn.Module, shape: Tuple[int, int], batch_size: int
) -> List:
    """Create random label maps."""
    from mmseg.structures import SegDataSample

    meta = dict(ori_shape=shape, img_shape=shape, pad_shape=shape, flip=False)
    samples = [SegDataSample(metainfo=meta) for _ in range(batch_size)]
    for sample in samples:
        labels = torch.randint(model.num_classes, (1, *shape))
        sample.gt_sem_seg = PixelData(data=labels)
    return samples
