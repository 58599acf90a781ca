"""The token summary's forward in one pass, in Triton: for one source of a small width.

`whole_program`: one program a lane and share of the tokens. Its first-layer weights stay in shared memory and its sums
[k, D] in registers; block by block come the tokens, as one tile over the whole width, which serves the statistics, the
first layer's product and the mix. The sums are rescaled as the softmax maximum grows. Tokens are read once. They are in
the weights' half precision and have no position.
"""

from __future__ import annotations

import triton
import triton.language as tl

from longtake.kernels.token_summary.forward import ANY_INTEGER, finite_or_zero, store_share
from longtake.kernels.token_summary.tiles import (
    first_layer,
    gelu_gate,
    load_matrix,
    load_tile,
    rows_of_block,
    second_layer,
)


@triton.jit(do_not_specialize=ANY_INTEGER)
def whole_program(
    source, mask, statistics, softmax, out, rest, count, lane_stride, row_stride, parts, folded, down, down_bias,
    lanes, shares, eps,
    K: tl.constexpr, H: tl.constexpr, SUMMARIES: tl.constexpr, HIDDEN: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """out [shares, lanes, K, width] and softmax [shares, lanes, 2, K] (see `store_share`).

    One program a lane and share: blocks are dealt out to the shares in turn.
    """
    part = tl.program_id(0) % shares
    lane = (tl.program_id(0) // shares).to(tl.int64)
    source += lane * lane_stride
    statistics += lane * count
    plane = lanes.to(tl.int64) * count
    if mask is not None:
        mask += lane * count
    hidden = tl.arange(0, HIDDEN)
    columns = tl.arange(0, WIDTH)
    high = load_matrix(parts, hidden[None, :], columns[:, None], WIDTH, H, WIDTH, H == HIDDEN, True)
    low = load_matrix(parts + H * WIDTH, hidden[None, :], columns[:, None], WIDTH, H, WIDTH, H == HIDDEN, True)
    sums = tl.zeros([SUMMARIES, WIDTH], tl.float32)
    maximum = tl.full([SUMMARIES], float("-inf"), tl.float32)
    total = tl.zeros([SUMMARIES], tl.float32)
    # What the compiler would take out of the loop is more than the registers hold.
    for row in tl.range(part * ROWS, count, shares * ROWS, disable_licm=True):
        here = rows_of_block(row, count, ROWS)
        tile = load_tile(source, None, here, columns, row_stride, 0, WIDTH, True)
        mean = tl.sum(tile.to(tl.float32), axis=1) / WIDTH
        centred = tile.to(tl.float32) - mean[:, None]
        deviation = tl.rsqrt(tl.sum(centred * centred, axis=1) / WIDTH + eps)
        rows = row + tl.arange(0, ROWS)
        inside = rows < count
        tl.store(statistics + rows, mean, mask=inside)
        tl.store(statistics + plane + rows, deviation, mask=inside)

        product = tl.dot(tile, high, input_precision="ieee")
        product = tl.dot(tile, low, product, input_precision="ieee")
        layer = first_layer(product, mean, deviation, folded, H, HIDDEN, True)
        activated = (layer * gelu_gate(layer)).to(down.dtype.element_ty)
        logits = second_layer(activated, down, down_bias, K, H, SUMMARIES, HIDDEN)
        if mask is not None:
            inside = inside & (tl.load(mask + here) != 0)
        logits = tl.where(inside[:, None], logits, float("-inf"))

        larger = tl.maximum(maximum, tl.max(logits, axis=0))
        base = finite_or_zero(larger)
        rescale = tl.exp(maximum - base)
        # The total is that of the weights as rounded for the product, so that the mix stays convex.
        weights = tl.exp(logits - base[None, :]).to(tile.dtype)
        total = total * rescale + tl.sum(weights.to(tl.float32), axis=0)
        maximum = larger
        sums = tl.dot(tl.trans(weights), tile, sums * rescale[:, None], input_precision="ieee")
    number = part * lanes + lane
    store_share(sums, maximum, total, softmax, out, rest, number, columns, WIDTH, True, K, SUMMARIES, SPLIT)
