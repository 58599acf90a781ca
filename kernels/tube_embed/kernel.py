"""The Triton programs of the tube embedding: an implicit matrix product that reads uint8 pictures in place.

Forward: a program makes `rows` tokens (of all snippets, one after another) times `columns` channels, reducing over a
tube's K numbers in blocks of `depth`. Programs that share tokens run side by side, so that their pixels come from the
cache. A run of kx * 3 bytes is contiguous in a picture; the widest load that all runs allow is a hint to the compiler,
which then copies pixels asynchronously. On sm_90 the bytes become the product's left operand in registers: no float
pixel is ever stored, not even in shared memory. 2 u - 255 is an odd number of at most 8 bits, so it is exact in every
dtype, and x = (2 u - 255) / 255 needs no correction that could cancel.

Gradient of a weight: a program sums g^T x over a chunk of tokens for a block of [channels, K]; chunks are summed after
(always in the same order), so that there are no atomics.

A block's offsets are relative to its first snippet and fit 32 bits, which keeps two programs in an SM's registers.

TUBE is (kernel t y x, stride t y x, offset t y x, grid t y x, bytes of a row of pixels).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def corners(row, first_snippet, stride_s, TUBE: tl.constexpr):
    """Of each token: its snippet counted from the first, its number there, its first picture, its first byte."""
    TOKENS: tl.constexpr = TUBE[9] * TUBE[10] * TUBE[11]
    snippet = row // TOKENS - first_snippet
    token = row % TOKENS
    picture = token // (TUBE[10] * TUBE[11]) * TUBE[3] + TUBE[6]
    y = token // TUBE[11] % TUBE[10] * TUBE[4] + TUBE[7]
    x = token % TUBE[11] * TUBE[5] + TUBE[8]
    return snippet, token, picture, snippet * stride_s + y * TUBE[12] + x * 3


@triton.jit
def steps(k, TUBE: tl.constexpr, VECTOR: tl.constexpr):
    """Where a tube's k-th number lies: its picture, and its byte from the tube's corner in that picture."""
    RUN: tl.constexpr = TUBE[2] * 3
    inside = k % (TUBE[1] * RUN)
    step = inside // RUN * TUBE[12] + inside % RUN
    return k // (TUBE[1] * RUN), tl.max_contiguous(tl.multiple_of(step, VECTOR), VECTOR)


@triton.jit
def shown(index, at, first, picture_k, TUBE: tl.constexpr, SPAN: tl.constexpr):
    """Which pictures a block of k reads, [rows, 1 or k]; from the tube's `first` on, it reaches into SPAN of them."""
    chosen = tl.load(index + at + first)[:, None]
    for j in tl.static_range(1, SPAN):
        # The last block may end in an earlier picture than the others.
        here = tl.minimum(first + j, TUBE[0] - 1)
        chosen = tl.where((picture_k >= here)[None, :], tl.load(index + at + here)[:, None], chosen)
    return chosen


