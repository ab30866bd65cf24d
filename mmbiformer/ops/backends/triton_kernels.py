"""The Triton kernels of routed attention; imported on first use.

All kernels read the maps where they lie, by strides, and use one-dimensional
grids: a grid's other dimensions are limited to 65,535 programs. A token has
an index within its region, row by row. "Flat" indices number the tokens of a
list of regions through, so that only the last tile is partial.

Scores are kept in base 2: the exponent of a query q and a key k is
``scale_log2 * (q . k)`` with ``scale_log2 = scale * log2(e)``.
"""

import os

import triton
import triton.language as tl

from .triton import PIECE

# Set before triton is imported, it runs the kernels on CPU tensors.
_INTERPRETED = tl.constexpr(os.environ.get('TRITON_INTERPRET') == '1')

_PIECE = tl.constexpr(PIECE)

# Multi-scale training changes these in every iteration, and would compile for
# every divisibility by 16. Strides are left out: they are multiples of the
# channels, and vector loads depend on that.
_GEOMETRY = ['heads', 'n_win', 'topk', 'rows', 'cols']


@triton.jit
def _dot(a, b, acc, PRECISION: tl.constexpr):
    """Multiply two tiles and add the product to ``acc``."""
    if _INTERPRETED:
        # The interpreter multiplies the bit patterns of bfloat16.
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def _divide(x, inverse):
    """Divide, rounded down; exact for x below 2**20 and x / divisor."""
    return ((x.to(tl.float32) + 0.5) * inverse).to(tl.int32)


@triton.jit
def _locate(region, token, n_win, rows, cols):
    """Return row and column in the map of tokens of regions."""
    row = _divide(region, 1.0 / n_win)
    y = _divide(token, 1.0 / cols)
    x = token - y * cols
    return row * rows + y, (region - row * n_win) * cols + x


@triton.jit
def _locate_flat(index, regions, n_win, rows, cols):
    """Return region, token, row and column of flat indices into a list."""
    tokens = rows * cols
    slot = _divide(index, 1.0 / tokens)
    region = tl.load(regions + slot)
    # Whatever the list says, nothing is read outside of the map.
    last = n_win * n_win - 1
    region = tl.minimum(tl.maximum(region, 0), last).to(tl.int32)
    token = index - slot * tokens
    y, x = _locate(region, token, n_win, rows, cols)
    return region, token, y, x


@triton.jit
def _load(pointers, mask, MASKED: tl.constexpr):
    """Load a tile, with zeros where it is masked."""
    if MASKED:
        return tl.load(pointers, mask=mask, other=0.0)
    return tl.load(pointers)


