"""The token summary's backward in Triton. Nothing of size N D is kept from the forward: logits are computed again.

With p the softmax weights and delta_k = y_k dy_k, a logit's gradient is p_nk (x_n dy_k - delta_k), and a token's is
sum_k p_nk dy_k plus what comes through the importance. delta takes y without its rounding: a part of it that all
tokens share would not cancel over them.

`tokens_program`: one program a lane and block of tokens. A first sweep over the width gives the first layer's product
and x_n dy_k, a second the tokens' gradients. The LayerNorm's two sums over the width are products in the hidden width:
the gradient at the first layer with weighted_H, and with the layer's results less constant_H.

`weights_program` multiplies those gradients with the normalised tokens, [H, D], over a share of all tokens. That one
product holds the gradients of the first layer's weights and of the norm's weight and bias (`finish_program`); for
direct tokens it takes the tokens as they are, and `finish_program` takes the mean's part out. Programs write their own
sums, which are added up afterwards in a fixed order. The second layer's bias adds one number to all logits of a
summary, which the softmax ignores: its gradient is zero.
"""

from __future__ import annotations

import triton
import triton.language as tl

from longtake.kernels.token_summary.forward import ANY_INTEGER
from longtake.kernels.token_summary.tiles import (
    first_layer,
    gelu_gate,
    load_matrix,
    load_tile,
    rows_of_block,
    second_layer,
    tile_product,
)