@triton.jit(do_not_specialize=["snippets"])
def forward_kernel(
    frames,
    index,
    weight,
    bias,
    position,
    out,
    snippets,
    stride_s,
    stride_f,
    stride_i,
    stride_o,
    TUBE: tl.constexpr,
    WIDTH: tl.constexpr,
    VECTOR: tl.constexpr,
    SPAN: tl.constexpr,
    OPERAND: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    K: tl.constexpr = TUBE[0] * TUBE[1] * TUBE[2] * 3
    TOKENS: tl.constexpr = TUBE[9] * TUBE[10] * TUBE[11]
    BLOCKS: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    row_0 = tl.program_id(0) // BLOCKS * ROWS
    column_0 = tl.program_id(0) % BLOCKS * COLUMNS
    first_snippet = row_0 // TOKENS
    frames += first_snippet.to(tl.int64) * stride_s
    # Rows and columns past the end repeat the last one, so that the loop's loads need no mask.
    row = tl.minimum(row_0 + tl.arange(0, ROWS), snippets * TOKENS - 1)
    column = tl.minimum(column_0 + tl.arange(0, COLUMNS), WIDTH - 1)
    snippet, token, picture, corner = corners(row, first_snippet, stride_s, TUBE)
    if index is None:
        corner += picture * stride_f
        at = corner
    else:
        index += first_snippet.to(tl.int64) * stride_i
        at = snippet * stride_i + picture
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k_0 in range(0, K, DEPTH):
        k = k_0 + tl.arange(0, DEPTH)
        picture_k, step = steps(k, TUBE, VECTOR)
        if index is None:
            pixels = frames + (corner[:, None] + (picture_k * stride_f + step)[None, :])
        else:
            chosen = shown(index, at, k_0 // (K // TUBE[0]), picture_k, TUBE, SPAN)
            pixels = frames + (corner[:, None] + chosen * stride_f + step[None, :])
        weights = weight + (column[None, :] * K + k[:, None])
        if K % DEPTH == 0:
            u = tl.load(pixels)
            w = tl.load(weights)
        else:
            u = tl.load(pixels, mask=(k < K)[None, :], other=0)
            w = tl.load(weights, mask=(k < K)[:, None], other=0.0)
        sums = tl.dot(u.to(OPERAND) * 2.0 - 255.0, w.to(OPERAND), sums, input_precision="ieee")
    row = row_0 + tl.arange(0, ROWS)
    column = column_0 + tl.arange(0, COLUMNS)
    mask = (row < snippets * TOKENS)[:, None] & (column < WIDTH)[None, :]
    token = row % TOKENS
    result = sums * (1.0 / 255.0)
    if position is not None:
        result += tl.load(position + (token[:, None] * WIDTH + column[None, :]), mask=mask, other=0.0).to(tl.float32)
    # After the position: the other way round, more values live at once than half an SM's registers hold.
    result += tl.load(bias + column, mask=column < WIDTH, other=0.0).to(tl.float32)[None, :]
    out += first_snippet.to(tl.int64) * stride_o
    snippet = row // TOKENS - first_snippet
    place = (snippet * stride_o + token * WIDTH)[:, None] + column[None, :]
    tl.store(out + place, result.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["snippets"])
def weight_gradient_kernel(
    gradient,
    frames,
    index,
    partial,
    snippets,
    chunk,
    stride_s,
    stride_f,
    stride_i,
    stride_g,
    TUBE: tl.constexpr,
    WIDTH: tl.constexpr,
    VECTOR: tl.constexpr,
    SPAN: tl.constexpr,
    OPERAND: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    K: tl.constexpr = TUBE[0] * TUBE[1] * TUBE[2] * 3
    TOKENS: tl.constexpr = TUBE[9] * TUBE[10] * TUBE[11]
    BLOCKS: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    k_0 = tl.program_id(0) // BLOCKS * DEPTH
    column = tl.program_id(0) % BLOCKS * COLUMNS + tl.arange(0, COLUMNS)
    start = tl.program_id(1) * chunk
    stop = tl.minimum(start + chunk, snippets * TOKENS)
    # The last block's numbers past the tube's end repeat its last one; they are not stored.
    k = k_0 + tl.arange(0, DEPTH)
    picture_k, step = steps(k, TUBE, VECTOR)
    sums = tl.zeros((COLUMNS, DEPTH), tl.float32)
    for row_0 in range(start, stop, ROWS):
        first_snippet = row_0 // TOKENS
        row = row_0 + tl.arange(0, ROWS)
        real = row < stop
        snippet, token, picture, corner = corners(tl.minimum(row, stop - 1), first_snippet, stride_s, TUBE)
        base = frames + first_snippet.to(tl.int64) * stride_s
        if index is None:
            offset = (corner + picture * stride_f)[:, None] + (picture_k * stride_f + step)[None, :]
        else:
            at = snippet * stride_i + picture
            first = tl.minimum(k_0 // (K // TUBE[0]), TUBE[0] - 1)
            chosen = shown(index + first_snippet.to(tl.int64) * stride_i, at, first, picture_k, TUBE, SPAN)
            offset = corner[:, None] + chosen * stride_f + step[None, :]
        if K % DEPTH == 0:
            u = tl.load(base + offset)
        else:
            u = tl.load(base + offset, mask=(k < K)[None, :], other=0)
        here = gradient + first_snippet.to(tl.int64) * stride_g
        mask = real[:, None] & (column < WIDTH)[None, :]
        g = tl.load(here + ((snippet * stride_g + token * WIDTH)[:, None] + column[None, :]), mask=mask, other=0.0)
        sums = tl.dot(tl.trans(g.to(OPERAND)), u.to(OPERAND) * 2.0 - 255.0, sums, input_precision="ieee")
    place = partial + (tl.program_id(1).to(tl.int64) * WIDTH + column)[:, None] * K + k[None, :]
    tl.store(place, sums * (1.0 / 255.0), mask=(column < WIDTH)[:, None] & (k < K)[None, :])
