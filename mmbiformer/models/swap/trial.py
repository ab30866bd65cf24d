"""Whether the heads of a config can be trained on the maps of BiFormer."""

from copy import deepcopy
from typing import List, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmbiformer.utils.building import walk
from mmbiformer.utils.command_line import describe_error
from mmbiformer.utils.errors import ConfigError

from .probe import Map, image_size, pipeline_of, quick_size
from .render import merge_settings, name_types
from .settings import Swap


class _RandomMaps(nn.Module):
    """Stands for a backbone in a trial: random maps of its shapes.

    Args:
        maps (Sequence[tuple[int, int]]): Channels and stride of each map.
    """

    def __init__(self, maps: Sequence[Tuple[int, int]]) -> None:
        super().__init__()
        self.maps = [Map(*one) for one in maps]

    def init_weights(self) -> None:
        """There are none."""

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Return random maps for a batch of images."""
        size = x.shape[-2], x.shape[-1]
        return tuple(one.random(len(x), size) for one in self.maps)


def try_swap(cfg: Config, swap: Swap) -> List[str]:
    """Compute the loss of the model with its new backbone.

    Only the neck and heads are run, on random maps.

    Args:
        cfg (Config): The original config.
        swap (Swap): What :func:`swap_backbone` returned for it.

    Returns:
        list[str]: A note, one sentence, if the model cannot be run here with
        its old backbone either, else nothing.

    Raises:
        ConfigError: If it can be run with its old backbone only.
    """
    old, new = name_types(cfg), merge_settings(cfg, swap.settings)
    size = quick_size(old)
    error = _try(new, swap.new, size)
    if error is not None and size != image_size(old):
        size = image_size(old)
        error = _try(new, swap.new, size)
    if error is None:
        return []
    stock = _try(old, swap.old, size)
    if stock is not None:
        return [
            'The heads were not tried: they cannot be run here with the old '
            f'backbone either ({_in_one_line(stock)}).'
        ]
    raise ConfigError(
        f"{cfg.filename} cannot take BiFormer: its heads fail on BiFormer's "
        f'maps ({_in_one_line(error)})'
    ) from error


def _in_one_line(error: Exception) -> str:
    """Describe an error; some messages are broken or indented."""
    return ' '.join(describe_error(error).split())


def _try(
    cfg: Config, maps: Sequence[Map], size: Tuple[int, int]
) -> Optional[Exception]:
    """Return the error of building a model and computing its loss, if any."""
    settings = deepcopy(cfg.model)
    settings['backbone'] = dict(
        type=_RandomMaps, maps=[tuple(one) for one in maps]
    )
    # Weights of whole models, and of the old backbone.
    settings.pop('init_cfg', None)
    settings.pop('pretrained', None)
    if 'data_preprocessor' not in settings:
        settings['data_preprocessor'] = deepcopy(cfg.data_preprocessor)
    # Resizing and padding to other sizes.
    images = settings['data_preprocessor']
    images.pop('batch_augments', None)
    if 'size' in images:
        images['size'] = size
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = revert_sync_batchnorm(MODELS.build(settings))
            model.init_weights()
            model.train()
            # Losses that change during training, such as TOOD's, read it.
            MessageHub.get_current_instance().update_info('epoch', 0)
            data = model.data_preprocessor(random_batch(cfg, size), True)
            model.loss(data['inputs'], data['data_samples'])
    except Exception as error:  # of any kind, from any head
        return error
    return None


def random_batch(cfg: Config, size: Tuple[int, int]) -> dict:
    """Return two random images with what a config's pipeline would load.

    Args:
        cfg (Config): Config of a detector or segmentor.
        size (tuple[int, int]): Height and width.

    Returns:
        dict: A batch for the model's data preprocessor.
    """
    num_classes = _num_classes(cfg.model)
    if cfg.default_scope == 'mmseg':
        return _segmentation_batch(size, num_classes)
    from mmdet.testing import demo_mm_inputs, demo_mm_proposals

    loads = [
        step
        for step in pipeline_of(cfg)
        if step['type'].endswith('Annotations')
    ]
    panoptic = any('Panoptic' in step['type'] for step in loads)
    shape = (3, *size)
    batch = demo_mm_inputs(
        2,
        [shape, shape],
        num_items=[3, 2],
        num_classes=max(2, num_classes),  # it draws labels from 1
        with_mask=panoptic or any(step.get('with_mask') for step in loads),
        with_semantic=panoptic or any(step.get('with_seg') for step in loads),
    )
    for sample in batch['data_samples']:
        sample.gt_instances.labels %= num_classes
    if 'rpn_head' in cfg.model:
        return batch
    # Detectors without a network for proposals load them.
    proposals = demo_mm_proposals([shape, shape], 20)
    for sample, one in zip(batch['data_samples'], proposals, strict=True):
        sample.proposals = one
    return batch


def _segmentation_batch(size: Tuple[int, int], num_classes: int) -> dict:
    """Return two random images with label maps."""
    from mmseg.structures import SegDataSample

    shapes = ('img_shape', 'ori_shape', 'pad_shape')
    batch: dict = dict(inputs=[], data_samples=[])
    for _ in range(2):
        sample = SegDataSample(metainfo=dict.fromkeys(shapes, size))
        sample.gt_sem_seg = PixelData(
            data=torch.randint(0, num_classes, (1, *size))
        )
        batch['inputs'].append(torch.randint(0, 256, (3, *size)))
        batch['data_samples'].append(sample)
    return batch


def _num_classes(model: dict) -> int:
    """Return the number of classes that all heads of a model know."""
    numbers = [
        node[key]
        for where, node in walk(model, 'model')
        if not where.startswith('model.backbone')
        for key in ('num_classes', 'num_things_classes')
        if isinstance(node.get(key), int)
    ]
    return max(1, min(numbers, default=1))
