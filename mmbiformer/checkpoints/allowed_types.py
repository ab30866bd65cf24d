"""The types that checkpoints may hold besides tensors and plain Python data.

There are two lists. ``MMENGINE_TYPES`` is added to torch's own allow-list when
:mod:`mmbiformer` is imported. ``STRICT_TYPES`` is what the strict loader of
:mod:`mmbiformer.checkpoints.io` allows, and nothing else, while it reads a
file.
"""

import pickle
from argparse import Namespace
from typing import Callable, Tuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

try:
    from numpy._core.multiarray import _reconstruct, scalar
except ImportError:  # numpy 1
    from numpy.core.multiarray import _reconstruct, scalar

# Either name of numpy's module, as numpy 1 and numpy 2 write it.
_NUMPY_MODULES = ('numpy.core.multiarray', 'numpy._core.multiarray')

NUMBER_CODES = '?bhilBHILefd'
"""str: numpy's codes of the types of numbers that are allowed in arrays."""

_STATISTICS = ('current', 'max', 'mean', 'min')

_DATA_TYPES = [
    HistoryBuffer,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(code)) for code in NUMBER_CODES),
    *((scalar, f'{module}.scalar') for module in _NUMPY_MODULES),
]

MMENGINE_TYPES = [
    # By their names: mmengine's fork takes bare types off torch's list again
    # after it has loaded a file.
    *(
        item
        if isinstance(item, tuple)
        else (item, f'{item.__module__}.{item.__qualname__}')
        for item in _DATA_TYPES
    ),
    *((_reconstruct, f'{module}._reconstruct') for module in _NUMPY_MODULES),
]
"""list: The plain data in mmengine's checkpoints: the log of the training, as
history buffers over numpy arrays, and numpy scalars."""


def allow_mmengine_types() -> None:
    """Add :data:`MMENGINE_TYPES` to torch's allow-list for this process."""
    torch.serialization.add_safe_globals(MMENGINE_TYPES)


def _history_statistic(owner: type, name: str) -> Callable:
    """Stand in for ``getattr`` in checkpoints of mmengine's own runner.

    A pickled history buffer looks up its statistics by ``getattr``, which
    would give a forged file access to every attribute of every allowed type.

    Args:
        owner (type): Where to look; only ``HistoryBuffer`` is allowed.
        name (str): One of its statistics.

    Returns:
        Callable: The statistic.

    Raises:
        pickle.UnpicklingError: If anything else is looked up.
    """
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(f'getattr of {owner!r}, {name!r}')
    return getattr(HistoryBuffer, name)


def _empty_array(
    subtype: type, shape: Tuple[int, ...], typecode: bytes
) -> np.ndarray:
    """Stand in for ``_reconstruct``, with which every pickled array begins.

    numpy's own function creates arrays of any size, so a small forged file
    could fill the memory.

    Args:
        subtype (type): Only ``np.ndarray`` is allowed.
        shape (tuple[int, ...]): Only (0,), as numpy writes it.
        typecode (bytes): Any type; the array's state replaces it.

    Returns:
        np.ndarray: Empty array of shape (0,).

    Raises:
        pickle.UnpicklingError: If another type or shape is asked for.
    """
    if subtype is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError(f'{subtype!r} of shape {shape!r}')
    return np.empty(0, 'b')


STRICT_TYPES = [
    *_DATA_TYPES,
    (_history_statistic, 'builtins.getattr'),
    *((_empty_array, f'{module}._reconstruct') for module in _NUMPY_MODULES),
    # The authors' training code saves its command line.
    Namespace,
]
"""list: What the strict loader allows: the same data, with functions that do
only what the files of mmengine need, and ``argparse.Namespace``."""
