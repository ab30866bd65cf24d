"""Routed attention on NVIDIA GPUs by the kernels of ``triton_kernels``.

They read keys and values from the maps and gather nothing. They are
registered as operators of torch, so that ``torch.compile`` and
``torch.export`` support them. Triton is imported on first use; torch's builds
for CUDA contain it.
"""

import contextlib
import functools
import importlib.util
import logging
import math
import os
from typing import Any, ContextManager, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from . import sdpa

AUTO_ON_CUDA = False
"""bool: Whether ``backend='auto'`` selects it where it supports the input.
Off: the kernels have run in Triton's interpreter only, never on a GPU.
``tools/analysis_tools/gpu_check.py`` measures whether to turn it on."""

PIECE = 4
"""int: For the gradients of keys and values, the list of the regions that
route to a region is cut into pieces of at most PIECE * topk: of PIECE times
the average work."""
HEAD_DIMS = range(16, 65, 8)
"""range: Channels of a head: vector loads take 8 numbers, and wider heads do
not fit into the registers."""
MAX_KEYS = 2**18
"""int: Keys of a query, which the kernels number in float32."""
MAX_REGIONS = 1024
"""int: Regions of an image, which a program counts in registers."""


class Tile(NamedTuple):
    """How a kernel is cut.

    Attributes:
        queries (int): Queries in a tile.
        keys (int): Keys in a tile.
        warps (int): Warps of a program.
        stages (int): Stages of Triton's pipeline. The indices of the regions
            are one stage ahead of what they lead to: with 3 stages the next
            tile is copied during the products of one, with 5 the next two.
    """

    queries: int
    keys: int
    warps: int
    stages: int


TILES: Dict[Tuple[str, str], Tile] = {
    ('forward', 'half'): Tile(32, 64, 2, 3),
    ('forward', 'half, large regions'): Tile(64, 64, 4, 3),
    ('forward', 'half, wide heads'): Tile(32, 64, 4, 3),
    ('forward', 'float32'): Tile(32, 32, 4, 2),
    ('forward', 'float32, wide heads'): Tile(32, 16, 4, 2),
    ('grad_q', 'half'): Tile(32, 64, 2, 3),
    ('grad_q', 'half, large regions'): Tile(64, 64, 4, 3),
    ('grad_q', 'half, wide heads'): Tile(32, 64, 4, 3),
    ('grad_q', 'float32'): Tile(32, 32, 4, 2),
    ('grad_q', 'float32, wide heads'): Tile(16, 32, 4, 2),
    ('grad_kv', 'half'): Tile(64, 32, 2, 3),
    ('grad_kv', 'half, large regions'): Tile(64, 32, 2, 3),
    ('grad_kv', 'half, wide heads'): Tile(32, 32, 2, 3),
    ('grad_kv', 'float32'): Tile(32, 16, 4, 2),
    ('grad_kv', 'float32, wide heads'): Tile(16, 16, 4, 2),
}
"""dict: The tiles of each kernel, by kernel and kind of input. Regions are
large from 128 tokens, heads are wide above 32 channels. Chosen by registers,
spills and instructions of the compiled code, not by time. Triton's tuner is
not used: it would synchronize, and change the order of sums between runs."""

_TYPES = (torch.float16, torch.bfloat16, torch.float32)
_INSTALLED = importlib.util.find_spec('triton') is not None
_INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
_LOGGER = logging.getLogger(__name__)


def is_available() -> bool:
    """Return whether Triton is installed."""
    return _INSTALLED


@functools.cache
def _capability(index: Optional[int]) -> Tuple[int, int]:
    """Return the compute capability of a GPU; (0, 0) if it is not NVIDIA's."""
    if torch.version.hip is not None or not torch.cuda.is_available():
        return 0, 0
    return torch.cuda.get_device_capability(index)


def _runs_on(kind: str, index: Optional[int]) -> bool:
    """Return whether the kernels run on a device."""
    if kind == 'cpu':
        return _INTERPRETED
    return kind == 'cuda' and _capability(index) >= (8, 0)


