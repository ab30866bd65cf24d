"""The names of a classifier's weights: the authors', and mmpretrain's."""

from typing import Any, Dict, Mapping, Optional


def weights_of_authors(checkpoint: object) -> Optional[Mapping[str, Any]]:
    """Find the weights of a classifier of the authors' BiFormer.

    Args:
        checkpoint (object): What a file holds.

    Returns:
        Mapping[str, Any], optional: The weights under ``model`` (the released
        ImageNet files), under ``state_dict``, or bare; None if they have
        other names, such as those of a part called ``backbone``.
    """
    weights = checkpoint
    for key in ('model', 'state_dict'):
        if isinstance(checkpoint, Mapping) and key in checkpoint:
            weights = checkpoint[key]
            break
    if (
        isinstance(weights, Mapping)
        # Whether or not a head is there: a file without one is not whole.
        and any(
            name.startswith('stages.') and '.attn.lepe.' in name
            for name in weights
        )
    ):
        return weights
    return None


def name_as_mmpretrain(weights: Mapping[str, Any]) -> Dict[str, Any]:
    """Name the weights of the authors' classifiers as in mmpretrain's.

    Args:
        weights (Mapping[str, Any]): The weights by the authors' names.

    Returns:
        dict[str, Any]: The same by the names of an ``ImageClassifier`` with a
        ``LinearClsHead``: the linear layer is ``head.fc``, and everything
        else, the last norm included, is of the backbone.
    """
    named = {}
    for name, value in weights.items():
        if name.startswith('head.'):
            named['head.fc.' + name.removeprefix('head.')] = value
        else:
            named[f'backbone.{name}'] = value
    return named
