"""Channels and indices in the necks and heads that read a backbone's maps."""

from copy import deepcopy
from typing import Any, List, NamedTuple, Sequence, Set, Tuple, Union

from mmengine.config import Config, ConfigDict

from mmbiformer.utils.command_line import describe_error
from mmbiformer.utils.errors import ConfigError

from .probe import Map, probe_neck, quick_size, type_name

Channels = List[Tuple[int, int]]
"""Channels of each of the old maps, and of the map that replaces it."""


class Readers(NamedTuple):
    """What a new backbone means for the neck and heads.

    Attributes:
        settings (dict): Settings of the model.
        read (list[int]): Indices of the maps that are to be returned, in
            ascending order.
        unused (bool): Whether one of them does not reach the loss.
        notes (list[str]): Notes for the user that replace those on strides,
            one sentence each.
    """

    settings: dict
    read: List[int]
    unused: bool = False
    notes: Sequence[str] = ()


def swap_readers(
    cfg: Config, old: Sequence[Map], new: Sequence[Map]
) -> Readers:
    """Change the channels in the neck, or in the heads where there is none.

    Args:
        cfg (Config): Config of a detector or segmentor.
        old (Sequence[Map]): The old maps.
        new (Sequence[Map]): The map that replaces each.

    Returns:
        Readers: The settings, and the maps that are read.

    Raises:
        ConfigError: If neck or heads cannot read the new maps.
    """
    model = cfg.model
    channels = [
        (before.channels, after.channels)
        for before, after in zip(old, new, strict=True)
    ]
    if model.get('neck') and _builds_pyramid(model.neck, old, new):
        heads, read = _swap_heads(model, channels)
        name = type_name(model.neck)
        note = f'The neck of type {name!r} is left out'
        return Readers(
            dict(neck=None, **heads),
            read,
            notes=[f'{note}: it makes of equal maps what BiFormer returns.'],
        )
    if model.get('neck'):
        return _swap_neck_and_heads(cfg, old, new)
    if 'roi_head' in model:
        raise ConfigError(
            'the RoI head reads the map of the backbone itself (C4 or DC5), '
            'followed by a stage of ResNet; use a config with an FPN'
        )
    heads, read = _swap_heads(model, channels)
    return Readers(heads, read)


def _builds_pyramid(
    neck: Union[dict, List[dict]], old: Sequence[Map], new: Sequence[Map]
) -> bool:
    """Return whether a neck only scales equal maps to BiFormer's strides."""
    if isinstance(neck, list) or type_name(neck) not in (
        'Feature2Pyramid',
        'MultiLevelNeck',
    ):
        return False
    scales = neck.get('rescales', neck.get('scales', ()))
    strides = [
        round(one.stride / scale)
        for one, scale in zip(old, scales, strict=False)
    ]
    return strides == [one.stride for one in new] and len(scales) == len(old)


def _swap_neck_and_heads(
    cfg: Config, old: Sequence[Map], new: Sequence[Map]
) -> Readers:
    """Change the neck, and the heads where it passes maps on to them."""
    channels = [
        (before.channels, after.channels)
        for before, after in zip(old, new, strict=True)
    ]
    neck, read = _swap_neck(cfg.model.neck, channels)
    size = quick_size(cfg)
    try:
        before = probe_neck(cfg.model.neck, old, size)
    except Exception:
        # Some necks need a GPU. What a neck fails with may be anything.
        return Readers(dict(neck=neck), read)
    unused = False
    try:
        after = probe_neck(neck, [new[i] for i in read], size)
    except Exception as error:
        # A neck may count from the first map whatever its start_level is.
        whole, every = _swap_neck(cfg.model.neck, channels, drop=False)
        if every == read:
            raise _neck_error(neck, new, error) from error
        neck, read, unused = whole, every, True
        try:
            after = probe_neck(neck, new, size)
        except Exception as again:
            raise _neck_error(neck, new, again) from again
    settings = dict(neck=neck)
    if after != before:
        heads, _ = _swap_heads(
            cfg.model, list(zip(before, after, strict=True)), whole=True
        )
        settings.update(heads)
    return Readers(settings, read, unused)


