"""Which of the token summary's programs run, over which blocks and shares: a pure function of sizes and target.

Nothing here looks at data, so one size always takes the same way and gives the same bits. The tables were chosen by
compiling: no registers spill on sm_90, and shared memory fits on each target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch

from longtake.kernels.targets import TargetName

# What becomes of a source's tokens on the way into products with the weights and with the summaries:
# "direct": taken as they are, in the weights' half precision; "rounded": brought to it in the program (a sum with a
# position, or under autocast); "exact": float32 where they meet the summaries.
Kind = Literal["direct", "rounded", "exact"]

MOST_SUMMARIES = 128
# With float32 weights: products without tensor cores need more registers.
MOST_EXACT_SUMMARIES = 64
MOST_HIDDEN = 64
# From this width on one half-precision part of the folded weights is exact enough (see `tiles`).
ONE_PART_WIDTH = 512
# Sums of more shares than these are not worth their memory.
MOST_SHARES = 16
# Multiprocessors: a grid below this number leaves some idle.
PROCESSORS: Mapping[TargetName, int] = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "gfx942": 304}
# Rows of a float32 product, whose operands one thread holds whole, and the fewest that tl.dot takes.
EXACT_ROWS = 16


class Tile(NamedTuple):
    """A program's block of tokens and of the width, its warps and how many loads of a loop are under way."""

    rows: int
    columns: int
    warps: int
    stages: int


# By the padded number of summaries where that matters.
LOGITS: Mapping[TargetName, Tile] = {
    "sm_80": Tile(128, 64, 8, 3),
    "sm_90": Tile(128, 64, 8, 4),
    "sm_100": Tile(128, 64, 8, 4),
    "gfx942": Tile(64, 64, 4, 2),
}
EXACT_LOGITS = Tile(64, 16, 8, 3)
MIX: Mapping[TargetName, Mapping[int, Tile]] = {
    "sm_80": {16: Tile(32, 256, 4, 4), 32: Tile(32, 256, 4, 4), 64: Tile(32, 256, 8, 4), 128: Tile(32, 128, 8, 4)},
    "sm_90": {16: Tile(32, 256, 4, 4), 32: Tile(32, 256, 4, 4), 64: Tile(32, 256, 8, 4), 128: Tile(32, 128, 8, 4)},
    "sm_100": {16: Tile(32, 256, 4, 4), 32: Tile(32, 256, 4, 4), 64: Tile(32, 256, 8, 4), 128: Tile(32, 128, 8, 4)},
    "gfx942": {16: Tile(32, 256, 4, 2), 32: Tile(32, 256, 4, 2), 64: Tile(32, 256, 8, 2), 128: Tile(32, 128, 8, 2)},
}
# One pass, by `one_pass_summaries`; targets without an entry take two.
WHOLE: Mapping[TargetName, Mapping[int, Tile]] = {
    "sm_90": {16: Tile(64, 256, 4, 2), 64: Tile(128, 256, 8, 2)},
}
TOKENS: Mapping[TargetName, Mapping[int, Tile]] = {
    "sm_80": {16: Tile(128, 64, 8, 2), 32: Tile(128, 64, 8, 2), 64: Tile(128, 64, 8, 2), 128: Tile(32, 64, 8, 2)},
    "sm_90": {16: Tile(128, 64, 8, 3), 32: Tile(128, 64, 8, 3), 64: Tile(128, 64, 8, 3), 128: Tile(64, 64, 8, 3)},
    "sm_100": {16: Tile(128, 64, 8, 3), 32: Tile(128, 64, 8, 3), 64: Tile(128, 64, 8, 3), 128: Tile(64, 32, 8, 3)},
    "gfx942": {16: Tile(64, 32, 4, 2), 32: Tile(64, 32, 4, 2), 64: Tile(64, 32, 4, 2), 128: Tile(32, 32, 4, 2)},
}
WEIGHTS: Mapping[TargetName, Tile] = {
    "sm_80": Tile(32, 128, 8, 3),
    "sm_90": Tile(64, 256, 8, 3),
    "sm_100": Tile(64, 256, 8, 3),
    "gfx942": Tile(64, 128, 4, 2),
}
EXACT_WEIGHTS = Tile(16, 64, 8, 3)