@triton.jit
def _split_program(parts, heads, regions):
    """Return part, head, region and image (int64) of this program."""
    program = tl.program_id(0)
    part = program % parts
    program = program // parts
    head = program % heads
    program = program // heads
    return part, head, program % regions, (program // regions).to(tl.int64)


@triton.jit
def _forward_tile(
    start, keys, q, k, v, regions, k_row, k_col, v_row, v_col,
    n_win, rows, cols, scale_log2, acc, total, peak,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Attend to one tile of keys; update output, sum and maximum."""
    index = start + tl.arange(0, BLOCK_N)
    valid = index < keys
    if MASKED:
        index = tl.minimum(index, keys - 1)
    _, _, y, x = _locate_flat(index, regions, n_win, rows, cols)
    channel = tl.arange(0, BLOCK_D)
    mask = valid[:, None] & (channel < D)[None, :]
    HAS_MASK: tl.constexpr = MASKED or BLOCK_D != D
    key = _load(
        k + (y * k_row + x * k_col)[:, None] + channel[None, :], mask, HAS_MASK
    )
    value = _load(
        v + (y * v_row + x * v_col)[:, None] + channel[None, :], mask, HAS_MASK
    )
    scores = tl.zeros([q.shape[0], BLOCK_N], tl.float32)
    scores = _dot(q, tl.trans(key), scores, PRECISION)
    if MASKED:
        scores = tl.where(valid[None, :], scores, float('-inf'))
    new_peak = tl.maximum(peak, tl.max(scores, 1) * scale_log2)
    weights = tl.exp2(scores * scale_log2 - new_peak[:, None])
    decay = tl.exp2(peak - new_peak)
    total = total * decay + tl.sum(weights, 1)
    acc = _dot(weights.to(value.dtype), value, acc * decay[:, None], PRECISION)
    return acc, total, new_peak


@triton.jit(do_not_specialize=_GEOMETRY)
def forward(
    q, k, v, routing, out, lse, scale_log2,
    q_image, q_row, q_col, k_image, k_row, k_col, v_image, v_row, v_col,
    heads, n_win, topk, rows, cols,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the output, and the log2 of the sums of exponentials.

    A program has a tile of queries of one region and head. ``out`` is a
    contiguous map, ``lse`` of shape (images, heads, regions, tokens).
    """
    tokens = rows * cols
    regions = n_win * n_win
    tile, head, region, image = _split_program(
        tl.cdiv(tokens, BLOCK_M), heads, regions
    )
    routing += (image * regions + region) * topk
    wrong = 0
    for start in range(0, topk, 64):
        entry = start + tl.arange(0, 64)
        chosen = tl.load(routing + entry, mask=entry < topk, other=0)
        outside = (chosen < 0) | (chosen >= regions)
        wrong += tl.sum(outside.to(tl.int32), 0)

    token = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.arange(0, BLOCK_D)
    mask = (token < tokens)[:, None] & (channel < D)[None, :]
    y, x = _locate(region, token, n_win, rows, cols)
    q += image * q_image + head * D
    query = tl.load(
        q + (y * q_row + x * q_col)[:, None] + channel[None, :],
        mask=mask,
        other=0.0,
    )
    k += image * k_image + head * D
    v += image * v_image + head * D
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    peak = tl.full([BLOCK_M], float('-inf'), tl.float32)
    keys = topk * tokens
    whole = keys // BLOCK_N * BLOCK_N
    for start in range(0, whole, BLOCK_N):
        acc, total, peak = _forward_tile(
            start, keys, query, k, v, routing, k_row, k_col, v_row, v_col,
            n_win, rows, cols, scale_log2, acc, total, peak,
            D, BLOCK_D, BLOCK_N, PRECISION, False,
        )  # fmt: skip
    if whole < keys:
        acc, total, peak = _forward_tile(
            whole, keys, query, k, v, routing, k_row, k_col, v_row, v_col,
            n_win, rows, cols, scale_log2, acc, total, peak,
            D, BLOCK_D, BLOCK_N, PRECISION, True,
        )  # fmt: skip
    if wrong > 0:
        total = tl.full([BLOCK_M], float('nan'), tl.float32)
    acc = acc / total[:, None]
    width = n_win * cols
    out += image * (n_win * rows) * width * (heads * D) + head * D
    pixel = y * width + x
    tl.store(
        out + pixel[:, None] * (heads * D) + channel[None, :],
        acc.to(out.dtype.element_ty),
        mask=mask,
    )
    lse += ((image * heads + head) * regions + region) * tokens
    tl.store(lse + token, peak + tl.log2(total), mask=token < tokens)


@triton.jit
def _grad_q_tile(
    start, keys, q, grad_out, lse, delta, k, v, regions,
    k_row, k_col, v_row, v_col, n_win, rows, cols, scale_log2, acc,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add what one tile of keys contributes to the queries' gradients."""
    index = start + tl.arange(0, BLOCK_N)
    valid = index < keys
    if MASKED:
        index = tl.minimum(index, keys - 1)
    _, _, y, x = _locate_flat(index, regions, n_win, rows, cols)
    channel = tl.arange(0, BLOCK_D)
    mask = valid[:, None] & (channel < D)[None, :]
    HAS_MASK: tl.constexpr = MASKED or BLOCK_D != D
    key = _load(
        k + (y * k_row + x * k_col)[:, None] + channel[None, :], mask, HAS_MASK
    )
    value = _load(
        v + (y * v_row + x * v_col)[:, None] + channel[None, :], mask, HAS_MASK
    )
    zeros = tl.zeros([q.shape[0], BLOCK_N], tl.float32)
    scores = _dot(q, tl.trans(key), zeros, PRECISION)
    weights = tl.exp2(scores * scale_log2 - lse[:, None])
    if MASKED:
        weights = tl.where(valid[None, :], weights, 0.0)
    grad = _dot(grad_out, tl.trans(value), zeros, PRECISION)
    grad = weights * (grad - delta[:, None])
    return _dot(grad.to(key.dtype), key, acc, PRECISION)


@triton.jit(do_not_specialize=_GEOMETRY)
def grad_q(
    q, k, v, routing, out, lse, grad_out, grad_q, delta, scale, scale_log2,
    q_image, q_row, q_col, k_image, k_row, k_col, v_image, v_row, v_col,
    go_image, go_row, go_col, heads, n_win, topk, rows, cols,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of the queries, and ``delta`` for the others.

    A program has a tile of queries of one region and head. ``grad_q`` is a
    contiguous map; ``delta`` has the layout of ``lse`` and holds the sums of
    ``out * grad_out`` over the channels of a head.
    """
    tokens = rows * cols
    regions = n_win * n_win
    tile, head, region, image = _split_program(
        tl.cdiv(tokens, BLOCK_M), heads, regions
    )
    routing += (image * regions + region) * topk
    token = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = token < tokens
    channel = tl.arange(0, BLOCK_D)
    mask = valid[:, None] & (channel < D)[None, :]
    y, x = _locate(region, token, n_win, rows, cols)
    width = n_win * cols
    origin = image * (n_win * rows) * width * (heads * D) + head * D
    pixels = (y * width + x)[:, None] * (heads * D) + channel[None, :]
    attended = tl.load(out + origin + pixels, mask=mask, other=0.0)
    grad_out += image * go_image + head * D
    grad = tl.load(
        grad_out + (y * go_row + x * go_col)[:, None] + channel[None, :],
        mask=mask,
        other=0.0,
    )
    sums = tl.sum(attended.to(tl.float32) * grad.to(tl.float32), 1)
    statistics = ((image * heads + head) * regions + region) * tokens + token
    tl.store(delta + statistics, sums, mask=valid)
    query_lse = tl.load(lse + statistics, mask=valid, other=0.0)
    q += image * q_image + head * D
    query = tl.load(
        q + (y * q_row + x * q_col)[:, None] + channel[None, :],
        mask=mask,
        other=0.0,
    )
    k += image * k_image + head * D
    v += image * v_image + head * D
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    keys = topk * tokens
    whole = keys // BLOCK_N * BLOCK_N
    for first in range(0, whole, BLOCK_N):
        acc = _grad_q_tile(
            first, keys, query, grad, query_lse, sums, k, v, routing,
            k_row, k_col, v_row, v_col, n_win, rows, cols, scale_log2, acc,
            D, BLOCK_D, BLOCK_N, PRECISION, False,
        )  # fmt: skip
    if whole < keys:
        acc = _grad_q_tile(
            whole, keys, query, grad, query_lse, sums, k, v, routing,
            k_row, k_col, v_row, v_col, n_win, rows, cols, scale_log2, acc,
            D, BLOCK_D, BLOCK_N, PRECISION, True,
        )  # fmt: skip
    acc = (acc * scale).to(grad_q.dtype.element_ty)
    tl.store(grad_q + origin + pixels, acc, mask=mask)


@triton.jit
def _table(table, image, regions, topk):
    """Return an image's sources, pieces and joints, and how many there are.

    The layout is that of :func:`invert`.
    """
    edges = regions * topk
    joints = regions // _PIECE
    pieces = regions + joints
    table += image * (edges + 4 * pieces + 3 * joints)
    return table, table + edges, table + edges + 4 * pieces, pieces, joints


@triton.jit(do_not_specialize=['n_win', 'topk'])
def invert(
    routing, table, n_win, topk, BLOCK_R: tl.constexpr, BLOCK_E: tl.constexpr
):
    """Invert the routing: list the regions that route to each region.

    A program has one region. For each image, the int32 ``table`` holds

    - the sources: for each region in turn those that route to it;
    - the pieces, (region, first source, end of the sources, row of the
      partial sums): a region's sources are cut into pieces of at most
      PIECE * topk, at least one. The row is -1 for a region of one piece;
    - the joints, (region, pieces, first row): the regions of several pieces.

    The number of pieces and joints is bounded by the shape: of R regions with
    R * topk sources in all, at most R // PIECE exceed a piece, by at most
    R // PIECE pieces together. The region of an unused entry is -1.
    """
    regions = n_win * n_win
    region = tl.program_id(0) % regions
    image = (tl.program_id(0) // regions).to(tl.int64)
    edges = regions * topk
    routing += image * edges
    sources, pieces, joints, max_pieces, max_joints = _table(
        table, image, regions, topk
    )

    counts = tl.zeros([BLOCK_R], tl.int32)
    for start in range(0, edges, BLOCK_E):
        edge = start + tl.arange(0, BLOCK_E)
        chosen = tl.load(routing + edge, mask=edge < edges, other=0)
        chosen = tl.minimum(tl.maximum(chosen, 0), regions - 1).to(tl.int32)
        counts += tl.histogram(chosen, BLOCK_R)
    each = tl.arange(0, BLOCK_R)
    # Older versions of Triton have no mask here.
    padding = tl.cdiv(edges, BLOCK_E) * BLOCK_E - edges
    counts -= tl.where(each == 0, padding, 0)
    before = each < region
    most = _PIECE * topk
    cut = tl.where(each < regions, tl.cdiv(counts, most), 0)
    joined = cut > 1
    count = tl.sum(tl.where(each == region, counts, 0), 0)
    first = tl.sum(tl.where(before, counts, 0), 0)
    own_pieces = tl.maximum(tl.cdiv(count, most), 1)
    first_piece = tl.sum(tl.where(before, tl.maximum(cut, 1), 0), 0)
    first_row = tl.sum(tl.where(before & joined, cut, 0), 0)
    joint = tl.sum((before & joined).to(tl.int32), 0)
    is_last = region == regions - 1

    # At most 1.25 times as many pieces as regions.
    slot = tl.arange(0, 2 * BLOCK_R)
    piece = slot - first_piece
    used = piece < own_pieces
    end = tl.where(is_last, max_pieces, first_piece + own_pieces)
    mask = (piece >= 0) & (slot < end)
    row = tl.where(own_pieces > 1, first_row + piece, -1)
    entry = pieces + 4 * slot
    tl.store(entry, tl.where(used, region, -1), mask=mask)
    tl.store(entry + 1, first + piece * most, mask=mask)
    stop = first + tl.minimum((piece + 1) * most, count)
    tl.store(entry + 2, stop, mask=mask)
    tl.store(entry + 3, row, mask=mask)

    has_joint = own_pieces > 1
    used = (each == joint) & has_joint
    unused = is_last & (each >= joint + has_joint.to(tl.int32))
    # The interpreter of Triton 3.9 widens the booleans of this expression.
    mask = (used | (unused & (each < max_joints))).to(tl.int32) > 0
    entry = joints + 3 * each
    tl.store(entry, tl.where(used, region, -1), mask=mask)
    tl.store(entry + 1, tl.where(used, own_pieces, 0), mask=mask)
    tl.store(entry + 2, tl.where(used, first_row, 0), mask=mask)

    for start in range(0, edges, BLOCK_E):
        edge = start + tl.arange(0, BLOCK_E)
        chosen = tl.load(routing + edge, mask=edge < edges, other=0)
        chosen = tl.minimum(tl.maximum(chosen, 0), regions - 1).to(tl.int32)
        found = ((chosen == region) & (edge < edges)).to(tl.int32)
        place = first + tl.cumsum(found, 0) - 1
        source = _divide(edge, 1.0 / topk)
        tl.store(sources + place, source, mask=found > 0)
        first += tl.sum(found, 0)


@triton.jit
def _grad_kv_tile(
    start, queries, key, value, q, grad_out, lse, delta, regions,
    q_row, q_col, go_row, go_col, n_win, rows, cols, scale_log2,
    grad_k, grad_v,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
    PRECISION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add what one tile of queries contributes to keys and values."""
    index = start + tl.arange(0, BLOCK_M)
    valid = index < queries
    if MASKED:
        index = tl.minimum(index, queries - 1)
    region, token, y, x = _locate_flat(index, regions, n_win, rows, cols)
    channel = tl.arange(0, BLOCK_D)
    mask = valid[:, None] & (channel < D)[None, :]
    HAS_MASK: tl.constexpr = MASKED or BLOCK_D != D
    query = _load(
        q + (y * q_row + x * q_col)[:, None] + channel[None, :], mask, HAS_MASK
    )
    grad = _load(
        grad_out + (y * go_row + x * go_col)[:, None] + channel[None, :],
        mask,
        HAS_MASK,
    )
    statistics = region * (rows * cols) + token
    # Queries beyond the last are zeros with gradients of zero, and add none.
    query_lse = _load(lse + statistics, valid, MASKED)
    query_delta = _load(delta + statistics, valid, MASKED)
    zeros = tl.zeros([key.shape[0], BLOCK_M], tl.float32)
    scores = _dot(key, tl.trans(query), zeros, PRECISION)
    weights = tl.exp2(scores * scale_log2 - query_lse[None, :])
    grad_v = _dot(weights.to(grad.dtype), grad, grad_v, PRECISION)
    grad_weights = _dot(value, tl.trans(grad), zeros, PRECISION)
    grad_scores = weights * (grad_weights - query_delta[None, :])
    grad_k = _dot(grad_scores.to(query.dtype), query, grad_k, PRECISION)
    return grad_k, grad_v


@triton.jit(do_not_specialize=_GEOMETRY)
def grad_kv(
    q, k, v, table, lse, delta, grad_out, grad_k, grad_v, partial,
    scale, scale_log2,
    q_image, q_row, q_col, k_image, k_row, k_col, v_image, v_row, v_col,
    go_image, go_row, go_col, heads, n_win, topk, rows, cols,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of keys and values.

    A program has a tile of keys of one region and head, and one piece of the
    region's sources. A region's only piece is written to ``grad_k`` and
    ``grad_v``, which are contiguous maps; others to rows of ``partial``, of
    shape (images, rows, heads, 2, tokens, D), for :func:`join_pieces`.
    """
    tokens = rows * cols
    regions = n_win * n_win
    tiles = tl.cdiv(tokens, BLOCK_N)
    max_joints = regions // _PIECE
    tile, head, piece, image = _split_program(
        tiles, heads, regions + max_joints
    )
    sources, pieces, _, _, _ = _table(table, image, regions, topk)
    region = tl.load(pieces + 4 * piece)
    if region < 0:
        return
    first = tl.load(pieces + 4 * piece + 1)
    end = tl.load(pieces + 4 * piece + 2)
    row = tl.load(pieces + 4 * piece + 3)

    token = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = tl.arange(0, BLOCK_D)
    mask = (token < tokens)[:, None] & (channel < D)[None, :]
    y, x = _locate(region, token, n_win, rows, cols)
    k += image * k_image + head * D
    key = tl.load(
        k + (y * k_row + x * k_col)[:, None] + channel[None, :],
        mask=mask,
        other=0.0,
    )
    v += image * v_image + head * D
    value = tl.load(
        v + (y * v_row + x * v_col)[:, None] + channel[None, :],
        mask=mask,
        other=0.0,
    )
    q += image * q_image + head * D
    grad_out += image * go_image + head * D
    statistics = (image * heads + head) * regions * tokens
    lse += statistics
    delta += statistics
    key_grad = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    value_grad = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    sources += first
    queries = (end - first) * tokens
    whole = queries // BLOCK_M * BLOCK_M
    for start in range(0, whole, BLOCK_M):
        key_grad, value_grad = _grad_kv_tile(
            start, queries, key, value, q, grad_out, lse, delta, sources,
            q_row, q_col, go_row, go_col, n_win, rows, cols, scale_log2,
            key_grad, value_grad,
            D, BLOCK_D, BLOCK_M, PRECISION, False,
        )  # fmt: skip
    if whole < queries:
        key_grad, value_grad = _grad_kv_tile(
            whole, queries, key, value, q, grad_out, lse, delta, sources,
            q_row, q_col, go_row, go_col, n_win, rows, cols, scale_log2,
            key_grad, value_grad,
            D, BLOCK_D, BLOCK_M, PRECISION, True,
        )  # fmt: skip
    key_grad = key_grad * scale
    if row < 0:
        width = n_win * cols
        origin = image * (n_win * rows) * width * (heads * D) + head * D
        pixels = (y * width + x)[:, None] * (heads * D) + channel[None, :]
        dtype = grad_k.dtype.element_ty
        tl.store(grad_k + origin + pixels, key_grad.to(dtype), mask=mask)
        tl.store(grad_v + origin + pixels, value_grad.to(dtype), mask=mask)
    else:
        offset = (image * (2 * max_joints) + row) * heads + head
        partial += offset * 2 * tokens * D
        place = token[:, None] * D + channel[None, :]
        tl.store(partial + place, key_grad, mask=mask)
        tl.store(partial + tokens * D + place, value_grad, mask=mask)


@triton.jit(do_not_specialize=_GEOMETRY)
def join_pieces(
    table, partial, grad_k, grad_v, heads, n_win, topk, rows, cols,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Add the partial sums of the regions of several pieces, in order.

    A program has a tile of keys of one region and head.
    """
    tokens = rows * cols
    regions = n_win * n_win
    max_joints = regions // _PIECE
    tile, head, joint, image = _split_program(
        tl.cdiv(tokens, BLOCK_N), heads, max_joints
    )
    _, _, joints, _, _ = _table(table, image, regions, topk)
    region = tl.load(joints + 3 * joint)
    if region < 0:
        return
    pieces = tl.load(joints + 3 * joint + 1)
    row = tl.load(joints + 3 * joint + 2)

    token = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = tl.arange(0, BLOCK_D)
    mask = (token < tokens)[:, None] & (channel < D)[None, :]
    place = token[:, None] * D + channel[None, :]
    size = heads.to(tl.int64) * 2 * tokens * D
    partial += (image * (2 * max_joints) + row) * size + head * 2 * tokens * D
    key_grad = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    value_grad = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for _ in range(pieces):
        key_grad += tl.load(partial + place, mask=mask, other=0.0)
        value_grad += tl.load(
            partial + tokens * D + place, mask=mask, other=0.0
        )
        partial += size
    y, x = _locate(region, token, n_win, rows, cols)
    width = n_win * cols
    origin = image * (n_win * rows) * width * (heads * D) + head * D
    pixels = (y * width + x)[:, None] * (heads * D) + channel[None, :]
    dtype = grad_k.dtype.element_ty
    tl.store(grad_k + origin + pixels, key_grad.to(dtype), mask=mask)
    tl.store(grad_v + origin + pixels, value_grad.to(dtype), mask=mask)
