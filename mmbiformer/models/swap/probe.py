"""What a backbone or neck returns, found by running it."""

from copy import deepcopy
from typing import List, NamedTuple, Sequence, Tuple, Union

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmbiformer.utils.building import config_errors
from mmbiformer.utils.command_line import describe_error
from mmbiformer.utils.datasets import leaf_settings
from mmbiformer.utils.errors import ConfigError

_SIDE = 128
"""int: Height and width of the images that backbones are run on."""


class Map(NamedTuple):
    """A feature map: its channels, and pixels of the image per cell."""

    channels: int
    stride: int

    def size(self, size: Tuple[int, int]) -> Tuple[int, int]:
        """Return the size of BiFormer's map for images of a size.

        Strided convolutions with padding round it up.
        """
        height, width = (-(-side // self.stride) for side in size)
        return height, width

    def random(self, batch: int, size: Tuple[int, int]) -> Tensor:
        """Return random maps for images of a size."""
        return torch.randn(batch, self.channels, *self.size(size))


def type_name(settings: dict) -> str:
    """Return the name of the type in some settings, without its module.

    Args:
        settings (dict): Settings with a ``'type'``, which is ``'FPN'`` or, in
            a config that was a pure-python one, ``'mmdet.models.necks.FPN'``.

    Returns:
        str: The name of the class.
    """
    return settings['type'].rpartition('.')[2]


def probe_backbone(cfg: Config) -> List[Map]:
    """Build a config's backbone and run it on an image.

    Args:
        cfg (Config): Config of a detector or segmentor.

    Returns:
        list[Map]: Its maps.

    Raises:
        ConfigError: If it cannot be built or run, or returns other things
            than maps, or other maps while training.
    """
    settings = dict(deepcopy(cfg.model.backbone), init_cfg=None)
    if 'img_size' in settings:
        # Some plain transformers take images of one size only.
        settings['img_size'] = (_SIDE, _SIDE)
    name = type_name(settings)
    with config_errors(cfg):
        try:
            backbone = revert_sync_batchnorm(MODELS.build(settings))
        except (KeyError, TypeError):
            raise
        except Exception as error:  # such as for a package that is missing
            raise _probe_error(name, 'built', error) from error
    try:
        maps = _maps_of(backbone, name)
    except ConfigError:
        raise
    except Exception as error:  # such as for other inputs than images
        raise _probe_error(name, 'run on images', error) from error
    if cfg.default_scope == 'mmdet':
        _check_sizes(backbone, name, maps, image_size(cfg))
    return maps


def _probe_error(name: str, what: str, error: Exception) -> ConfigError:
    """Return the error for a backbone whose maps cannot be found."""
    reason = ' '.join(describe_error(error).split())
    return ConfigError(
        f'the backbone of type {name!r}, whose maps are to be replaced, '
        f'cannot be {what} ({reason})'
    )


@torch.no_grad()
def _maps_of(backbone: nn.Module, name: str) -> List[Map]:
    """Run a backbone on square images."""
    images = torch.zeros(2, 3, _SIDE, _SIDE)
    # Lines of their own: train and eval of many backbones return None.
    backbone.train()
    training = _as_list(backbone(images))
    backbone.eval()
    maps = _as_list(backbone(images))
    if not all(isinstance(x, Tensor) and x.dim() == 4 for x in maps):
        raise ConfigError(
            f'the backbone of type {name!r} returns more than maps, and its '
            'heads need the rest'
        )
    if len(training) != len(maps):
        raise ConfigError(
            f'the backbone of type {name!r} returns {len(training)} maps in '
            f'training and {len(maps)} otherwise, which its heads rely on'
        )
    return [Map(x.shape[1], round(_SIDE / x.shape[-1])) for x in maps]


@torch.no_grad()
def _check_sizes(
    backbone: nn.Module, name: str, maps: Sequence[Map], size: Tuple[int, int]
) -> None:
    """Raise an error if BiFormer's maps would have other sizes.

    Anchors that are laid out for one size of images would be beside the cells
    of the map.
    """
    if not any(side % one.stride for side in size for one in maps):
        return
    old = [tuple(x.shape[-2:]) for x in backbone(torch.zeros(1, 3, *size))]
    new = [one.size(size) for one in maps]
    if old != new:
        raise ConfigError(
            f'for images of {size[1]} x {size[0]} px, the maps of the '
            f"backbone of type {name!r} have the sizes {old}, BiFormer's "
            f'{new}; the anchors of the heads fit the former only'
        )


def _as_list(maps: Union[Tensor, Sequence[Tensor]]) -> List[Tensor]:
    """Return the maps of a backbone that may return one as it is."""
    return [maps] if isinstance(maps, Tensor) else list(maps)


@torch.no_grad()
def probe_neck(
    neck: Union[dict, List[dict]], maps: Sequence[Map], size: Tuple[int, int]
) -> List[int]:
    """Build a neck and run it on random maps.

    Args:
        neck (dict | list[dict]): The neck, or several in a row.
        maps (Sequence[Map]): The maps that it reads.
        size (tuple[int, int]): Height and width of the images.

    Returns:
        list[int]: Channels of the maps that it returns.
    """
    x = tuple(one.random(2, size) for one in maps)
    for settings in neck if isinstance(neck, list) else [neck]:
        module = revert_sync_batchnorm(MODELS.build(deepcopy(settings)))
        module.eval()
        x = module(x)
    return [one.shape[1] for one in _as_list(x)]


def quick_size(cfg: Config) -> Tuple[int, int]:
    """Return a size of images that takes less time, if one may do.

    Args:
        cfg (Config): Config of a detector or segmentor.

    Returns:
        tuple[int, int]: Height and width. Segmentors take images of any size
        that is not too small for them; detectors get their own size.
    """
    height, width = image_size(cfg)
    if cfg.default_scope == 'mmseg':
        return min(height, 2 * _SIDE), min(width, 2 * _SIDE)
    return height, width


def image_size(cfg: Config) -> Tuple[int, int]:
    """Return the size of images that a config's heads are made for.

    Args:
        cfg (Config): Config of a detector or segmentor.

    Returns:
        tuple[int, int]: Height and width: of the crops, or that which all
        images are resized to, or 384 where they have different sizes.
    """
    size = preprocessor_of(cfg).get('size')
    if size:
        return size[0], size[1]
    for step in pipeline_of(cfg):
        if type_name(step) == 'Resize' and not step.get('keep_ratio'):
            scale = step.get('scale')
            if isinstance(scale, (list, tuple)):
                return scale[1], scale[0]
    return 384, 384


def preprocessor_of(cfg: Config) -> dict:
    """Return the settings of a config's data preprocessor."""
    return cfg.model.get('data_preprocessor') or cfg.get(
        'data_preprocessor', {}
    )


def pipeline_of(cfg: Config) -> List[dict]:
    """Return the steps of a config's training pipelines."""
    if 'train_dataloader' not in cfg:
        return []
    steps: List[dict] = []

    def add(settings: dict) -> None:
        steps.extend(settings.get('pipeline') or [])

    dataset = cfg.train_dataloader.dataset
    while 'dataset' in dataset:
        add(dataset)
        dataset = dataset['dataset']
    for leaf in leaf_settings(dataset):
        add(leaf)
    return steps
