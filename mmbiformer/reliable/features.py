"""Check that neck and heads take the maps of the backbone."""

from contextlib import contextmanager
from typing import Callable, Iterator, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmbiformer.utils.errors import ConfigError

# Sides of the images that are tried, in pixels: the second only if something
# fails on the first, which may be too small for it.
_SIDES = (128, 512)
_HEADS = ('rpn_head', 'bbox_head', 'decode_head', 'auxiliary_head', 'head')


def check_features(model: nn.Module) -> None:
    """Try backbone, neck and heads on a small empty image.

    Only what fails, and declares other channels than it gets, is refused:
    parts that need more than maps of features are left alone.

    Args:
        model (nn.Module): Detector, segmentor or classifier, on the CPU.

    Raises:
        ConfigError: If ``in_channels`` of the neck or of a head are not the
            channels of the maps, or a map of ``in_index`` is missing.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, nn.Module):
        return
    convs = [one for one in backbone.modules() if isinstance(one, nn.Conv2d)]
    channels = convs[0].in_channels if convs else 3
    problem = None
    with (
        torch.no_grad(),
        _evaluating(model),
        torch.random.fork_rng(devices=[]),
    ):
        for side in _SIDES:
            image = torch.zeros(1, channels, side, side)
            problem = _find_problem(model, _try(backbone, image))
            if problem is None:
                return
    raise ConfigError(problem)


def _find_problem(model: nn.Module, maps: object) -> Optional[str]:
    """Say which part does not take the maps of the backbone, if any."""
    source = 'the backbone'
    for name, neck in _parts(model, 'neck'):
        if not _are_maps(maps):
            return None
        results = _try(neck, maps)
        if results is None:
            return _compare(name, neck, maps, source)
        maps, source = results, name
    if not _are_maps(maps):
        return None
    for key in _HEADS:
        heads = list(_parts(model, key))
        # Later decode heads of a cascade get predictions, too.
        for name, head in heads[: 1 if key == 'decode_head' else None]:
            if _try(head, maps) is None:
                problem = _compare(name, head, maps, source)
                if problem is not None:
                    return problem
    return None


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
    """Tell whether something is a sequence of maps of features.

    Those of a classifier may be averaged to vectors.
    """
    return isinstance(maps, (list, tuple)) and all(
        isinstance(one, Tensor) and one.ndim in (2, 4) for one in maps
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
) -> Optional[str]:
    """Say what is wrong with a part that failed, if it declares other maps.

    Args:
        name (str): Place of the part in the config.
        part (nn.Module): The part.
        maps (Sequence[Tensor]): The maps of features.
        source (str): What they are of.

    Returns:
        str, optional: The message.
    """
    wanted = getattr(part, 'in_channels', None)
    index = getattr(part, 'in_index', None)
    channels = [one.shape[1] for one in maps]
    given = f'{source} gives {len(maps)} maps of {channels} channels'
    picked = index if isinstance(index, (list, tuple)) else [index]
    if all(isinstance(one, int) for one in picked):
        if not all(-len(maps) <= one < len(maps) for one in picked):
            return f'{name}.in_index={index}, but {given}'
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
        return None
    if fits:
        return None
    return f'{name}.in_channels={wanted}{wanted_of}, but {given}'
