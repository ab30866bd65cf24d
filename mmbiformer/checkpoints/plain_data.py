"""Turn the contents of a checkpoint into data that torch loads safely."""

import copy
import io
import types
from collections import OrderedDict, deque
from pathlib import PurePath
from typing import Any, Dict, Optional

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from .allowed_types import NUMBER_CODES
from .io import load_strictly

_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)
_LISTS = (list, deque, range)


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


class _NotPlainError(Exception):
    """A value has a type that no strict loader knows.

    Args:
        value (Any): The value.
    """

    def __init__(self, value: Any) -> None:
        super().__init__(type(value).__name__)


def to_plain(value: Any, left_out: Optional[Dict[str, str]] = None) -> Any:
    """Return data that ``torch.load(weights_only=True)`` can load.

    It needs the types of
    :data:`mmbiformer.checkpoints.allowed_types.MMENGINE_TYPES` to be allowed.
    Containers of other classes, such as mmengine's ``ConfigDict``, become
    Python's own, and so do numbers and strings, such as those of numpy; paths
    become strings. Functions in dicts, such as those of mmengine's
    ``OneCycleLR``, are left out, because a scheduler has them once it is
    built. So is each entry of a dict that holds an object of any other type.
    Tensors are kept as they are.

    Args:
        value (Any): Anything that a checkpoint holds.
        left_out (dict[str, str], optional): Filled with the key of each entry
            that is left out, other than functions, and the type for which it
            is. Default: None.

    Returns:
        Any: A copy that shares the tensors.

    Raises:
        TypeError: If ``value`` itself is an object of any other type.
    """
    try:
        return _plain(value, {} if left_out is None else left_out, '')
    except _NotPlainError as error:
        raise TypeError(f'got an object of type {error}') from None


def _plain(value: Any, left_out: Dict[str, str], where: str) -> Any:
    """Return a plain copy of a value, which is found at ``where``."""
    if isinstance(value, HistoryBuffer):
        return _PlainHistory(value)
    if isinstance(value, np.generic):
        # Of a long double, item() is the number itself.
        long = isinstance(value, np.longdouble)
        value = float(value) if long else value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.char in NUMBER_CODES:
            return np.asarray(value)
        return _plain(value.tolist(), left_out, where)
    for kind in (bool, int, float, complex, str, bytes):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, dict):
        return _plain_dict(value, left_out, where)
    if isinstance(value, _LISTS):
        return [_plain(item, left_out, where) for item in value]
    if isinstance(value, tuple) and not isinstance(value, torch.Size):
        return tuple(_plain(item, left_out, where) for item in value)
    if isinstance(value, (set, frozenset)):
        return {_plain(item, left_out, where) for item in value}
    if value is None or _is_loadable(value):
        return value
    raise _NotPlainError(value)


def _plain_dict(value: dict, left_out: Dict[str, str], where: str) -> dict:
    """Return a plain copy; state dicts keep their ``_metadata``."""
    plain = {}
    if type(value) is OrderedDict:
        plain = copy.copy(value)
        plain.clear()
    for key, item in value.items():
        if isinstance(item, _FUNCTIONS):
            continue
        path = f'{where}.{key}' if where else str(key)
        try:
            plain[_plain(key, left_out, path)] = _plain(item, left_out, path)
        except _NotPlainError as error:
            left_out[path] = str(error)
    return plain


def _is_loadable(value: Any) -> bool:
    """Tell whether torch loads an object of a type that is not listed."""
    if type(value) in (torch.Tensor, nn.Parameter, torch.Size):
        return True
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        load_strictly(file)
    except Exception:
        return False
    return True
