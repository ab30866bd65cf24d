"""Load pretrained weights into the backbone."""

import re
from typing import Dict, Mapping, Optional

from mmengine.logging import print_log
from torch import Tensor, nn

from mmbiformer.checkpoints.io import load_checkpoint
from mmbiformer.checkpoints.weights import compare_weights, state_dict_of
from mmbiformer.utils.errors import CheckpointError

# Released ImageNet files hold a classification head and its norm, which the
# backbone does not have; the norms of the outputs are the backbone's own.
MAY_BE_SURPLUS = re.compile(r'(head|norm|extra_norms)\.')
MAY_BE_MISSING = re.compile(r'extra_norms\.')
_STAGE = re.compile(r'(?:stages|downsample_layers)\.(\d+)\.')


def load_pretrained(
    model: nn.Module,
    checkpoint: str,
    prefix: Optional[str] = None,
    map_location: str = 'cpu',
) -> None:
    """Load the weights of the backbone, and refuse those of another model.

    The file is read by the strict loader, see
    :mod:`mmbiformer.checkpoints.io`. A released ImageNet checkpoint loads as
    it is: the weights of its head are left out, and the norms of the outputs
    keep their initial values, one and zero.

    Args:
        model (nn.Module): The backbone.
        checkpoint (str): Path or URL of the file.
        prefix (str, optional): Take only the weights whose names start with
            it, e.g. ``'backbone.'`` for a whole detector. Default: None.
        map_location (str): Device to load to. Default: ``'cpu'``.

    Raises:
        CheckpointError: If the file cannot be read, or weights are missing,
            surplus or of another shape; the message names them. The model is
            left as it was.
        MissingFileError: If there is no such file.
    """
    print_log(
        f'Load pretrained weights of the backbone from {checkpoint}',
        logger='current',
    )
    loaded = load_checkpoint(checkpoint, map_location)
    weights = dict(state_dict_of(loaded, checkpoint))
    if prefix:
        weights = _below(prefix, weights, checkpoint)
    stages = [*model.get_submodule('stages').children()]
    weights = _of_built_stages(weights, len(stages))
    own = model.state_dict()
    compare_weights(weights, own, MAY_BE_MISSING, MAY_BE_SURPLUS).check(
        checkpoint, f'this {type(model).__name__}'
    )
    model.load_state_dict(
        {name: weights.get(name, value) for name, value in own.items()}
    )


def _below(
    prefix: str, weights: Mapping[str, Tensor], checkpoint: str
) -> Dict[str, Tensor]:
    """Return the weights of a part of a model, by their names in the part."""
    prefix = prefix if prefix.endswith('.') else f'{prefix}.'
    part = {
        name[len(prefix) :]: value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
    if not part:
        raise CheckpointError(
            f'checkpoint={checkpoint!r} has no weights with prefix={prefix!r}'
        )
    return part


def _of_built_stages(
    weights: Mapping[str, Tensor], num_stages: int
) -> Dict[str, Tensor]:
    """Leave out the stages after the last one that the backbone builds."""
    return {
        name: value
        for name, value in weights.items()
        if not (match := _STAGE.match(name)) or int(match[1]) < num_stages
    }
