"""BiFormer under the heads of another config."""

from copy import deepcopy
from typing import Any, List, Optional, Sequence, Tuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor

from mmbiformer.models.biformer import BiFormer

STRIDES = (4, 8, 16, 32)
"""tuple[int]: Strides of BiFormer's four maps."""
_NORM_LAYERS = (
    'extra_norms',
    'norm1.weight',
    'norm1.bias',
    'norm2.weight',
    'norm2.bias',
)
"""tuple[str]: BiFormer's layer norms by names that are longer than
``'backbone'``: the optimizer follows the longest key that fits."""


def swap_backbone(cfg: Config, donor: Config) -> Tuple[dict, List[str]]:
    """Put the backbone of one config under the heads of another.

    The old backbone is built and run once, to learn the channels and strides
    of its maps. Each is replaced by BiFormer's map of the same stride or,
    where several have the same one (dilated or plain backbones), by position.
    Maps that no head reads are not computed.

    Args:
        cfg (Config): Config of a detector or segmentor of mmdet or mmseg.
        donor (Config): Config of the same framework, with the BiFormer to
            take, the normalization and padding of its images, and its
            optimizer.

    Returns:
        tuple: The settings that replace those of ``cfg``, and what a user
        should know about them, one sentence each.

    Raises:
        ValueError: If the heads cannot read BiFormer's maps.
    """
    if cfg.default_scope != donor.default_scope:
        raise ValueError(
            f'{cfg.filename} is for {cfg.default_scope}, and {donor.filename} '
            f'for {donor.default_scope}'
        )
    if 'backbone' not in cfg.model:
        raise ValueError(
            f'{cfg.filename}: the model of type {cfg.model.type!r} has no '
            'backbone of its own'
        )
    init_default_scope(cfg.default_scope)
    old = _probe(cfg.model.backbone)
    levels, notes = _choose_levels([stride for _, stride in old])
    if notes and cfg.default_scope == 'mmdet':
        # Anchors and points are laid out by strides.
        raise ValueError(f'{cfg.filename} cannot take BiFormer. {notes[0]}')
    dims = _dims_of(donor.model.backbone)
    channels = [
        (before, dims[level])
        for (before, _), level in zip(old, levels, strict=True)
    ]
    model, read = _swap_readers(cfg, channels)
    model['data_preprocessor'] = _swap_preprocessor(cfg, donor)
    if 'pretrained' in cfg.model:
        model['pretrained'] = None
    model = _changes(model, cfg.model)
    backbone = dict(_delete_=True, **donor.model.backbone)
    backbone['out_indices'] = tuple(levels[i] for i in read)
    model['backbone'] = backbone
    optim_wrapper = _swap_optimizer(cfg.optim_wrapper, donor.optim_wrapper)
    imports = cfg.get('custom_imports', {}).get('imports', [])
    if isinstance(imports, str):
        imports = [imports]
    settings = dict(
        custom_imports=dict(imports=[*imports, 'mmbiformer']),
        model=model,
        optim_wrapper=optim_wrapper,
    )
    if 'sync_bn' in donor:
        settings['sync_bn'] = donor.sync_bn
    return settings, notes


def render_config(base: str, settings: dict) -> str:
    """Return the text of a config file that inherits from another.

    Args:
        base (str): The other file, or its name as ``mmdet::FOLDER/FILE.py``.
        settings (dict): What replaces its settings.

    Returns:
        str: The text.
    """
    return f'_base_ = {base!r}\n\n{Config(settings).pretty_text}'


def _changes(new: dict, old: dict) -> dict:
    """Return what differs in a dict; lists are taken whole."""
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
        raise ValueError(f'the donor has no BiFormer: {backbone}')
    arch = backbone.get('arch', 'tiny')
    return (arch if isinstance(arch, dict) else BiFormer.arch_zoo[arch])[
        'dims'
    ]


@torch.no_grad()
def _probe(backbone: dict, side: int = 128) -> List[Tuple[int, int]]:
    """Return channels and stride of each map of a backbone."""
    backbone = dict(deepcopy(backbone), init_cfg=None)
    model = MODELS.build(backbone)
    # Not in one line: many backbones return nothing here.
    model.eval()
    maps = model(torch.zeros(1, 3, side, side))
    maps = [maps] if isinstance(maps, Tensor) else maps
    if not all(isinstance(x, Tensor) and x.dim() == 4 for x in maps):
        raise ValueError(
            f'the backbone of type {backbone["type"]!r} returns more than '
            'maps, and its heads want that from any other'
        )
    return [(x.shape[1], round(side / x.shape[-1])) for x in maps]


