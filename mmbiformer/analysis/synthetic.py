"""Models without trained weights and batches without a data set, to measure.

What is measured on them (time, memory, multiply-adds) depends on neither.
"""

import os.path as osp
from typing import List, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmbiformer.engine.config import TASKS, task_of

OBJECTS = 10
"""int: Boxes with masks in each image of a batch for detection."""


def read_config(name: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a config of MMDetection or MMSegmentation.

    Args:
        name (str): Path of a file, or a name in an installed package such as
            ``'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'``.
        cfg_options (dict, optional): Values that replace the config's.
            Default: None.

    Returns:
        Config: The config.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such name, or the config is neither for
            detection nor for segmentation.
    """
    if '::' in name:
        try:
            cfg = get_config(name)
        except (AssertionError, KeyError, OSError, ValueError) as error:
            raise ValueError(
                f'config={name!r} is no name of a config: {error}'
            ) from None
    elif osp.isfile(name):
        cfg = Config.fromfile(name)
    else:
        raise FileNotFoundError(
            f'config={name!r} is not a file (looked for {osp.abspath(name)})'
        )
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    task_of(cfg)
    return cfg


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config, without loading or fetching weights.

    Args:
        cfg (Config): Config for detection or segmentation.

    Returns:
        nn.Module: The model in evaluation mode. Its synced batch norms, which
        need several GPUs, are plain ones.
    """
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    return revert_sync_batchnorm(model).eval()


def random_batch(
    model: nn.Module,
    scope: str,
    shape: Tuple[int, int],
    batch_size: int = 1,
    training: bool = False,
) -> Tuple[Tensor, list]:
    """Make a batch of noise, prepared as the model wants it.

    Args:
        model (nn.Module): A detector or segmentor.
        scope (str): Whose model it is: ``'mmdet'`` or ``'mmseg'``.
        shape (tuple[int, int]): Height and width of the images, in pixels.
        batch_size (int): Images. Default: 1.
        training (bool): Whether to prepare it for training. Default: False.

    Returns:
        tuple[Tensor, list]: Images of shape (N, 3, H', W'), where the model
        may have padded H and W, and N data samples with annotations.
    """
    make = {
        'detection': _detection_samples,
        'segmentation': _segmentation_samples,
    }[TASKS[scope]]
    images = torch.randint(256, (batch_size, 3, *shape), dtype=torch.uint8)
    data = dict(inputs=list(images))
    data['data_samples'] = make(model, shape, batch_size)
    # Neither the crop of a training recipe nor images resized at random.
    preprocessor = model.data_preprocessor
    if getattr(preprocessor, 'size', None) is not None:
        preprocessor.size = shape
    preprocessor.batch_augments = None
    data = preprocessor(data, training)
    return data['inputs'], data['data_samples']


def _detection_samples(
    model: nn.Module, shape: Tuple[int, int], batch_size: int
) -> List:
    """Return mmdet's own demo annotations: boxes, masks, semantic maps."""
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(
        batch_size,
        (3, *shape),
        num_items=[OBJECTS] * batch_size,
        num_classes=2,
        with_mask=True,
        with_semantic=True,
    )['data_samples']


def _segmentation_samples(
    model: nn.Module, shape: Tuple[int, int], batch_size: int
) -> List:
    """Return random label maps."""
    from mmseg.structures import SegDataSample

    meta = dict(ori_shape=shape, img_shape=shape, pad_shape=shape, flip=False)
    samples = [SegDataSample(metainfo=meta) for _ in range(batch_size)]
    for sample in samples:
        labels = torch.randint(model.num_classes, (1, *shape))
        sample.gt_sem_seg = PixelData(data=labels)
    return samples
