"""What the token summary's programs share: loads, the statistics of tokens, and the importance's first layer.

The first layer of a normalised token is `deviation (product - mean weighted_H) + constant_H`, where `product` is that
of the token with the layer's weights times the norm's, and the two vectors are sums over the width that need no token
(see `fold_program`). A half-precision token goes into the product as it is: nothing is rounded, and as the token's own
spacing is at least 2^13 times that of the float32 sums, taking the mean out afterwards loses nothing. Any other token
(float32, or a sum with a position) is centred and scaled first, in float32; mean and weighted_H drop out there.

The folded weights come in PARTS: one, or in half precision also a second, what the rounding of the first left. That
rounding is one error for all tokens, which the mix does not average out: it is small beside the rounding of single
tokens where the width is large, so that small widths take the second part.

Names: lane is one row of the batch. `DIRECT` says that tokens go into products as they are. Sizes: K summaries, H
hidden; SUMMARIES and HIDDEN are the next powers of two, at least 16. Rows beyond a source's end repeat its last one, so
that loads need no mask; EVEN says that the width is whole tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rows_of_block(row, count, ROWS: tl.constexpr):
    """The rows of a block, those beyond the source's end replaced by its last one, for addresses."""
    return tl.minimum(row + tl.arange(0, ROWS), count - 1).to(tl.int64)


@triton.jit
def load_tile(tokens, position, rows, columns, row_stride, position_stride, width, EVEN: tl.constexpr):
    """A tile of tokens, zero beyond the width: in their own dtype, or with their position in float32."""
    at = tokens + (rows * row_stride)[:, None] + columns[None, :]
    inside = (columns < width)[None, :]
    if EVEN:
        tile = tl.load(at)
    else:
        tile = tl.load(at, mask=inside, other=0.0)
    if position is not None:
        at = position + (rows * position_stride)[:, None] + columns[None, :]
        if EVEN:
            tile = tile.to(tl.float32) + tl.load(at).to(tl.float32)
        else:
            tile = tile.to(tl.float32) + tl.load(at, mask=inside, other=0.0).to(tl.float32)
    return tile


@triton.jit
def load_matrix(matrix, rows, columns, row_stride, height, width, ALL_ROWS: tl.constexpr, EVEN: tl.constexpr):
    """A tile of a row-major matrix, zero outside of it; `rows` and `columns` are broadcast, in whichever order."""
    at = matrix + rows * row_stride + columns
    if ALL_ROWS and EVEN:
        tile = tl.load(at)
    else:
        tile = tl.load(at, mask=(rows < height) & (columns < width), other=0.0)
    return tile