def _choose_levels(strides: List[int]) -> Tuple[List[int], List[str]]:
    """Return which of BiFormer's maps stand for those of some strides."""
    if len(set(strides)) == len(strides) and set(strides) <= set(STRIDES):
        return [STRIDES.index(stride) for stride in strides], []
    if len(strides) > len(STRIDES):
        raise ValueError(
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
    cfg: Config, channels: List[Tuple[int, int]]
) -> Tuple[dict, List[int]]:
    """Change the channels in all that reads the backbone's maps.

    Args:
        cfg (Config): Config of a detector or segmentor.
        channels (list[tuple[int, int]]): Channels of each of the old maps,
            and of that which stands for it.

    Returns:
        tuple: Settings of the model, and which of the maps are read.
    """
    every = list(range(len(channels)))
    neck = deepcopy(cfg.model.get('neck'))
    if neck:
        first = neck[0] if isinstance(neck, list) else neck
        if 'in_channels' not in first:
            raise ValueError(
                f'the neck of type {first["type"]!r} says no in_channels'
            )
        if isinstance(first['in_channels'], int):
            # It reads the last map.
            every = every[-1:]
            (first['in_channels'],) = _renew(
                [first['in_channels']], channels[-1:]
            )
            return dict(neck=neck), every
        first['in_channels'] = _renew(first['in_channels'], channels)
        start = first.get('start_level', 0)
        if start and first.get('end_level', -1) == -1:
            # A map that the neck passes over needs no norm.
            first['start_level'] = 0
            first['in_channels'] = first['in_channels'][start:]
            every = every[start:]
        return dict(neck=neck), every
    if 'roi_head' in cfg.model:
        raise ValueError(
            'the RoI head reads the map of the backbone itself (C4 or DC5), '
            'and goes on with a stage of ResNet; take a config with an FPN'
        )
    heads = {
        key: deepcopy(value)
        for key, value in cfg.model.items()
        if key.endswith('_head') and value
    }
    readers = [reader for head in heads.values() for reader in _find(head)]
    if not readers:
        raise ValueError('no neck or head says in_channels')
    read = set()
    for reader in readers:
        many = isinstance(reader['in_channels'], (list, tuple))
        index = reader.get('in_index', every if many else -1)
        index = list(index) if many else [index]
        index = [every[i] for i in index]
        if many and len(index) != len(reader['in_channels']):
            raise ValueError(
                f'in_index={reader.get("in_index")} of {reader["type"]!r} '
                f'does not go with in_channels={reader["in_channels"]}'
            )
        read.update(index)
        new = [channels[i][1] for i in index]
        reader['in_channels'] = new if many else new[0]
        if 'c1_in_channels' in reader:
            # DeepLabV3+ reads the first map, too.
            reader['c1_in_channels'] = channels[0][1]
            read.add(0)
    read = sorted(read)
    for reader in readers:
        if 'in_index' in reader:
            index = reader['in_index']
            many = isinstance(index, (list, tuple))
            index = [
                read.index(every[i]) for i in (index if many else [index])
            ]
            reader['in_index'] = index if many else index[0]
    return heads, read


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


def _renew(
    in_channels: Sequence[int], channels: List[Tuple[int, int]]
) -> Sequence[int]:
    """Return a neck's channels; some necks count from the coarsest map."""
    for pairs in (channels, channels[::-1]):
        old, new = (list(numbers) for numbers in zip(*pairs, strict=True))
        if list(in_channels) == old:
            return type(in_channels)(new)
    raise ValueError(
        f'in_channels={in_channels} of the neck are not those of the '
        f"backbone's maps, {[old for old, _ in channels]}"
    )


def _swap_preprocessor(cfg: Config, donor: Config) -> dict:
    """Return the settings of the images' normalization and padding."""
    old = cfg.model.data_preprocessor
    new = donor.model.data_preprocessor
    settings = {key: new[key] for key in ('mean', 'std', 'bgr_to_rgb')}
    if old.get('rgb_to_bgr'):
        settings['rgb_to_bgr'] = False
    divisor = new.get('pad_size_divisor', 1)
    if old.get('pad_size_divisor', 1) % divisor:
        settings['pad_size_divisor'] = divisor
    return settings


def _swap_optimizer(old: ConfigDict, donor: ConfigDict) -> dict:
    """Return the optimizer: the donor's, or the old one with its norm rule.

    A recipe that has AdamW already, and no rules that count the layers of its
    backbone, keeps its learning rates and decay.
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