def padded(size: int) -> int:
    """The next power of two, at least 16: what tl.dot takes."""
    return max(16, 1 << (size - 1).bit_length())


def parts_of(width: int, exact_weights: bool) -> int:
    """How many parts the folded weights come in."""
    return 1 if exact_weights or width >= ONE_PART_WIDTH else 2


def rest_dtype(weights: torch.dtype, out_dtype: torch.dtype) -> torch.dtype | None:
    """In which dtype a backward wants what the result's rounding left, as it multiplies the result; None if not."""
    return None if out_dtype == torch.float32 else torch.float32 if weights == torch.float32 else out_dtype


def one_pass(target: TargetName, width: int, summaries: int, kinds: Sequence[Kind]) -> Tile | None:
    """The block of the program that does all in one pass, None where two passes are taken."""
    if target not in WHOLE or list(kinds) != ["direct"] or summaries > 64:
        return None
    # One tile holds the width, so this is a power of two.
    if width > WHOLE[target][64].columns or width != padded(width):
        return None
    return WHOLE[target][one_pass_summaries(summaries)]._replace(columns=width)


def one_pass_summaries(summaries: int) -> int:
    """What the one pass pads summaries to."""
    return 16 if summaries <= 16 else 64


def logits_tile(target: TargetName, exact_weights: bool) -> Tile:
    """The first pass's block; `logits_columns` are each source's own."""
    return EXACT_LOGITS if exact_weights else LOGITS[target]


def logits_columns(tile: Tile, kind: Kind) -> int:
    """Tokens that are swept twice, and may be float32, get half the width."""
    return tile.columns if kind == "direct" else max(16, tile.columns // 2)


def mix_tile(target: TargetName, summaries: int, kinds: Sequence[Kind]) -> Tile:
    """The second pass's block; an exact source's has `EXACT_ROWS`."""
    tile = MIX[target][padded(summaries)]
    return tile if set(kinds) == {"direct"} else tile._replace(warps=8)


def tokens_tile(target: TargetName, summaries: int, exact_weights: bool, kind: Kind) -> Tile:
    """The block of the backward's `tokens_program` for one source."""
    tile = TOKENS[target][padded(summaries)]
    if kind == "direct":
        return tile
    if kind == "rounded":
        return tile._replace(columns=32)
    rows = EXACT_ROWS if exact_weights or padded(summaries) == MOST_SUMMARIES else 2 * EXACT_ROWS
    return Tile(rows, 16, 8, tile.stages)


def weights_tile(target: TargetName, exact_weights: bool, kind: Kind) -> Tile:
    """The block of the backward's `weights_program` for one source."""
    if exact_weights:
        return EXACT_WEIGHTS
    tile = WEIGHTS[target]
    return tile if kind == "direct" else tile._replace(columns=128)


def blocks_of(tokens: Sequence[int], rows: int) -> int:
    """Blocks of all sources: none crosses from one to the next."""
    return sum(-(-count // rows) for count in tokens)


def shares_of(target: TargetName, programs: int, blocks: int) -> int:
    """Among how many to divide the blocks of a lane, so that there are up to two programs a processor.

    Not more than that: each share's sums cost memory.
    """
    return max(1, min(2 * PROCESSORS[target] // programs, blocks, MOST_SHARES))


def groups_of(target: TargetName, tiles: int, lanes: int, blocks: int) -> tuple[int, int]:
    """Lanes a program of `weights_program`, and the shares of each: up to two programs a processor."""
    group = -(-tiles * lanes // (2 * PROCESSORS[target]))
    return group, shares_of(target, tiles * -(-lanes // group), blocks)