def _neck_error(
    neck: Union[dict, List[dict]], maps: Sequence[Map], error: Exception
) -> ConfigError:
    """Return the error for a neck that cannot read BiFormer's maps."""
    names = [
        type_name(one) for one in (neck if isinstance(neck, list) else [neck])
    ]
    strides = [one.stride for one in maps]
    return ConfigError(
        f'the neck of type {", ".join(names)} cannot read maps of strides '
        f'{strides} ({describe_error(error)})'
    )


def _swap_neck(
    neck: Union[dict, List[dict]], channels: Channels, drop: bool = True
) -> Tuple[Union[dict, List[dict]], List[int]]:
    """Change the channels that a neck reads.

    Args:
        neck (dict | list[dict]): The neck, or several in a row.
        channels (list[tuple[int, int]]): Channels of each of the old maps,
            and of the map that replaces it.
        drop (bool): Leave out the maps below ``start_level``. Default: True.

    Returns:
        tuple: The neck's settings, and the indices of the maps that it reads.
    """
    neck = deepcopy(neck)
    first = neck[0] if isinstance(neck, list) else neck
    read = list(range(len(channels)))
    if 'in_channels' not in first:
        raise ConfigError(
            f'the neck of type {type_name(first)!r} has no in_channels'
        )
    if isinstance(first['in_channels'], int):
        # It reads the last map.
        (first['in_channels'],) = _renew([first['in_channels']], channels[-1:])
        return neck, read[-1:]
    # Some necks check whether it is a list or a tuple.
    kind, old = type(first['in_channels']), list(first['in_channels'])
    first['in_channels'] = kind(_renew(old, channels))
    out = first.get('out_channels')
    if isinstance(out, (list, tuple)) and list(out[: len(old)]) == old:
        # It returns the maps of the backbone, and more of its own.
        out = type(out)([*first['in_channels'], *out[len(old) :]])
        first['out_channels'] = out
    start = first.get('start_level', 0)
    if drop and start and first.get('end_level', -1) == -1:
        # Maps below start_level are not read, and need not be computed.
        first['start_level'] = 0
        first['in_channels'] = first['in_channels'][start:]
        read = read[start:]
    return neck, read


def _swap_heads(
    model: ConfigDict, channels: Channels, whole: bool = False
) -> Tuple[dict, List[int]]:
    """Change channels and indices in the heads that read some maps.

    Args:
        model (ConfigDict): A detector or segmentor without a neck.
        channels (list[tuple[int, int]]): Channels of each of the old maps,
            and of the map that replaces it.
        whole (bool): Keep the indices, as all maps are returned. Default:
            False.

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
    for reader in readers:
        _leave_out_unread(reader)
    read = sorted({i for head in readers for i in _swap_head(head, channels)})
    for reader in readers:
        if 'in_index' in reader and not whole:
            indices = [read.index(i) for i in _maps_of(reader, len(channels))]
            many = isinstance(reader['in_index'], (list, tuple))
            reader['in_index'] = indices if many else indices[0]
    return heads, read


def _leave_out_unread(head: dict) -> None:
    """Leave out maps that a head selects and does not read, in place.

    Layers after them would get no gradient, which distributed training
    refuses.
    """
    if type_name(head) == 'EncHead' and not head.get('add_lateral'):
        for key in ('in_channels', 'in_index'):
            head[key] = head[key][-1:]


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
            f'in_index={head.get("in_index")} of {type_name(head)!r} does not '
            f'fit in_channels={head["in_channels"]}'
        )
    if not many and head.get('num_convs') == 0:
        # Such an FCN head classifies the map as it is.
        head['channels'] = new[0]
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