# As by torch.compiler.assume_constant_result, so that Dynamo calls it and does
# not trace it; but that would import Dynamo here, which takes a second.
_runs_on._dynamo_marked_constant = True  # type: ignore[attr-defined]


def why_not(
    q: Tensor, routing: Tensor, num_heads: int, scale: float
) -> Optional[str]:
    """Return why the kernels do not support an input.

    Args:
        q (Tensor): Map of queries, of shape (N, H, W, C).
        routing (Tensor): Routed regions, of shape (N, S*S, K).
        num_heads (int): Attention heads.
        scale (float): Factor on the products of queries and keys.

    Returns:
        str, optional: The reason; None if they support it.
    """
    _, height, width, channels = q.shape
    regions, topk = routing.shape[1:]
    if not _runs_on(q.device.type, q.device.index):
        return f'no NVIDIA GPU of compute capability 8.0: {q.device}'
    if q.dtype not in _TYPES:
        return f'{q.dtype}'
    if channels // num_heads not in HEAD_DIMS:
        return f'heads of {channels // num_heads} channels'
    # The maximum of the scaled scores is that of the scores.
    if not scale > 0:
        return f'scale={scale}'
    keys = height * width // regions * topk
    if regions > MAX_REGIONS or not 0 < keys <= MAX_KEYS:
        return f'{regions} regions, {keys} keys of a query'
    if height * width * channels >= 2**31:
        return f'a map of {tuple(q.shape)}'
    return None


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
) -> Tensor:
    """Compute routed attention by the kernels, or else by ``sdpa``."""
    reason = why_not(q, routing, num_heads, scale)
    if reason is not None:
        # Dynamo does not trace loggers.
        if not torch.compiler.is_compiling():
            _LOGGER.debug('sdpa instead of triton: %s', reason)
        return sdpa.attend(q, k, v, routing, num_heads, scale)
    device = q.device.type
    if torch.is_autocast_enabled(device):
        # As for torch's fused attention.
        dtype = torch.get_autocast_dtype(device)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    return torch.ops.mmbiformer.routed_attention_triton.default(
        q, k, v, routing, num_heads, scale
    )[0]


def _readable(x: Tensor) -> Tensor:
    """Return a map that the kernels can address; else a contiguous copy."""
    in_range = x.shape[1] * x.stride(1) + x.shape[2] * x.stride(2) < 2**31
    return x if x.stride(3) == 1 and in_range else x.contiguous()


def _float32_precision() -> str:
    """Return how to multiply float32: as torch does in its products."""
    matmul = torch.backends.cuda.matmul
    # Reading the older flag fails where the newer one was set.
    precision = getattr(matmul, 'fp32_precision', None)
    if precision is None:
        precision = 'tf32' if matmul.allow_tf32 else 'ieee'
    return 'tf32' if precision == 'tf32' else 'tf32x3'


