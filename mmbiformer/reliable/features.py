"""Check that neck and heads take the maps of the backbone."""

from contextlib import contextmanager
from typing import Callable, Iterator, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmbiformer.utils.errors import ConfigError

# Side of the image that is tried, in pixels.
_SIDE = 128


@torch.no_grad()
def check_features(model: nn.Module) -> None:
    """Try backbone, neck and heads on a small empty image.

    Only what fails, and declares other channels than it gets, is refused:
    parts that need more than maps of features are left alone.

    Args:
        model (nn.Module): Detector or segmentor, on the CPU.

    Raises:
        ConfigError: If ``in_channels`` of the neck or of a head are not the
            channels of the maps, or a map of ``in_index`` is missing.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, nn.Module):
        return
    first = next(
        (one for one in backbone.modules() if isinstance(one, nn.Conv2d)), None
    )
    image = torch.zeros(1, first.in_channels if first else 3, _SIDE, _SIDE)
    with _evaluating(model), torch.random.fork_rng(devices=[]):
        maps = _try(backbone, image)
        source = 'the backbone'
        for name, neck in _parts(model, 'neck'):
            if not _are_maps(maps):
                return
            results = _try(neck, maps)
            if results is None:
                _compare(name, neck, maps, source)
            maps, source = results, name
        if not _are_maps(maps):
            return
        for key in ('rpn_head', 'bbox_head', 'decode_head', 'auxiliary_head'):
            heads = list(_parts(model, key))
            # Later decode heads of a cascade get predictions, too.
            for name, head in heads[: 1 if key == 'decode_head' else None]:
                if _try(head, maps) is None:
                    _compare(name, head, maps, source)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Set all modules to evaluation, and back to what each one was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _try(part: Callable, inputs: object) -> Optional[object]:
    """Return what a part of a model makes of its inputs; None if it fails."""
    try:
        return part(inputs)
    except Exception:
        return None


def _are_maps(maps: object) -> bool:
    """Tell whether something is a sequence of maps of features."""
    return isinstance(maps, (list, tuple)) and all(
        isinstance(one, Tensor) and one.ndim == 4 for one in maps
    )


def _parts(model: nn.Module, key: str) -> Iterator[Tuple[str, nn.Module]]:
    """Yield the parts of a model of one kind, and their places in a config."""
    part = getattr(model, key, None)
    if isinstance(part, (nn.ModuleList, nn.Sequential)):
        for index, one in enumerate(part):
            yield f'model.{key}.{index}', one
    elif isinstance(part, nn.Module):
        yield f'model.{key}', part


def _compare(
    name: str, part: nn.Module, maps: Sequence[Tensor], source: str
) -> None:
    """Refuse a part that failed, if it declares other channels.

    Args:
        name (str): Place of the part in the config.
        part (nn.Module): The part.
        maps (Sequence[Tensor]): The maps of features.
        source (str): What they are of.
    """
    wanted = getattr(part, 'in_channels', None)
    index = getattr(part, 'in_index', None)
    channels = [one.shape[1] for one in maps]
    given = f'{source} gives {len(maps)} maps of {channels} channels'
    picked = index if isinstance(index, (list, tuple)) else [index]
    if all(isinstance(one, int) for one in picked):
        if not all(-len(maps) <= one < len(maps) for one in picked):
            raise ConfigError(f'{name}.in_index={index}, but {given}')
        channels = [channels[one] for one in picked]
        wanted_of = f' for in_index={index}'
    else:
        wanted_of = ''
    if isinstance(wanted, int):
        fits = set(channels) == {wanted}
    elif isinstance(wanted, (list, tuple)):
        # Some necks name them from the last map on.
        fits = sorted(wanted) == sorted(channels)
    else:
        return
    if not fits:
        raise ConfigError(
            f'{name}.in_channels={wanted}{wanted_of}, but {given}'
        )
