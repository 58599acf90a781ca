"""The token summary's forward in two passes, in Triton.

`logits_program`: one program a lane and block of tokens sweeps its rows once, tile by tile of the width, for the first
layer's product and for the mean and variance at the same time (`tiles.measured_product`), and writes the block's logits
and the largest of each summary. `mix_program`: one program a lane, tile of the width and share of the tokens. Its
logits, 4 k bytes a token, come from the L2 cache to all tiles but the first.

Tokens are read twice in all, and nothing is concatenated: blocks never cross from one source to the next, and a
program's source is known from its number. Where there are few lanes several programs share the tokens of one, and
`combine_program` adds up their sums, in a fixed order. Hidden tokens have the logit -inf.
"""

from __future__ import annotations

import triton
import triton.language as tl

from longtake.kernels.token_summary.tiles import (
    first_layer,
    gelu_gate,
    load_tile,
    measured_product,
    rows_of_block,
    second_layer,
)

# Integers that differ from call to call: a program compiled for one value serves all.
ANY_INTEGER = (
    *("tokens0", "tokens1", "tokens2", "count", "offset", "all_tokens"),
    *("blocks", "lanes", "group", "shares"),
)


@triton.jit(do_not_specialize=("height",))
def fold_program(
    up, up_bias, norm_weight, norm_bias, parts, folded, height, width,
    PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The first layer's weights times the norm's, [PARTS, height, width], and their sums over the width, [2, height].

    The second sum is that of the weights times the norm's bias, with the layer's own bias.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    weighted = tl.zeros([ROWS, COLUMNS], tl.float32)
    constant = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, width, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside = (row < height)[:, None] & (columns < width)[None, :]
        at = row[:, None] * width + columns[None, :]
        tile = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(norm_weight + columns, mask=columns < width, other=0.0).to(tl.float32)
        offset = tl.load(norm_bias + columns, mask=columns < width, other=0.0).to(tl.float32)
        product = tile * scale[None, :]
        for part in tl.static_range(PARTS):
            rounded = product.to(parts.dtype.element_ty)
            tl.store(parts + part * height * width + at, rounded, mask=inside)
            weighted += rounded.to(tl.float32)
            product -= rounded.to(tl.float32)
        constant += tile * offset[None, :]
    bias = tl.load(up_bias + row, mask=row < height, other=0.0).to(tl.float32)
    tl.store(folded + row, tl.sum(weighted, axis=1), mask=row < height)
    tl.store(folded + height + row, tl.sum(constant, axis=1) + bias, mask=row < height)


@triton.jit
def finite_or_zero(maximum):
    """A maximum that exponents can be taken relative to: 0 where no token was seen."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit
def block_logits(
    tokens, mask, position, statistics, row, count, row_stride, position_stride, plane,
    parts, folded, down, down_bias, width, eps,
    K: tl.constexpr, H: tl.constexpr, SUMMARIES: tl.constexpr, HIDDEN: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, EVEN: tl.constexpr, DIRECT: tl.constexpr,
):  # fmt: skip
    """The logits [ROWS, SUMMARIES] of a source's rows from `row` on, -inf where hidden or beyond its end.

    `tokens`, `mask`, `position` and `statistics` point at the source's first row in this lane. Each token's mean and
    1 / standard deviation go to `statistics` and, `plane` further on, for the backward.
    """
    rows = row + tl.arange(0, ROWS)
    inside = rows < count
    product, mean, deviation = measured_product(
        tokens, position, rows_of_block(row, count, ROWS), row_stride, position_stride, parts, width, eps,
        H, HIDDEN, PARTS, ROWS, COLUMNS, EVEN, DIRECT,
    )  # fmt: skip
    tl.store(statistics + rows, mean, mask=inside)
    tl.store(statistics + plane + rows, deviation, mask=inside)
    hidden = first_layer(product, mean, deviation, folded, H, HIDDEN, DIRECT)
    activated = (hidden * gelu_gate(hidden)).to(down.dtype.element_ty)
    logits = second_layer(activated, down, down_bias, K, H, SUMMARIES, HIDDEN)
    if mask is not None:
        inside = inside & (tl.load(mask + rows_of_block(row, count, ROWS)) != 0)
    return tl.where(inside[:, None], logits, float("-inf"))


@triton.jit
def logits_of_source(
    tokens, mask, position, logits, block_maximum, statistics, block, first_block, count, offset, lane_stride,
    row_stride, position_stride, lane, lanes, blocks, all_tokens, parts, folded, down, down_bias, width, eps,
    K: tl.constexpr, H: tl.constexpr, SUMMARIES: tl.constexpr, HIDDEN: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, EVEN: tl.constexpr, DIRECT: tl.constexpr,
):  # fmt: skip
    """The logits of one block of a source, and the largest of each summary."""
    row = (block - first_block) * ROWS
    token = lane * all_tokens + offset
    if mask is not None:
        mask += lane * count
    if position is not None:
        position += offset * position_stride
    found = block_logits(
        tokens + lane * lane_stride, mask, position,
        statistics + token, row, count, row_stride, position_stride, lanes.to(tl.int64) * all_tokens,
        parts, folded, down, down_bias, width, eps, K, H, SUMMARIES, HIDDEN, PARTS, ROWS, COLUMNS, EVEN, DIRECT,
    )  # fmt: skip
    rows = row + tl.arange(0, ROWS)
    summaries = tl.arange(0, SUMMARIES)
    at = logits + (token + rows)[:, None] * K + summaries[None, :]
    tl.store(at, found, mask=(rows < count)[:, None] & (summaries < K)[None, :])
    at = block_maximum + (lane * blocks + block) * K + summaries
    tl.store(at, tl.max(found, axis=0), mask=summaries < K)


@triton.jit(do_not_specialize=ANY_INTEGER)
def logits_program(
    source0, source1, source2, mask0, mask1, mask2, position, logits, block_maximum, statistics,
    tokens0, tokens1, tokens2, lane_stride0, lane_stride1, lane_stride2, row_stride0, row_stride1, row_stride2,
    position_stride, parts, folded, down, down_bias, width, lanes, eps,
    K: tl.constexpr, H: tl.constexpr, SUMMARIES: tl.constexpr, HIDDEN: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, EVEN: tl.constexpr,
    COLUMNS0: tl.constexpr, COLUMNS1: tl.constexpr, COLUMNS2: tl.constexpr,
    DIRECT0: tl.constexpr, DIRECT1: tl.constexpr, DIRECT2: tl.constexpr,
):  # fmt: skip
    """First pass: logits [lanes, tokens, K] and block_maximum [lanes, blocks, K]; one program a lane and block."""
    end0 = tl.cdiv(tokens0, ROWS)
    end1 = end0 + tl.cdiv(tokens1, ROWS)
    blocks = end1 + tl.cdiv(tokens2, ROWS)
    all_tokens = tokens0 + tokens1 + tokens2
    lane = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    if block < end0:
        logits_of_source(
            source0, mask0, position, logits, block_maximum, statistics, block, 0, tokens0, 0, lane_stride0,
            row_stride0, position_stride, lane, lanes, blocks, all_tokens, parts, folded, down, down_bias, width, eps,
            K, H, SUMMARIES, HIDDEN, PARTS, ROWS, COLUMNS0, EVEN, DIRECT0,
        )  # fmt: skip
    # What is not there is not compiled.
    if source1 is not None:  # noqa: SIM102
        if (block >= end0) & (block < end1):
            logits_of_source(
                source1, mask1, position, logits, block_maximum, statistics, block, end0, tokens1, tokens0,
                lane_stride1, row_stride1, position_stride, lane, lanes, blocks, all_tokens,
                parts, folded, down, down_bias, width, eps,
                K, H, SUMMARIES, HIDDEN, PARTS, ROWS, COLUMNS1, EVEN, DIRECT1,
            )  # fmt: skip
    if source2 is not None:  # noqa: SIM102
        if block >= end1:
            logits_of_source(
                source2, mask2, position, logits, block_maximum, statistics, block, end1, tokens2, tokens0 + tokens1,
                lane_stride2, row_stride2, position_stride, lane, lanes, blocks, all_tokens,
                parts, folded, down, down_bias, width, eps,
                K, H, SUMMARIES, HIDDEN, PARTS, ROWS, COLUMNS2, EVEN, DIRECT2,
            )  # fmt: skip


@triton.jit
def maximum_of_lane(
    block_maximum, lane, blocks,
    K: tl.constexpr, SUMMARIES: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """The largest logit of each summary in a lane, -inf where it has no tokens."""
    summaries = tl.arange(0, SUMMARIES)
    maximum = tl.full([SUMMARIES], float("-inf"), tl.float32)
    for start in range(0, blocks, BLOCKS):
        here = start + tl.arange(0, BLOCKS)
        inside = (here < blocks)[:, None] & (summaries < K)[None, :]
        at = block_maximum + (lane * blocks + here)[:, None] * K + summaries[None, :]
        maximum = tl.maximum(maximum, tl.max(tl.load(at, mask=inside, other=float("-inf")), axis=0))
    return maximum


@triton.jit
def store_share(
    sums, maximum, total, softmax, out, rest, number, columns, width, first,
    K: tl.constexpr, SUMMARIES: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Write a share's sums [SUMMARIES, COLUMNS] and, from a lane's first tile, what they are relative to.

    Where SPLIT these are sums for `combine_program` and their maximum and total; otherwise the result, the maximum (0
    where there is no token) and 1 / total (0 there). What the result's rounding left goes to `rest`, if given.
    """
    if not SPLIT:
        maximum = finite_or_zero(maximum)
        total = tl.where(total == 0.0, 0.0, 1.0 / total)
        sums *= total[:, None]
    summaries = tl.arange(0, SUMMARIES)
    at = softmax + number * 2 * K + summaries
    tl.store(at, maximum, mask=(summaries < K) & first)
    tl.store(at + K, total, mask=(summaries < K) & first)
    at = (number * K + summaries)[:, None] * width + columns[None, :]
    inside = (summaries < K)[:, None] & (columns < width)[None, :]
    rounded = sums.to(out.dtype.element_ty)
    tl.store(out + at, rounded, mask=inside)
    if rest is not None:
        tl.store(rest + at, (sums - rounded.to(tl.float32)).to(rest.dtype.element_ty), mask=inside)


@triton.jit
def mix_of_source(
    sums, total, tokens, position, logits, base, part, shares, count, offset, lane_stride, row_stride,
    position_stride, lane, all_tokens, columns, width,
    K: tl.constexpr, SUMMARIES: tl.constexpr, ROWS: tl.constexpr, EVEN: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """Add a share of a source's tokens, weighted, to the sums [SUMMARIES, COLUMNS], and the weights to the total.

    The total is that of the weights as rounded for the product, so that the mix stays convex.
    """
    tokens += lane * lane_stride
    if position is not None:
        position += offset * position_stride
    summaries = tl.arange(0, SUMMARIES)
    totals = tl.zeros([ROWS, SUMMARIES], tl.float32)
    for row in range(part * ROWS, count, shares * ROWS):
        rows = row + tl.arange(0, ROWS)
        at = logits + (lane * all_tokens + offset + rows)[:, None] * K + summaries[None, :]
        inside = (rows < count)[:, None] & (summaries < K)[None, :]
        weights = tl.exp(tl.load(at, mask=inside, other=float("-inf")) - base[None, :]).to(PRODUCT)
        totals += weights.to(tl.float32)
        rows = rows_of_block(row, count, ROWS)
        tile = load_tile(tokens, position, rows, columns, row_stride, position_stride, width, EVEN)
        sums = tl.dot(tl.trans(weights), tile.to(PRODUCT), sums, input_precision="ieee")
    return sums, total + tl.sum(totals, axis=0)


@triton.jit(do_not_specialize=ANY_INTEGER)
def mix_program(
    source0, source1, source2, position, logits, block_maximum, softmax, out, rest,
    tokens0, tokens1, tokens2, lane_stride0, lane_stride1, lane_stride2, row_stride0, row_stride1, row_stride2,
    position_stride, width, lanes, blocks, shares,
    K: tl.constexpr, SUMMARIES: tl.constexpr, COLUMNS: tl.constexpr, EVEN: tl.constexpr,
    ROWS0: tl.constexpr, ROWS1: tl.constexpr, ROWS2: tl.constexpr,
    PRODUCT0: tl.constexpr, PRODUCT1: tl.constexpr, PRODUCT2: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Second pass: out [shares, lanes, K, width] and softmax [shares, lanes, 2, K] (see `store_share`).

    One program a lane, share and tile of the width. Blocks are dealt out to the shares in turn, source by source, so
    that each has its part of those that cost more.
    """
    tiles = tl.cdiv(width, COLUMNS)
    tile = tl.program_id(0) % tiles
    part = tl.program_id(0) // tiles % shares
    lane = (tl.program_id(0) // tiles // shares).to(tl.int64)
    all_tokens = tokens0 + tokens1 + tokens2
    maximum = maximum_of_lane(block_maximum, lane, blocks, K, SUMMARIES, 32)
    base = finite_or_zero(maximum)
    columns = tile * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros([SUMMARIES, COLUMNS], tl.float32)
    total = tl.zeros([SUMMARIES], tl.float32)
    sums, total = mix_of_source(
        sums, total, source0, position, logits, base, part, shares, tokens0, 0, lane_stride0, row_stride0,
        position_stride, lane, all_tokens, columns, width, K, SUMMARIES, ROWS0, EVEN, PRODUCT0,
    )  # fmt: skip
    if source1 is not None:
        sums, total = mix_of_source(
            sums, total, source1, position, logits, base, part, shares, tokens1, tokens0, lane_stride1,
            row_stride1, position_stride, lane, all_tokens, columns, width,
            K, SUMMARIES, ROWS1, EVEN, PRODUCT1,
        )  # fmt: skip
    if source2 is not None:
        sums, total = mix_of_source(
            sums, total, source2, position, logits, base, part, shares, tokens2,
            tokens0 + tokens1, lane_stride2, row_stride2, position_stride, lane, all_tokens, columns, width,
            K, SUMMARIES, ROWS2, EVEN, PRODUCT2,
        )  # fmt: skip
    number = part * lanes + lane
    store_share(sums, maximum, total, softmax, out, rest, number, columns, width, tile == 0, K, SUMMARIES, SPLIT)


@triton.jit(do_not_specialize=ANY_INTEGER)
def combine_program(
    sums, share_softmax, softmax, out, rest, lanes, width, shares,
    K: tl.constexpr, SHARES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The result [lanes, K, width], its rest and softmax [lanes, 2, K] from those of the shares.

    One program a lane, summary and tile of the width.
    """
    tiles = tl.cdiv(width, COLUMNS)
    tile = tl.program_id(0) % tiles
    # Lane and summary in one number.
    row = (tl.program_id(0) // tiles).to(tl.int64)
    lane = row // K
    parts = tl.arange(0, SHARES)
    columns = tile * COLUMNS + tl.arange(0, COLUMNS)
    at = share_softmax + (parts * lanes.to(tl.int64) + lane) * 2 * K + row % K
    maxima = tl.load(at, mask=parts < shares, other=float("-inf"))
    totals = tl.load(at + K, mask=parts < shares, other=0.0)
    maximum = finite_or_zero(tl.max(maxima, axis=0))
    factors = tl.exp(maxima - maximum)
    total = tl.sum(totals * factors, axis=0)
    inverse = tl.where(total == 0.0, 0.0, 1.0 / total)
    at = sums + (parts * lanes.to(tl.int64) * K + row)[:, None] * width + columns[None, :]
    found = tl.load(at, mask=(parts < shares)[:, None] & (columns < width)[None, :], other=0.0)
    found = tl.sum(found * (factors * inverse)[:, None], axis=0)
    rounded = found.to(out.dtype.element_ty)
    tl.store(out + row * width + columns, rounded, mask=columns < width)
    if rest is not None:
        left = (found - rounded.to(tl.float32)).to(rest.dtype.element_ty)
        tl.store(rest + row * width + columns, left, mask=columns < width)
    if tile == 0:
        tl.store(softmax + lane * 2 * K + row % K, maximum)
        tl.store(softmax + lane * 2 * K + K + row % K, inverse)