class _Plan(NamedTuple):
    """Sizes that the kernels need.

    Attributes:
        geometry (tuple[int, ...]): Heads, regions per side, topk, and the
            rows and columns of a region, in tokens.
        images (int): Images.
        regions (int): Regions of an image.
        tokens (int): Tokens of a region.
        head_dim (int): Channels of a head.
        is_float32 (bool): Whether the maps are float32.
    """

    geometry: Tuple[int, ...]
    images: int
    regions: int
    tokens: int
    head_dim: int
    is_float32: bool

    @property
    def kind(self) -> str:
        """str: The kind of input in :data:`TILES`."""
        kind = 'float32' if self.is_float32 else 'half'
        if self.head_dim > 32:
            return f'{kind}, wide heads'
        if kind == 'half' and self.tokens >= 128:
            return 'half, large regions'
        return kind

    @property
    def joints(self) -> int:
        """int: Regions whose sources may be cut into pieces, at most."""
        return self.regions // PIECE

    @property
    def table_size(self) -> int:
        """int: Numbers in the table of the inverted routing."""
        edges = self.regions * self.geometry[2]
        pieces = self.regions + self.joints
        return self.images * (edges + 4 * pieces + 3 * self.joints)

    def programs(self, kernel: str) -> int:
        """Return the size of a kernel's grid.

        Args:
            kernel (str): Name of the kernel.

        Returns:
            int: Number of programs.
        """
        if kernel == 'invert':
            return self.images * self.regions
        heads = self.geometry[0]
        if kernel in ('forward', 'grad_q'):
            parts, size = self.regions, self.tile(kernel).queries
        elif kernel == 'grad_kv':
            parts, size = self.regions + self.joints, self.tile(kernel).keys
        else:
            parts, size = self.joints, self.tile('grad_kv').keys
        return self.images * parts * heads * -(-self.tokens // size)

    def tile(self, kernel: str) -> Tile:
        """Return the tile of a kernel."""
        return TILES[kernel, self.kind]

    def constants(self, kernel: str) -> Dict[str, Any]:
        """Return the constants that a kernel is compiled with."""
        tile = self.tile(kernel)
        return dict(
            D=self.head_dim,
            BLOCK_D=1 << (self.head_dim - 1).bit_length(),
            BLOCK_M=tile.queries,
            BLOCK_N=tile.keys,
            PRECISION=_float32_precision() if self.is_float32 else 'tf32',
            num_warps=tile.warps,
            num_stages=tile.stages,
        )


def plan(q: Tensor, routing: Tensor, num_heads: int) -> _Plan:
    """Return the sizes for an input.

    Args:
        q (Tensor): Map of queries, of shape (N, H, W, C).
        routing (Tensor): Routed regions, of shape (N, S*S, K).
        num_heads (int): Attention heads.

    Returns:
        _Plan: The sizes.
    """
    images, height, width, channels = q.shape
    regions, topk = routing.shape[1:]
    n_win = math.isqrt(regions)
    rows, cols = height // n_win, width // n_win
    return _Plan(
        (num_heads, n_win, topk, rows, cols), images, regions, rows * cols,
        channels // num_heads, q.dtype == torch.float32,
    )  # fmt: skip


def _strides(*maps: Tensor) -> Tuple[int, ...]:
    """Return the strides of images, rows and columns of each map."""
    return tuple(stride for x in maps for stride in x.stride()[:3])


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
) -> Tuple[Tensor, Tensor]:
    """Return the attended map, and the log2 of the softmaxes' sums."""
    from . import triton_kernels as kernels

    sizes = plan(q, routing, num_heads)
    q, k, v = _readable(q), _readable(k), _readable(v)
    routing = routing.contiguous()
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = _new_statistics(q, num_heads, sizes.regions)
    with _device_of(q):
        kernels.forward[(sizes.programs('forward'),)](
            q, k, v, routing, out, lse, scale * math.log2(math.e),
            *_strides(q, k, v), *sizes.geometry, **sizes.constants('forward'),
        )  # fmt: skip
    return out, lse