@triton.jit
def delta_program(
    result, rest, gradient, delta, height, width,
    HALF: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """delta [2, height] of a result [height, width]: the product with its gradient, and with that in half precision.

    Each kind of source takes the delta of the gradient that it meets: then what their means add is the same on both
    sides of the difference.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    half_sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, width, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside = (row < height)[:, None] & (columns < width)[None, :]
        at = row[:, None] * width + columns[None, :]
        tile = tl.load(result + at, mask=inside, other=0.0).to(tl.float32)
        if rest is not None:
            tile += tl.load(rest + at, mask=inside, other=0.0).to(tl.float32)
        upstream = tl.load(gradient + at, mask=inside, other=0.0)
        sums += tile * upstream.to(tl.float32)
        half_sums += tile * upstream.to(HALF).to(tl.float32)
    tl.store(delta + row, tl.sum(sums, axis=1), mask=row < height)
    tl.store(delta + height + row, tl.sum(half_sums, axis=1), mask=row < height)


@triton.jit
def first_sweep(
    tokens, position, rows, row_stride, position_stride, gradient, parts, mean, deviation, width,
    K: tl.constexpr, H: tl.constexpr, SUMMARIES: tl.constexpr, HIDDEN: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, EVEN: tl.constexpr, DIRECT: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """The product with the folded weights [ROWS, HIDDEN], and that with the result's gradient [ROWS, SUMMARIES]."""
    summaries = tl.arange(0, SUMMARIES)
    product = tl.zeros([ROWS, HIDDEN], tl.float32)
    slope = tl.zeros([ROWS, SUMMARIES], tl.float32)
    for start in range(0, width, COLUMNS):
        here = start + tl.arange(0, COLUMNS)
        tile = load_tile(tokens, position, rows, here, row_stride, position_stride, width, EVEN)
        if DIRECT:
            product = tile_product(product, tile, parts, here, width, H, HIDDEN, PARTS, EVEN)
        else:
            normed = ((tile.to(tl.float32) - mean[:, None]) * deviation[:, None]).to(parts.dtype.element_ty)
            product = tile_product(product, normed, parts, here, width, H, HIDDEN, PARTS, EVEN)
        # Transposed.
        upstream = load_matrix(
            gradient, summaries[None, :], here[:, None], width, K, width, K == SUMMARIES, EVEN
        )  # fmt: skip
        slope = tl.dot(tile.to(PRODUCT), upstream.to(PRODUCT), slope, input_precision="ieee")
    return product, slope


@triton.jit
def second_sweep(
    tokens, position, token_gradient, row, count, row_stride, position_stride, gradient, parts, weights, inner, mean,
    deviation, mean_part, scale_part, width,
    K: tl.constexpr, H: tl.constexpr, SUMMARIES: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, EVEN: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """The gradient of a block's tokens; `inner` is that at the first layer, in the weights' dtype."""
    hidden = tl.arange(0, HIDDEN)
    summaries = tl.arange(0, SUMMARIES)
    rows = row + tl.arange(0, ROWS)
    inside = rows < count
    safe_rows = rows_of_block(row, count, ROWS)
    out = token_gradient + rows.to(tl.int64)[:, None] * width
    for start in tl.range(0, width, COLUMNS, num_stages=3):
        here = start + tl.arange(0, COLUMNS)
        upstream = load_matrix(gradient, summaries[:, None], here[None, :], width, K, width, K == SUMMARIES, EVEN)
        high = load_matrix(parts, hidden[:, None], here[None, :], width, H, width, H == HIDDEN, EVEN)
        through = tl.dot(inner, high, input_precision="ieee")
        direct = tl.dot(weights, upstream.to(PRODUCT), input_precision="ieee")
        tile = load_tile(tokens, position, safe_rows, here, row_stride, position_stride, width, EVEN).to(tl.float32)
        normed = (tile - mean[:, None]) * deviation[:, None]
        through -= mean_part[:, None] + normed * scale_part[:, None]
        found = (direct + through * deviation[:, None]).to(token_gradient.dtype.element_ty)
        tl.store(out + here[None, :], found, mask=inside[:, None] & (here < width)[None, :])


@triton.jit
def block_gradients(
    weights, slope, layer, gate, mean, deviation, tokens, position, token_gradient, row, count, row_stride,
    position_stride, gradient, inner_gradient, sums, parts, folded, down, width,
    K: tl.constexpr, H: tl.constexpr, SUMMARIES: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, EVEN: tl.constexpr, DIRECT: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """Write a block's gradients from those of its logits, `slope`; see `tokens_program`.

    All pointers are at the source's first row in the lane, or at the block's sums.
    """
    hidden = tl.arange(0, HIDDEN)
    summaries = tl.arange(0, SUMMARIES)
    slope = slope.to(down.dtype.element_ty)
    activated = (layer * gate).to(down.dtype.element_ty)
    down_gradient = tl.dot(tl.trans(slope), activated, input_precision="ieee")
    at = sums + summaries[:, None] * H + hidden[None, :]
    tl.store(at, down_gradient, mask=(summaries < K)[:, None] & (hidden < H)[None, :])

    down_tile = load_matrix(down, summaries[:, None], hidden[None, :], H, K, H, K == SUMMARIES, H == HIDDEN)
    inner = tl.dot(slope, down_tile, input_precision="ieee")
    # The GELU's derivative, with the gate's argument z: gate + x gate (1 - gate) dz/dx. The difference would lose its
    # digits where the gate is open; it is the gate of -x.
    inner *= gate * (1.0 + layer * gelu_gate(-layer) * (1.5957691216057308 + 0.21406444881780075 * layer * layer))
    tl.store(sums + K * H + hidden, tl.sum(inner, axis=0), mask=hidden < H)
    kept = inner
    if DIRECT:
        kept = inner * deviation[:, None]
    kept = kept.to(inner_gradient.dtype.element_ty)
    rows = row + tl.arange(0, ROWS)
    at = inner_gradient + rows[:, None] * H + hidden[None, :]
    tl.store(at, kept, mask=(rows < count)[:, None] & (hidden < H)[None, :])
    mean_sum = tl.zeros([HIDDEN], tl.float32)
    if DIRECT:
        mean_sum = tl.sum(kept.to(tl.float32) * mean[:, None], axis=0)
    tl.store(sums + K * H + H + hidden, mean_sum, mask=hidden < H)

    if token_gradient is not None:
        weighted_H = tl.load(folded + hidden, mask=hidden < H, other=0.0)
        constant_H = tl.load(folded + H + hidden, mask=hidden < H, other=0.0)
        mean_part = tl.sum(inner * weighted_H[None, :], axis=1) / width
        scale_part = tl.sum(inner * (layer - constant_H[None, :]), axis=1) / width
        second_sweep(
            tokens, position, token_gradient, row, count, row_stride, position_stride, gradient, parts,
            weights.to(PRODUCT), inner.to(parts.dtype.element_ty), mean, deviation, mean_part, scale_part, width,
            K, H, SUMMARIES, HIDDEN, ROWS, COLUMNS, EVEN, PRODUCT,
        )  # fmt: skip


@triton.jit(do_not_specialize=ANY_INTEGER)
def tokens_program(
    tokens, mask, token_gradient, position, statistics, softmax, delta, gradient, inner_gradient, sums,
    count, offset, lane_stride, row_stride, position_stride, lanes, all_tokens, parts, folded, down, down_bias, width,
    K: tl.constexpr, H: tl.constexpr, SUMMARIES: tl.constexpr, HIDDEN: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, EVEN: tl.constexpr, DIRECT: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """All gradients of one block of a source, or what it adds to them; one program a lane and block.

    Written are the tokens' gradients (if wanted) in `token_gradient` [lanes, count, width], those at the first layer in
    `inner_gradient` [lanes, all tokens, H], and a row of `sums` for each block: [K, H] for the second layer's weights,
    [H] for the first layer's bias, and [H], the part that the tokens' means have in the direct products of
    `weights_program`.
    """
    blocks = tl.cdiv(count, ROWS)
    lane = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    row = block * ROWS
    here = rows_of_block(row, count, ROWS)
    tokens += lane * lane_stride
    if position is not None:
        position += offset * position_stride
    token = lane * all_tokens + offset
    mean = tl.load(statistics + token + here)
    deviation = tl.load(statistics + lanes.to(tl.int64) * all_tokens + token + here)
    gradient += lane * K * width
    product, slope = first_sweep(
        tokens, position, here, row_stride, position_stride, gradient, parts, mean, deviation, width,
        K, H, SUMMARIES, HIDDEN, PARTS, ROWS, COLUMNS, EVEN, DIRECT, PRODUCT,
    )  # fmt: skip

    summaries = tl.arange(0, SUMMARIES)
    layer = first_layer(product, mean, deviation, folded, H, HIDDEN, DIRECT)
    gate = gelu_gate(layer)
    logits = second_layer((layer * gate).to(down.dtype.element_ty), down, down_bias, K, H, SUMMARIES, HIDDEN)
    seen = row + tl.arange(0, ROWS) < count
    if mask is not None:
        seen = seen & (tl.load(mask + lane * count + here) != 0)
    maximum = tl.load(softmax + lane * 2 * K + summaries, mask=summaries < K, other=0.0)
    inverse = tl.load(softmax + lane * 2 * K + K + summaries, mask=summaries < K, other=0.0)
    logits = tl.where(seen[:, None], logits, float("-inf"))
    weights = tl.exp(logits - maximum[None, :]) * inverse[None, :]
    slope = weights * (slope - tl.load(delta + lane * K + summaries, mask=summaries < K, other=0.0)[None, :])
    if token_gradient is not None:
        token_gradient += lane * count * width
    block_gradients(
        weights, slope, layer, gate, mean, deviation, tokens, position, token_gradient, row, count, row_stride,
        position_stride, gradient, inner_gradient + token * H, sums + (lane * blocks + block) * (K * H + 2 * H),
        parts, folded, down, width, K, H, SUMMARIES, HIDDEN, ROWS, COLUMNS, EVEN, DIRECT, PRODUCT,
    )  # fmt: skip


@triton.jit(do_not_specialize=ANY_INTEGER)
def weights_program(
    tokens, position, statistics, inner_gradient, out, count, offset, lane_stride, row_stride, position_stride, width,
    lanes, all_tokens, group, shares,
    H: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, EVEN: tl.constexpr,
    DIRECT: tl.constexpr,
):  # fmt: skip
    """The first layer's gradients times a source's normalised tokens, [groups, shares, H, width].

    One program a tile of the width, a group of lanes and a share: blocks are dealt out to the shares in turn.
    """
    tiles = tl.cdiv(width, COLUMNS)
    tile_number = tl.program_id(0) % tiles
    part = tl.program_id(0) // tiles % shares
    first_lane = (tl.program_id(0) // tiles // shares).to(tl.int64) * group
    hidden = tl.arange(0, HIDDEN)
    columns = tile_number * COLUMNS + tl.arange(0, COLUMNS)
    if position is not None:
        position += offset * position_stride
    product = tl.zeros([HIDDEN, COLUMNS], tl.float32)
    for number in range(0, tl.minimum(group, lanes - first_lane)):
        lane = first_lane + number
        token = lane * all_tokens + offset
        for row in range(part * ROWS, count, shares * ROWS):
            rows = row + tl.arange(0, ROWS)
            at = inner_gradient + (token + rows)[:, None] * H + hidden[None, :]
            inner = tl.load(at, mask=(rows < count)[:, None] & (hidden < H)[None, :], other=0.0)
            here = rows_of_block(row, count, ROWS)
            tile = load_tile(
                tokens + lane * lane_stride, position, here, columns, row_stride, position_stride, width, EVEN
            )  # fmt: skip
            if DIRECT:
                product = tl.dot(tl.trans(inner), tile, product, input_precision="ieee")
            else:
                mean = tl.load(statistics + token + here)
                deviation = tl.load(statistics + lanes.to(tl.int64) * all_tokens + token + here)
                normed = (tile.to(tl.float32) - mean[:, None]) * deviation[:, None]
                product = tl.dot(tl.trans(inner), normed.to(inner.dtype), product, input_precision="ieee")
    at = out + ((tl.program_id(0) // tiles).to(tl.int64) * H + hidden)[:, None] * width + columns[None, :]
    tl.store(at, product, mask=(hidden < H)[:, None] & (columns < width)[None, :])


@triton.jit
def finish_program(
    product, sums, up, norm_weight, norm_bias, up_gradient, norm_weight_gradient, norm_bias_gradient, width,
    H: tl.constexpr, HIDDEN: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradients of the first layer's weights and of the norm from the product [H, width] and the sums [2, H]."""
    hidden = tl.arange(0, HIDDEN)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (hidden < H)[:, None] & (columns < width)[None, :]
    at = hidden[:, None] * width + columns[None, :]
    bias_sum = tl.load(sums + hidden, mask=hidden < H, other=0.0)[:, None]
    mean_sum = tl.load(sums + H + hidden, mask=hidden < H, other=0.0)[:, None]
    tile = tl.load(product + at, mask=inside, other=0.0) - mean_sum
    weights = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(norm_weight + columns, mask=columns < width, other=0.0).to(tl.float32)
    offset = tl.load(norm_bias + columns, mask=columns < width, other=0.0).to(tl.float32)
    found = tile * scale[None, :] + bias_sum * offset[None, :]
    tl.store(up_gradient + at, found.to(up_gradient.dtype.element_ty), mask=inside)
    found = tl.sum(tile * weights, axis=0)
    at = norm_weight_gradient + columns
    tl.store(at, found.to(norm_weight_gradient.dtype.element_ty), mask=columns < width)
    found = tl.sum(bias_sum * weights, axis=0)
    tl.store(norm_bias_gradient + columns, found.to(norm_bias_gradient.dtype.element_ty), mask=columns < width)
