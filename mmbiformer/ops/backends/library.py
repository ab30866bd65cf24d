"""The library of compiled code for CPUs, from the sources in ``csrc``."""

import contextlib
import ctypes
import sys
from pathlib import Path
from typing import List, Optional

import torch

TYPES = {torch.float32: 'f32', torch.float64: 'f64'}
"""dict[torch.dtype, str]: Supported types, and how names of functions end."""


def candidates(name: str) -> List[Path]:
    """Return the files that a library may have, the best for this CPU first.

    Args:
        name (str): Name of the library.

    Returns:
        list[Path]: The files, which need not exist.
    """
    capability = torch.backends.cpu.get_cpu_capability().lower()
    suffix = {'win32': '.dll', 'darwin': '.dylib'}.get(sys.platform, '.so')
    here = Path(__file__).parent
    return [
        here / f'{kind}{suffix}' for kind in (f'{name}_{capability}', name)
    ]


def _load() -> Optional[ctypes.CDLL]:
    """Load the library built for this CPU; None where there is none."""
    # One OpenMP for torch and us: two would fight for the cores. The library
    # names none, and takes the one that is loaded for all.
    runtimes = [*Path(torch.__file__).parent.glob('lib/libgomp*.so*')]
    for runtime in [*runtimes, 'libgomp.so.1']:
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
            break
    for path in candidates('_native'):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(str(path))
    return None


_LIBRARY = _load()


def is_available() -> bool:
    """Return whether the compiled code could be loaded."""
    return _LIBRARY is not None


def has_wide_vectors() -> bool:
    """Return whether it was compiled for vectors of 32 bytes or more."""
    return _LIBRARY is not None and '_avx' in _LIBRARY._name


def call(name: str, arguments: ctypes.Structure) -> int:
    """Call a function of the library.

    Args:
        name (str): Name of the function.
        arguments (ctypes.Structure): Its only argument.

    Returns:
        int: 0, or the bytes of memory that it could not allocate.
    """
    function = getattr(_LIBRARY, name)
    function.restype = ctypes.c_int64
    return function(ctypes.byref(arguments))
