"""Turn the contents of a checkpoint into data that torch loads safely."""

import copy
import types
from collections import OrderedDict
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)


class _PlainHistory:
    """Pickles as a history buffer without the functions of its class.

    ``HistoryBuffer`` pickles its statistics by ``getattr``, which torch
    refuses to load, and sets them again when they are not in the file.

    Args:
        buffer (HistoryBuffer): The buffer to pickle.
    """

    def __init__(self, buffer: HistoryBuffer) -> None:
        state = dict(vars(buffer))
        state.pop('statistics_methods', None)
        self._state = state

    def __reduce__(self) -> tuple:
        return HistoryBuffer, (), self._state


def to_plain(value: Any) -> Any:
    """Return data that ``torch.load(weights_only=True)`` can load.

    It needs the types of
    :data:`mmbiformer.checkpoints.allowed_types.MMENGINE_TYPES` to be allowed.
    Dicts, lists and tuples of other classes, such as mmengine's
    ``ConfigDict``, become Python's own; numpy scalars become Python numbers;
    paths become strings; functions in dicts, such as those of mmengine's
    ``OneCycleLR``, are left out, because a scheduler has them once it is
    built. Tensors and all other values are kept as they are.

    Args:
        value (Any): Anything that a checkpoint holds.

    Returns:
        Any: A copy that shares the tensors.
    """
    if isinstance(value, HistoryBuffer):
        return _PlainHistory(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind not in 'biuf':
        return to_plain(value.tolist())
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, dict):
        return _plain_dict(value)
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        kind = list if isinstance(value, list) else tuple
        return kind(to_plain(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return {to_plain(item) for item in value}
    return value


def _plain_dict(value: dict) -> dict:
    """Return a plain copy; state dicts keep their ``_metadata``."""
    plain = {}
    if type(value) is OrderedDict:
        plain = copy.copy(value)
        plain.clear()
    for key, item in value.items():
        if not isinstance(item, _FUNCTIONS):
            plain[to_plain(key)] = to_plain(item)
    return plain
