"""Replacing the backbone of any config by BiFormer."""

from copy import deepcopy
from typing import Any, List, Optional, Sequence, Set, Tuple, Union

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor

from mmbiformer.models.biformer import BiFormer
from mmbiformer.utils.errors import ConfigError

STRIDES = (4, 8, 16, 32)
"""tuple[int]: Strides of BiFormer's four maps."""
_NORM_LAYERS = (
    'extra_norms',
    'norm1.weight',
    'norm1.bias',
    'norm2.weight',
    'norm2.bias',
)
"""tuple[str]: Names of BiFormer's layer norms. They are longer than
``'backbone'``, and mmengine applies the longest key that fits a parameter."""

Channels = List[Tuple[int, int]]
"""Channels of each of the old maps, and of the map that replaces it."""


def swap_backbone(cfg: Config, donor: Config) -> Tuple[dict, List[str]]:
    """Replace the backbone of a config by the BiFormer of another.

    The old backbone is built and run once, to find the channels and strides
    of its maps. Each is replaced by BiFormer's map of the same stride or,
    where several have the same one (dilated or plain backbones), by position.
    Maps that no head reads are not computed. Images are padded as before:
    BiFormer takes any size, and the sizes of its maps are those of a ResNet,
    which the anchors and points of the heads are laid out for.

    Args:
        cfg (Config): Config of a detector or segmentor of mmdet or mmseg.
        donor (Config): Config of the same framework, with the BiFormer, the
            normalization of images, and the optimizer to use.

    Returns:
        tuple: The settings that replace those of ``cfg``, and notes for the
        user, one sentence each.

    Raises:
        ConfigError: If the heads cannot read BiFormer's maps.
    """
    _check_configs(cfg, donor)
    init_default_scope(cfg.default_scope)
    old = _probe(cfg.model.backbone)
    levels, notes = _choose_levels([stride for _, stride in old])
    if notes and cfg.default_scope == 'mmdet':
        # Anchors and points are laid out by strides.
        raise ConfigError(f'{cfg.filename} cannot take BiFormer. {notes[0]}')
    dims = _dims_of(donor.model.backbone)
    channels = [
        (before, dims[level])
        for (before, _), level in zip(old, levels, strict=True)
    ]
    model, read = _swap_readers(cfg.model, channels)
    model['data_preprocessor'] = _swap_preprocessor(cfg, donor)
    if 'pretrained' in cfg.model:
        model['pretrained'] = None
    model = _changes(model, cfg.model)
    backbone = dict(_delete_=True, **donor.model.backbone)
    backbone['out_indices'] = tuple(levels[i] for i in read)
    model['backbone'] = backbone
    settings = dict(
        custom_imports=dict(imports=[*_imports_of(cfg), 'mmbiformer']),
        model=model,
        optim_wrapper=_swap_optimizer(cfg.optim_wrapper, donor.optim_wrapper),
    )
    if 'sync_bn' in donor:
        settings['sync_bn'] = donor.sync_bn
    return settings, notes


def _check_configs(cfg: Config, donor: Config) -> None:
    """Raise an error for configs of two frameworks, or without a backbone."""
    if cfg.default_scope != donor.default_scope:
        raise ConfigError(
            f'{cfg.filename} is for {cfg.default_scope}, and {donor.filename} '
            f'for {donor.default_scope}'
        )
    if 'backbone' not in cfg.model:
        raise ConfigError(
            f'{cfg.filename}: the model of type {cfg.model.type!r} has no '
            'backbone of its own'
        )


def _imports_of(cfg: Config) -> List[str]:
    """Return the modules that a config imports."""
    imports = cfg.get('custom_imports', {}).get('imports', [])
    return [imports] if isinstance(imports, str) else imports


def render_config(base: str, settings: dict) -> str:
    """Return the text of a config file that inherits from another.

    Args:
        base (str): The other file, or its name as ``mmdet::FOLDER/FILE.py``.
        settings (dict): Settings that replace those of the other file.

    Returns:
        str: The text.
    """
    return f'_base_ = {base!r}\n\n{Config(settings).pretty_text}'


def _changes(new: dict, old: dict) -> dict:
    """Return the items of a dict that differ; lists are compared whole."""
    return {
        key: _changes(value, old[key])
        if isinstance(value, dict) and isinstance(old.get(key), dict)
        else value
        for key, value in new.items()
        if key not in old or value != old[key]
    }