def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values."""
    from . import triton_kernels as kernels

    sizes = plan(q, routing, num_heads)
    joints, tokens, head_dim = sizes.joints, sizes.tokens, sizes.head_dim
    q, k, v = _readable(q), _readable(k), _readable(v)
    grad_out = _readable(grad_out)
    routing, out, lse = (
        routing.contiguous(),
        out.contiguous(),
        lse.contiguous(),
    )
    grad_q, grad_k, grad_v = (
        torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3)
    )
    delta = torch.empty_like(lse)
    table = torch.empty(sizes.table_size, dtype=torch.int32, device=q.device)
    partial = torch.empty(
        sizes.images * 2 * joints * num_heads * 2 * tokens * head_dim,
        dtype=torch.float32,
        device=q.device,
    )
    scale_log2 = scale * math.log2(math.e)
    strides = _strides(q, k, v, grad_out)
    constants = sizes.constants('grad_kv')
    with _device_of(q):
        kernels.grad_q[(sizes.programs('grad_q'),)](
            q, k, v, routing, out, lse, grad_out, grad_q, delta, scale,
            scale_log2, *strides, *sizes.geometry,
            **sizes.constants('grad_q'),
        )  # fmt: skip
        _, n_win, topk, _, _ = sizes.geometry
        kernels.invert[(sizes.programs('invert'),)](
            routing, table, n_win, topk,
            BLOCK_R=max(32, 1 << (sizes.regions - 1).bit_length()),
            BLOCK_E=1024,
        )  # fmt: skip
        kernels.grad_kv[(sizes.programs('grad_kv'),)](
            q, k, v, table, lse, delta, grad_out, grad_k, grad_v, partial,
            scale, scale_log2, *strides, *sizes.geometry, **constants,
        )  # fmt: skip
        if joints:
            kernels.join_pieces[(sizes.programs('join_pieces'),)](
                table, partial, grad_k, grad_v, *sizes.geometry, D=head_dim,
                BLOCK_D=constants['BLOCK_D'], BLOCK_N=constants['BLOCK_N'],
            )  # fmt: skip
    return grad_q, grad_k, grad_v


def _new_statistics(q: Tensor, num_heads: int, regions: int) -> Tensor:
    """Return an empty float32 tensor of one number a query and head."""
    n, height, width = q.shape[:3]
    shape = n, num_heads, regions, height * width // regions
    return q.new_empty(shape, dtype=torch.float32)


def _device_of(x: Tensor) -> ContextManager[Any]:
    """Return a context in which Triton launches on a tensor's device."""
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return contextlib.nullcontext()


def _fake_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    routing: Tensor,
    num_heads: int,
    scale: float,
) -> Tuple[Tensor, Tensor]:
    """Return tensors of the shapes and types of :func:`_forward`."""
    lse = _new_statistics(q, num_heads, routing.shape[1])
    return q.new_empty(q.shape), lse


def _fake_backward(
    q: Tensor, k: Tensor, v: Tensor, *others: Any
) -> Tuple[Tensor, Tensor, Tensor]:
    """Return tensors of the shapes and types of :func:`_backward`."""
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    """Save inputs and outputs; all of them have the size of the map."""
    *tensors, ctx.num_heads, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad_out: Tensor, _: None) -> tuple:
    """Return the gradients with respect to the arguments of ``_forward``."""
    *inputs, out, lse = ctx.saved_tensors
    grads = torch.ops.mmbiformer.routed_attention_triton_backward.default(
        *inputs, ctx.num_heads, ctx.scale, out, lse, grad_out
    )
    return *grads, None, None, None


def _refuse(ctx: Any, *grads: Tensor) -> None:
    """Refuse second derivatives."""
    raise NotImplementedError(
        'the triton backend of routed attention has no double backward; '
        "backend='reference' has"
    )


def _register() -> torch.library.Library:
    """Register the operators, with less work on each call than custom_op."""
    library = torch.library.Library('mmbiformer', 'FRAGMENT')
    inputs = (
        'Tensor q, Tensor k, Tensor v, Tensor routing, int num_heads, '
        'float scale'
    )
    kinds = ('CUDA', 'CPU') if _INTERPRETED else ('CUDA',)
    for name, schema, function, fake, differentiate, setup_context in (
        (
            'routed_attention_triton',
            f'({inputs}) -> (Tensor, Tensor)',
            _forward, _fake_forward, _differentiate, _setup_context,
        ),
        (
            'routed_attention_triton_backward',
            f'({inputs}, Tensor out, Tensor lse, Tensor grad_out) -> '
            '(Tensor, Tensor, Tensor)',
            _backward, _fake_backward, _refuse, None,
        ),
    ):  # fmt: skip
        library.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
        for kind in kinds:
            library.impl(name, function, kind)
        name = f'mmbiformer::{name}'
        torch.library.register_fake(name, fake, lib=library)
        torch.library.register_autograd(
            name, differentiate, setup_context=setup_context, lib=library
        )
    return library


# The operators live as long as it.
_LIBRARY = _register()