@triton.jit
def tile_product(
    product, tile, parts, columns, width,
    H: tl.constexpr, HIDDEN: tl.constexpr, PARTS: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Add a tile's product with its columns of the folded weights [PARTS, H, width]."""
    hidden = tl.arange(0, HIDDEN)
    for part in tl.static_range(PARTS):
        # Transposed.
        weights = load_matrix(
            parts + part * H * width, hidden[None, :], columns[:, None], width, H, width, H == HIDDEN, EVEN
        )  # fmt: skip
        product = tl.dot(tile, weights, product, input_precision="ieee")
    return product


@triton.jit
def per_eight(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums of eight neighbours, which one thread holds: the rest of a row's sum can wait until after the loop."""
    return tl.sum(tl.reshape(tile, [ROWS, COLUMNS // 8, 8]), axis=2)


@triton.jit
def measured_product(
    tokens, position, rows, row_stride, position_stride, parts, width, eps,
    H: tl.constexpr, HIDDEN: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    EVEN: tl.constexpr, DIRECT: tl.constexpr,
):  # fmt: skip
    """A block's product with the folded weights [ROWS, HIDDEN], and each token's mean and 1 / standard deviation.

    Sums are relative to a *pilot*, the mean of a row's first tile: the variance is then never a small difference of
    large numbers, and direct tokens are read only once.
    """
    columns = tl.arange(0, COLUMNS)
    first = load_tile(tokens, position, rows, columns, row_stride, position_stride, width, EVEN).to(tl.float32)
    pilot = tl.sum(first, axis=1) / tl.minimum(width, COLUMNS)
    totals = tl.zeros([ROWS, COLUMNS // 8], tl.float32)
    squares = tl.zeros([ROWS, COLUMNS // 8], tl.float32)
    product = tl.zeros([ROWS, HIDDEN], tl.float32)
    for start in range(0, width, COLUMNS):
        here = start + columns
        tile = load_tile(tokens, position, rows, here, row_stride, position_stride, width, EVEN)
        centred = tile.to(tl.float32) - pilot[:, None]
        if not EVEN:
            centred = tl.where((here < width)[None, :], centred, 0.0)
        totals += per_eight(centred, ROWS, COLUMNS)
        squares += per_eight(centred * centred, ROWS, COLUMNS)
        if DIRECT:
            product = tile_product(product, tile, parts, here, width, H, HIDDEN, PARTS, EVEN)
    shift = tl.sum(totals, axis=1) / width
    variance = tl.maximum(tl.sum(squares, axis=1) / width - shift * shift, 0.0)
    mean = pilot + shift
    deviation = tl.rsqrt(variance + eps)
    if not DIRECT:
        product = centred_product(
            tokens, position, rows, row_stride, position_stride, parts, mean, deviation, width,
            H, HIDDEN, PARTS, ROWS, COLUMNS, EVEN,
        )  # fmt: skip
    return product, mean, deviation


@triton.jit
def centred_product(
    tokens, position, rows, row_stride, position_stride, parts, mean, deviation, width,
    H: tl.constexpr, HIDDEN: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """The product of centred and scaled tokens with the folded weights, where these are not taken as they are."""
    product = tl.zeros([ROWS, HIDDEN], tl.float32)
    for start in range(0, width, COLUMNS):
        # Beyond the width the weights are zero.
        here = start + tl.arange(0, COLUMNS)
        tile = load_tile(tokens, position, rows, here, row_stride, position_stride, width, EVEN).to(tl.float32)
        normed = ((tile - mean[:, None]) * deviation[:, None]).to(parts.dtype.element_ty)
        product = tile_product(product, normed, parts, here, width, H, HIDDEN, PARTS, EVEN)
    return product


@triton.jit
def first_layer(
    product, mean, deviation, folded,
    H: tl.constexpr, HIDDEN: tl.constexpr, DIRECT: tl.constexpr,
):  # fmt: skip
    """The first layer's results from a product; folded [2, H] is weighted_H and constant_H, zero beyond H."""
    hidden = tl.arange(0, HIDDEN)
    if DIRECT:
        weighted_H = tl.load(folded + hidden, mask=hidden < H, other=0.0)
        product = (product - mean[:, None] * weighted_H[None, :]) * deviation[:, None]
    return product + tl.load(folded + H + hidden, mask=hidden < H, other=0.0)[None, :]


@triton.jit
def gelu_gate(x):
    """The tanh GELU is x times this: 0.5 (1 + tanh u) = sigmoid(2 u)."""
    return tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def second_layer(
    activated, down, down_bias, K: tl.constexpr, H: tl.constexpr, SUMMARIES: tl.constexpr, HIDDEN: tl.constexpr
):
    """Logits [ROWS, SUMMARIES], zero beyond K; `activated` in the weights' dtype."""
    hidden = tl.arange(0, HIDDEN)
    summaries = tl.arange(0, SUMMARIES)
    # Transposed.
    down_tile = load_matrix(down, summaries[None, :], hidden[:, None], H, K, H, K == SUMMARIES, H == HIDDEN)
    logits = tl.dot(activated, down_tile, input_precision="ieee")
    return logits + tl.load(down_bias + summaries, mask=summaries < K, other=0.0).to(tl.float32)[None, :]
