"""Layers of the blocks by compiled code for CPUs, without gradients.

Each does in one pass over a map what takes torch several, see
``csrc/layers.cpp``. Nothing here records a graph or is seen by
``torch.compile`` and ``torch.export``; use it for plain inference only.
"""

import ctypes
from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from .backends import library

CHANNELS = 16
"""int: Channels must be a multiple of it: the widest vector registers hold 16
numbers, and rows are read in whole vectors."""


class Norm(NamedTuple):
    """A layer norm over the channels.

    Attributes:
        weight (Tensor): Factors, of shape (C,).
        bias (Tensor): What is added, of shape (C,).
        eps (float): Added to the variance.
    """

    weight: Tensor
    bias: Tensor
    eps: float


class Linear(NamedTuple):
    """A linear layer.

    Attributes:
        weight (Tensor): Of shape (C_out, C_in).
        bias (Tensor, optional): Of shape (C_out,). Default: None.
    """

    weight: Tensor
    bias: Optional[Tensor] = None


def _struct(name: str, **fields: object) -> type:
    """Return a struct of the C++ code with these fields in this order."""
    return type(name, (ctypes.Structure,), {'_fields_': list(fields.items())})


def _integers(*names: str) -> dict:
    """Return fields of integers."""
    return dict.fromkeys(names, ctypes.c_int64)


def _pointers(*names: str) -> dict:
    """Return fields of pointers."""
    return dict.fromkeys(names, ctypes.c_void_p)


_Norm = _struct('Norm', **_pointers('weight', 'bias'), epsilon=ctypes.c_double)
_Linear = _struct(
    'Linear',
    **_integers('in_channels', 'out_channels'),
    **_pointers('weight', 'bias', 'packed'),
)
_LinearArguments = _struct(
    'LinearArguments',
    **_integers(
        'images',
        'in_height',
        'in_width',
        'out_height',
        'out_width',
        'threads',
        'parts',
        'add',
    ),  # fmt: skip
    norm=_Norm,
    linear=_Linear,
    **_pointers('in'),
    out=ctypes.c_void_p * 3,
)
_MlpArguments = _struct(
    'MlpArguments',
    **_integers('tokens', 'threads'),
    norm=_Norm,
    first=_Linear,
    second=_Linear,
    **_pointers('map'),
)
_DepthwiseArguments = _struct(
    'DepthwiseArguments',
    **_integers('images', 'height', 'width', 'channels', 'kernel', 'threads'),
    **_pointers('weight', 'bias', 'in', 'added', 'out'),
)


def is_available() -> bool:
    """Return whether the compiled code is there, and faster than torch's.

    It is not where it was compiled for no certain kind of vector unit.
    """
    return library.is_available() and library.has_wide_vectors()


def supports(x: Tensor) -> bool:
    """Return whether the layers support a map or a parameter.

    Args:
        x (Tensor): The map or the parameter.

    Returns:
        bool: Whether it is a plain, contiguous tensor of float32 or float64
        on a CPU.
    """
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type == 'cpu'
        and x.dtype in library.TYPES
        and x.is_contiguous()
    )


def _pointer(x: Optional[Tensor]) -> Optional[int]:
    """Return the address of a tensor; None for none."""
    return None if x is None else x.data_ptr()


def _norm(norm: Optional[Norm]) -> ctypes.Structure:
    """Return the struct of a norm."""
    if norm is None:
        return _Norm(None, None, 0.0)
    return _Norm(_pointer(norm.weight), _pointer(norm.bias), norm.eps)


def _linear(linear: Linear) -> Tuple[ctypes.Structure, Tensor]:
    """Return the struct of a linear layer, and its scratch memory."""
    packed = torch.empty_like(linear.weight)
    out_channels, in_channels = linear.weight.shape
    struct = _Linear(
        in_channels, out_channels,
        *map(_pointer, (linear.weight, linear.bias, packed)),
    )  # fmt: skip
    return struct, packed


def _call(name: str, x: Tensor, arguments: ctypes.Structure) -> None:
    """Call a function of the library."""
    missing_bytes = library.call(f'{name}_{library.TYPES[x.dtype]}', arguments)
    if missing_bytes:
        raise MemoryError(
            f'{name} could not allocate {missing_bytes} bytes for the '
            f'intermediate results of {arguments.threads} threads; '
            'torch.set_num_threads reduces them'
        )


def norm_linear(
    x: Tensor, linear: Linear, norm: Optional[Norm], out: Tensor
) -> None:
    """Compute a linear layer of a map, after a norm and padding.

    Args:
        x (Tensor): Map of shape (N, H, W, C).
        linear (Linear): The layer.
        norm (Norm, optional): Norm of the input; None for none.
        out (Tensor): Overwritten with the output channels, cut into maps: of
            shape (parts, N, Hp, Wp, C_out / parts), with Hp and Wp at least H
            and W. The input is padded on the right and bottom with zeros
            after the norm.
    """
    _run_linear(x, out, linear, norm, False)


def add_linear(out: Tensor, x: Tensor, linear: Linear) -> None:
    """Add a linear layer of a map to another map, in place.

    Args:
        out (Tensor): Map of shape (N, H, W, C_out).
        x (Tensor): Map of shape (N, Hp, Wp, C_in), at least as large; it is
            cropped on the right and bottom.
        linear (Linear): The layer.
    """
    _run_linear(x, out[None], linear, None, True)


def _run_linear(
    x: Tensor, out: Tensor, linear: Linear, norm: Optional[Norm], add: bool
) -> None:
    """Call the function for linear layers."""
    struct, packed = _linear(linear)
    arguments = _LinearArguments(
        *x.shape[:3], *out.shape[2:4], torch.get_num_threads(),
        len(out), add, _norm(norm), struct, x.data_ptr(),
        (ctypes.c_void_p * 3)(*map(_pointer, out)),
    )  # fmt: skip
    _call('linear', x, arguments)
    # Until here, the memory must not be used again.
    del packed


def add_mlp(x: Tensor, norm: Norm, first: Linear, second: Linear) -> None:
    """Add the MLP of a map to it, in place: norm, linear, GELU, linear.

    Args:
        x (Tensor): Map of shape (N, H, W, C).
        norm (Norm): Norm of the input.
        first (Linear): First layer.
        second (Linear): Second layer.
    """
    first_struct, first_packed = _linear(first)
    second_struct, second_packed = _linear(second)
    arguments = _MlpArguments(
        x.shape[:-1].numel(), torch.get_num_threads(),
        _norm(norm), first_struct, second_struct, x.data_ptr(),
    )  # fmt: skip
    _call('mlp', x, arguments)
    del first_packed, second_packed


def depthwise(
    x: Tensor, weight: Tensor, bias: Tensor, added: Tensor, out: Tensor
) -> None:
    """Compute a depthwise convolution of a map, plus another map.

    Args:
        x (Tensor): Map of shape (N, H, W, C).
        weight (Tensor): Of shape (C, 1, K, K), where K is 3 or 5; the padding
            is K // 2.
        bias (Tensor): Of shape (C,).
        added (Tensor): Map of the shape of ``x``.
        out (Tensor): Map that is overwritten; may be ``added``, but not ``x``.
    """
    channels, _, kernel, _ = weight.shape
    taps = weight.view(channels, -1).t().contiguous()
    arguments = _DepthwiseArguments(
        *x.shape, kernel, torch.get_num_threads(),
        *map(_pointer, (taps, bias, x, added, out)),
    )  # fmt: skip
    _call('depthwise', x, arguments)
