"""Where foreign weights become the backbone's."""

import re
from typing import Dict, Mapping, Optional

import torch.nn as nn
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from mmbiformer.utils.text import list_some

# Released ImageNet files hold a classification head and its norm, which the
# backbone has not; the norms of the outputs are the backbone's own.
_MAY_BE_SURPLUS = re.compile(r'(head|norm|extra_norms)\.')
_STAGE = re.compile(r'(?:stages|downsample_layers)\.(\d+)\.')
_MAY_BE_MISSING = re.compile(r'extra_norms\.')


def state_dict_of(checkpoint: object, filename: str) -> Mapping[str, Tensor]:
    """Return the weights in what a checkpoint file holds.

    Args:
        checkpoint (object): Weights under ``model`` (the authors' files),
            under ``state_dict`` (OpenMMLab's), or bare.
        filename (str): What to call the file.

    Returns:
        Mapping[str, Tensor]: The weights by name.

    Raises:
        ValueError: If there are none.
    """
    weights = checkpoint
    for key in ('model', 'state_dict'):
        if isinstance(checkpoint, Mapping) and key in checkpoint:
            weights = checkpoint[key]
            break
    if (
        not isinstance(weights, Mapping)
        or not weights
        or not all(isinstance(value, Tensor) for value in weights.values())
    ):
        found = (
            sorted(map(str, checkpoint))[:8]
            if isinstance(checkpoint, Mapping)
            else type(checkpoint).__name__
        )
        raise ValueError(
            f'checkpoint={filename!r} holds no weights: expected them under '
            f"'model' (the authors' files), under 'state_dict' (mmengine's), "
            f'or bare; found {found}'
        )
    return weights


def load_pretrained(
    model: nn.Module,
    checkpoint: str,
    prefix: Optional[str] = None,
    map_location: str = 'cpu',
) -> None:
    """Load the backbone's weights, and refuse those of another model.

    A released ImageNet checkpoint loads as it is: the weights of its head are
    left out, and the norms of the outputs keep their initial values, one and
    zero.

    Args:
        model (nn.Module): The backbone.
        checkpoint (str): Path or URL of the file.
        prefix (str, optional): Take only the weights whose names start with
            it, e.g. ``'backbone.'`` for a whole detector. Default: None.
        map_location (str): Device to load to. Default: ``'cpu'``.

    Raises:
        FileNotFoundError: If there is no such file.
        RuntimeError: If the file cannot be read.
        ValueError: If weights are missing, surplus or of another shape; the
            message names them. The model is left as it was.
    """
    print_log(
        f'Load pretrained weights of the backbone from {checkpoint}',
        logger='current',
    )
    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location)
    weights: Dict[str, Tensor] = dict(state_dict_of(loaded, checkpoint))
    if prefix:
        prefix = prefix if prefix.endswith('.') else f'{prefix}.'
        weights = {
            name[len(prefix) :]: value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
        if not weights:
            raise ValueError(
                f'checkpoint={checkpoint!r} has no weights with '
                f'prefix={prefix!r}'
            )

    own = model.state_dict()
    # Stages behind the last map that the backbone returns are not built.
    weights = {
        name: value
        for name, value in weights.items()
        if not (match := _STAGE.match(name))
        or int(match[1]) < len(model.stages)
    }
    missing = [
        name
        for name in own
        if name not in weights and not _MAY_BE_MISSING.match(name)
    ]
    surplus = [
        name
        for name in weights
        if name not in own and not _MAY_BE_SURPLUS.match(name)
    ]
    reshaped = [
        f'{name} (has {tuple(weights[name].shape)}, needs '
        f'{tuple(own[name].shape)})'
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if missing or surplus or reshaped:
        problems = [
            f'{kind}: {list_some(names)}'
            for kind, names in (
                ('missing', missing),
                ('surplus', surplus),
                ('of another shape', reshaped),
            )
            if names
        ]
        raise ValueError(
            f'checkpoint={checkpoint!r} does not fit this '
            f'{type(model).__name__}. Weights ' + '; '.join(problems)
        )
    model.load_state_dict(
        {name: weights.get(name, value) for name, value in own.items()}
    )