def _dims_of(backbone: dict) -> Sequence[int]:
    """Return the channels of a BiFormer's four maps."""
    if backbone.get('type') != 'BiFormer':
        raise ConfigError(
            "the donor's backbone must be of type 'BiFormer', got "
            f'{backbone.get("type")!r}'
        )
    arch = backbone.get('arch', 'tiny')
    return (BiFormer.arch_zoo[arch] if isinstance(arch, str) else arch)['dims']


@torch.no_grad()
def _probe(backbone: dict, side: int = 128) -> List[Tuple[int, int]]:
    """Return channels and stride of each map of a backbone."""
    backbone = dict(deepcopy(backbone), init_cfg=None)
    model = MODELS.build(backbone)
    # A line of its own: eval of many backbones returns None.
    model.eval()
    maps = model(torch.zeros(1, 3, side, side))
    maps = [maps] if isinstance(maps, Tensor) else maps
    if not all(isinstance(x, Tensor) and x.dim() == 4 for x in maps):
        raise ConfigError(
            f'the backbone of type {backbone["type"]!r} returns more than '
            'maps, and its heads need the rest'
        )
    return [(x.shape[1], round(side / x.shape[-1])) for x in maps]


def _choose_levels(strides: List[int]) -> Tuple[List[int], List[str]]:
    """Return the BiFormer map for each stride, and notes for the user."""
    if len(set(strides)) == len(strides) and set(strides) <= set(STRIDES):
        return [STRIDES.index(stride) for stride in strides], []
    if len(strides) > len(STRIDES):
        raise ConfigError(
            f'the heads read {len(strides)} maps of strides {strides}, and '
            f'BiFormer has {len(STRIDES)}'
        )
    levels = list(range(len(STRIDES)))[-len(strides) :]
    new = [STRIDES[level] for level in levels]
    return levels, [
        f"The old backbone's maps have strides {strides}, BiFormer's {new}: "
        'what the head predicts is coarser or finer accordingly.'
    ]


def _swap_readers(
    model: ConfigDict, channels: Channels
) -> Tuple[dict, List[int]]:
    """Change the channels in the neck, or in the heads where there is none.

    Args:
        model (ConfigDict): A detector or segmentor.
        channels (list[tuple[int, int]]): Channels of each of the old maps,
            and of the map that replaces it.

    Returns:
        tuple: Settings of the model, and the indices of the maps that are
        read, in ascending order.
    """
    if model.get('neck'):
        neck, read = _swap_neck(model.neck, channels)
        return dict(neck=neck), read
    if 'roi_head' in model:
        raise ConfigError(
            'the RoI head reads the map of the backbone itself (C4 or DC5), '
            'followed by a stage of ResNet; use a config with an FPN'
        )
    return _swap_heads(model, channels)


def _swap_neck(
    neck: Union[dict, List[dict]], channels: Channels
) -> Tuple[Union[dict, List[dict]], List[int]]:
    """Change the channels that a neck reads.

    Args:
        neck (dict | list[dict]): The neck, or several in a row.
        channels (list[tuple[int, int]]): Channels of each of the old maps,
            and of the map that replaces it.

    Returns:
        tuple: The neck's settings, and the indices of the maps that it reads.
    """
    neck = deepcopy(neck)
    first = neck[0] if isinstance(neck, list) else neck
    read = list(range(len(channels)))
    if 'in_channels' not in first:
        raise ConfigError(
            f'the neck of type {first["type"]!r} has no in_channels'
        )
    if isinstance(first['in_channels'], int):
        # It reads the last map.
        (first['in_channels'],) = _renew([first['in_channels']], channels[-1:])
        return neck, read[-1:]
    first['in_channels'] = _renew(first['in_channels'], channels)
    start = first.get('start_level', 0)
    if start and first.get('end_level', -1) == -1:
        # Maps below start_level are not read, and need not be computed.
        first['start_level'] = 0
        first['in_channels'] = first['in_channels'][start:]
        read = read[start:]
    return neck, read


