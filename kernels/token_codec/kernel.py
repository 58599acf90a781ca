"""The Triton programs of the token codec: each reads every byte once and writes every byte once.

A program takes `ROWS` groups of channels. Widths are seldom powers of two and tiles always are, so a group is two
tiles: the largest power of two that fits (MAIN) and what remains (TAIL, 0 where nothing does); 576 is 512 + 64. Both
stay in registers from the search for the largest value to the codes.

Values are compared by their bits without the sign, as integers: their order is that of absolute values, with infinity
and NaN above all numbers, so that one maximum finds both the scale and what is broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import triton
import triton.language as tl

from longtake.kernels.targets import TargetName

# Of a whole number added to this one, half of the mantissa is the number in two's complement, rounded half to even.
ROUNDER = tl.constexpr(12582912.0)
INFINITY_BITS = tl.constexpr(0x7F800000)


@dataclass(frozen=True)
class Settings:
    """How groups of one size are tiled."""

    main: int
    tail: int
    rows: int
    warps: int


# Values that a program holds: with 4 warps 32 a thread, enough 16-byte loads at once to keep memory busy.
HELD: Mapping[TargetName, int] = {"sm_80": 4096, "sm_90": 4096, "sm_100": 4096, "gfx942": 8192}


def settings(target: TargetName, group: int) -> Settings:
    """How to run groups of some size."""
    main = 2 ** (group.bit_length() - 1)
    tail = 2 ** (group - main - 1).bit_length() if group > main else 0
    return Settings(main, tail, rows=min(128, max(1, HELD[target] // main)), warps=4 if main <= HELD[target] else 8)


@triton.jit
def spots(start, real, GROUP: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """Offsets and mask of the channels from FIRST on, [rows, COUNT]."""
    column = FIRST + tl.arange(0, COUNT)
    mask = real[:, None]
    if FIRST + COUNT > GROUP:
        mask = mask & (column < GROUP)[None, :]
    return start[:, None] + column[None, :], mask


@triton.jit
def magnitude(values):
    """Each row's largest value without its sign, as bits."""
    return tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)


@triton.jit
def quantise(values, inverse, finite):
    """Values times the inverse scale, to the nearest code."""
    # Between the product and the sum lie two comparisons, so that no compiler fuses them into one rounding.
    scaled = tl.minimum(tl.maximum(values * inverse[:, None], -127.0), 127.0)
    codes = (scaled + ROUNDER).to(tl.int32, bitcast=True).to(tl.int8)
    return tl.where(finite[:, None], codes, 0)


@triton.jit
def encode_kernel(
    tokens,
    codes,
    scales,
    groups,
    token_stride,
    PER_TOKEN: tl.constexpr,
    GROUP: tl.constexpr,
    MAIN: tl.constexpr,
    TAIL: tl.constexpr,
    ROWS: tl.constexpr,
    LARGEST_SCALE: tl.constexpr,
    SMALLEST_SCALE: tl.constexpr,
):
    group = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = group < groups
    start = group // PER_TOKEN * token_stride + group % PER_TOKEN * GROUP
    offset, mask = spots(start, real, GROUP, 0, MAIN)
    main = tl.load(tokens + offset, mask=mask, other=0.0).to(tl.float32)
    bits = magnitude(main)
    if TAIL > 0:
        offset, mask = spots(start, real, GROUP, MAIN, TAIL)
        tail = tl.load(tokens + offset, mask=mask, other=0.0).to(tl.float32)
        bits = tl.maximum(bits, magnitude(tail))
    finite = bits < INFINITY_BITS
    exact = tl.where(finite, bits, 0).to(tl.float32, bitcast=True) * (1.0 / 127.0)
    stored = tl.minimum(exact, LARGEST_SCALE).to(scales.dtype.element_ty)
    scale = stored.to(tl.float32)
    scale = tl.where(scale < SMALLEST_SCALE, 0.0, scale)
    used = scale > 0.0
    inverse = tl.where(used, tl.div_rn(1.0, tl.where(used, scale, 1.0)), 0.0)
    scale = tl.where(finite, scale, float("nan"))
    tl.store(scales + group, scale.to(scales.dtype.element_ty), mask=real)
    offset, mask = spots(group * GROUP, real, GROUP, 0, MAIN)
    tl.store(codes + offset, quantise(main, inverse, finite), mask=mask)
    if TAIL > 0:
        offset, mask = spots(group * GROUP, real, GROUP, MAIN, TAIL)
        tl.store(codes + offset, quantise(tail, inverse, finite), mask=mask)


@triton.jit
def decode_part(
    codes, tokens, scale, start, place, real, GROUP: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr
):
    offset, mask = spots(start, real, GROUP, FIRST, COUNT)
    values = tl.load(codes + offset, mask=mask, other=0).to(tl.float32) * scale[:, None]
    offset, mask = spots(place, real, GROUP, FIRST, COUNT)
    tl.store(tokens + offset, values.to(tokens.dtype.element_ty), mask=mask)


@triton.jit
def decode_kernel(
    codes,
    scales,
    tokens,
    groups,
    code_stride,
    scale_stride,
    PER_TOKEN: tl.constexpr,
    GROUP: tl.constexpr,
    MAIN: tl.constexpr,
    TAIL: tl.constexpr,
    ROWS: tl.constexpr,
):
    group = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = group < groups
    token = group // PER_TOKEN
    inside = group % PER_TOKEN
    scale = tl.load(scales + (token * scale_stride + inside), mask=real, other=0.0).to(tl.float32)
    start = token * code_stride + inside * GROUP
    decode_part(codes, tokens, scale, start, group * GROUP, real, GROUP, 0, MAIN)
    if TAIL > 0:
        decode_part(codes, tokens, scale, start, group * GROUP, real, GROUP, MAIN, TAIL)


@triton.jit
def gradient_part(gradient, codes, place, start, real, GROUP: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr):
    offset, mask = spots(place, real, GROUP, FIRST, COUNT)
    values = tl.load(gradient + offset, mask=mask, other=0.0).to(tl.float32)
    offset, mask = spots(start, real, GROUP, FIRST, COUNT)
    return tl.sum(values * tl.load(codes + offset, mask=mask, other=0).to(tl.float32), axis=1)


@triton.jit
def scale_gradient_kernel(
    gradient,
    codes,
    scale_gradient,
    groups,
    code_stride,
    PER_TOKEN: tl.constexpr,
    GROUP: tl.constexpr,
    MAIN: tl.constexpr,
    TAIL: tl.constexpr,
    ROWS: tl.constexpr,
):
    group = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = group < groups
    start = group // PER_TOKEN * code_stride + group % PER_TOKEN * GROUP
    sums = gradient_part(gradient, codes, group * GROUP, start, real, GROUP, 0, MAIN)
    if TAIL > 0:
        sums += gradient_part(gradient, codes, group * GROUP, start, real, GROUP, MAIN, TAIL)
    tl.store(scale_gradient + group, sums.to(scale_gradient.dtype.element_ty), mask=real)
