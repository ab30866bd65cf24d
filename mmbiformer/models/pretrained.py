"""Load pretrained weights into the backbone."""

import re
from typing import Dict, Mapping, Optional

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from mmbiformer.checkpoints.io import load_checkpoint
from mmbiformer.checkpoints.weights import compare_weights, state_dict_of
from mmbiformer.utils.errors import CheckpointError, ConfigError

# Released ImageNet files hold a classification head and its norm, which the
# backbone does not have; the norms of the outputs are the backbone's own.
MAY_BE_SURPLUS = re.compile(r'(head|norm|extra_norms)\.')
MAY_BE_MISSING = re.compile(r'extra_norms\.')
_BACKBONE = 'backbone.'
_STAGE = re.compile(r'(?:stages|downsample_layers)\.(\d+)\.')


def is_pretrained(cfg: dict) -> bool:
    """Return whether an initialization config loads weights.

    Args:
        cfg (dict): One of mmengine's initialization configs.

    Returns:
        bool: Whether it does.
    """
    return cfg['type'] in ('Pretrained', PretrainedInit)


def check_init_cfg(init_cfg: object) -> None:
    """Raise an error for settings that would fail only when used.

    Args:
        init_cfg (object): Value of the argument.

    Raises:
        ConfigError: If the value is not allowed.
    """
    configs = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    for cfg in configs or [None]:
        if not isinstance(cfg, dict) or not isinstance(
            cfg.get('type'), (str, type)
        ):
            raise ConfigError(
                "init_cfg must be a dict with a 'type', or a list of such "
                f'dicts, got init_cfg={init_cfg!r}'
            )
        if is_pretrained(cfg) and (
            not isinstance(cfg.get('checkpoint'), str)
            or set(cfg) - {'type', 'checkpoint', 'prefix', 'map_location'}
        ):
            raise ConfigError(
                "init_cfg of type 'Pretrained' needs checkpoint=PATH and may "
                f'have prefix and map_location, got init_cfg={cfg!r}'
            )


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
    keep their initial values, one and zero. Of a whole model, such as a
    classifier that was trained here, the backbone is taken.

    Args:
        model (nn.Module): The backbone.
        checkpoint (str): Path or URL of the file.
        prefix (str, optional): Take only the weights whose names start with
            it, e.g. ``'backbone.'`` for a whole detector. Default: None, which
            means ``'backbone.'`` where there are such names, else all.
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
    if prefix is None and any(name.startswith(_BACKBONE) for name in weights):
        prefix = _BACKBONE
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