def _swap_heads(
    model: ConfigDict, channels: Channels
) -> Tuple[dict, List[int]]:
    """Change channels and indices in the heads that read the backbone's maps.

    Args:
        model (ConfigDict): A detector or segmentor without a neck.
        channels (list[tuple[int, int]]): Channels of each of the old maps,
            and of the map that replaces it.

    Returns:
        tuple: The heads' settings, and the indices of the maps that they
        read, in ascending order.
    """
    heads = {
        key: deepcopy(value)
        for key, value in model.items()
        if key.endswith('_head') and value
    }
    readers = [reader for head in heads.values() for reader in _find(head)]
    if not readers:
        raise ConfigError('no neck or head has in_channels')
    read = sorted({i for head in readers for i in _swap_head(head, channels)})
    for reader in readers:
        if 'in_index' in reader:
            indices = [read.index(i) for i in _maps_of(reader, len(channels))]
            many = isinstance(reader['in_index'], (list, tuple))
            reader['in_index'] = indices if many else indices[0]
    return heads, read


def _swap_head(head: dict, channels: Channels) -> Set[int]:
    """Change the channels of one head in place.

    Args:
        head (dict): The head.
        channels (list[tuple[int, int]]): Channels of each of the old maps,
            and of the map that replaces it.

    Returns:
        set[int]: Indices of the maps that it reads.
    """
    indices = _maps_of(head, len(channels))
    new = [channels[i][1] for i in indices]
    many = isinstance(head['in_channels'], (list, tuple))
    if many and len(indices) != len(head['in_channels']):
        raise ConfigError(
            f'in_index={head.get("in_index")} of {head["type"]!r} does not '
            f'fit in_channels={head["in_channels"]}'
        )
    head['in_channels'] = new if many else new[0]
    if 'c1_in_channels' in head:
        # DeepLabV3+ reads the first map, too.
        head['c1_in_channels'] = channels[0][1]
        indices.append(0)
    return set(indices)


def _maps_of(head: dict, num_maps: int) -> List[int]:
    """Return the indices of the maps that a head reads, counted from 0."""
    every = list(range(num_maps))
    many = isinstance(head['in_channels'], (list, tuple))
    indices = head.get('in_index', every if many else -1)
    if not isinstance(indices, (list, tuple)):
        indices = [indices]
    return [every[i] for i in indices]


def _find(head: Any) -> List[dict]:
    """Return the heads within a head that read the backbone's maps."""
    if isinstance(head, (list, tuple)):
        return [reader for one in head for reader in _find(one)]
    inner = [
        reader
        for key, value in head.items()
        if key.endswith('_head') and isinstance(value, dict)
        for reader in _find(value)
    ]
    return inner or ([head] if 'in_channels' in head else [])


def _renew(in_channels: Sequence[int], channels: Channels) -> List[int]:
    """Return a neck's channels; some necks count from the coarsest map."""
    for pairs in (channels, channels[::-1]):
        old, new = (list(numbers) for numbers in zip(*pairs, strict=True))
        if list(in_channels) == old:
            return new
    raise ConfigError(
        f'in_channels={in_channels} of the neck are not those of the '
        f"backbone's maps, {[old for old, _ in channels]}"
    )


def _swap_preprocessor(cfg: Config, donor: Config) -> dict:
    """Return the settings of the images' normalization."""
    old = cfg.model.data_preprocessor
    new = donor.model.data_preprocessor
    settings = {key: new[key] for key in ('mean', 'std', 'bgr_to_rgb')}
    if old.get('rgb_to_bgr'):
        settings['rgb_to_bgr'] = False
    return settings


def _swap_optimizer(old: ConfigDict, donor: ConfigDict) -> dict:
    """Return the donor's optimizer, or the old one with the donor's norm rule.

    A recipe with AdamW keeps its learning rates and decay, unless a
    constructor of its own sets them by the old backbone's layers.
    """
    kept = deepcopy(old).to_dict()
    constructor = kept.pop('constructor', None)
    if constructor or kept['optimizer']['type'] != 'AdamW':
        kept['optimizer'] = donor.optimizer.to_dict()
        kept['paramwise_cfg'] = donor.get('paramwise_cfg', {})
        return dict(_delete_=True, **kept)
    paramwise = kept.setdefault('paramwise_cfg', {})
    rules = paramwise.setdefault('custom_keys', {})
    norm = donor.get('paramwise_cfg', {}).get('custom_keys', {}).get('norm')
    if norm:
        backbone: Optional[dict] = rules.get('backbone')
        names = _NORM_LAYERS if backbone else ('norm',)
        rules.update({name: dict(backbone or {}, **norm) for name in names})
    return dict(_delete_=True, **kept)
