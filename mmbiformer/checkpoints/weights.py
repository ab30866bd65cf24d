"""The weights in a checkpoint, compared with those of a model."""

import re
from typing import List, Mapping, NamedTuple

from torch import Tensor, nn

from mmbiformer.utils.errors import CheckpointError
from mmbiformer.utils.text import list_some

NOTHING = re.compile(r'(?!)')
"""re.Pattern: Matches no name: no weight may differ."""


def state_dict_of(checkpoint: object, source: str) -> Mapping[str, Tensor]:
    """Return the weights in what a checkpoint file holds.

    Args:
        checkpoint (object): Weights under ``model`` (the authors' files),
            under ``state_dict`` (OpenMMLab's), or bare.
        source (str): The file, for messages.

    Returns:
        Mapping[str, Tensor]: The weights by name.

    Raises:
        CheckpointError: If there are none.
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
        raise CheckpointError(
            f'checkpoint={source!r} holds no weights: expected them under '
            f"'model' (the authors' files), under 'state_dict' (mmengine's), "
            f'or bare; found {found}'
        )
    return weights


class WeightDifference(NamedTuple):
    """How the weights of a checkpoint differ from those of a model.

    Attributes:
        missing (list[str]): Weights of the model that the checkpoint lacks.
        surplus (list[str]): Weights that the model does not have.
        reshaped (list[str]): Weights of another shape, with both shapes.
        initial (list[str]): Missing weights that may be missing; they keep
            their initial values.
        left_out (list[str]): Surplus weights that may be surplus.
    """

    missing: List[str]
    surplus: List[str]
    reshaped: List[str]
    initial: List[str]
    left_out: List[str]

    def check(self, source: str, target: str) -> None:
        """Refuse a difference that is not tolerated.

        Args:
            source (str): The checkpoint file, for the message.
            target (str): What the weights are for, for the message.

        Raises:
            CheckpointError: If weights are missing, surplus or of another
                shape.
        """
        problems = [
            f'{kind}: {list_some(names)}'
            for kind, names in (
                ('missing', self.missing),
                ('surplus', self.surplus),
                ('of another shape', self.reshaped),
            )
            if names
        ]
        if problems:
            # The authors' file of BiFormer-STL in another form.
            note = ''
            if 'nchw' in source.rpartition('/')[2]:
                note = '. The channels-first form of BiFormer-STL is not '
                note += 'supported; the other file computes the same'
            raise CheckpointError(
                f'checkpoint={source!r} does not fit {target}. Weights '
                + '; '.join(problems)
                + note
            )


def compare_weights(
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    may_be_missing: re.Pattern = NOTHING,
    may_be_surplus: re.Pattern = NOTHING,
) -> WeightDifference:
    """Compare the weights of a checkpoint with those of a model.

    Args:
        weights (Mapping[str, Tensor]): Weights of the checkpoint.
        own (Mapping[str, Tensor]): Weights of the model.
        may_be_missing (re.Pattern): Names of weights that the checkpoint need
            not hold, matched from the beginning. Default: none.
        may_be_surplus (re.Pattern): Names of weights that the model need not
            have. Default: none.

    Returns:
        WeightDifference: The names of the weights that differ.
    """
    missing = [name for name in own if name not in weights]
    surplus = [name for name in weights if name not in own]
    return WeightDifference(
        missing=[n for n in missing if not may_be_missing.match(n)],
        surplus=[n for n in surplus if not may_be_surplus.match(n)],
        reshaped=[
            f'{name} (has {tuple(weights[name].shape)}, needs '
            f'{tuple(value.shape)})'
            for name, value in own.items()
            if name in weights and weights[name].shape != value.shape
        ],
        initial=[n for n in missing if may_be_missing.match(n)],
        left_out=[n for n in surplus if may_be_surplus.match(n)],
    )


def load_all_weights(
    model: nn.Module, checkpoint: object, source: str
) -> None:
    """Load the weights of a whole model; all of them must be there.

    Surplus weights of heads are left out, because a config may remove a head
    on purpose, such as an auxiliary one.

    Args:
        model (nn.Module): The model; changed in place.
        checkpoint (object): What the file holds.
        source (str): The file, for the message.

    Raises:
        CheckpointError: If there are no weights, some are missing or of
            another shape, or the backbone does not have some of them.
    """
    weights = {
        name.removeprefix('module.'): value
        for name, value in state_dict_of(checkpoint, source).items()
    }
    target = 'the model of this config'
    try:
        missing, surplus = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        lines = str(error).splitlines()
        more = f'\n\t… ({len(lines) - 1} in all)' if len(lines) > 6 else ''
        raise CheckpointError(
            f'checkpoint={source!r} does not fit {target}: '
            + '\n'.join(lines[:6])
            + more
        ) from None
    # Modules may rename weights of old files while they load them: what
    # differs is what torch has found to differ.
    compare_weights(
        dict.fromkeys(surplus),
        dict.fromkeys(missing),
        may_be_surplus=re.compile(r'(?!backbone\.)'),
    ).check(source, target)
