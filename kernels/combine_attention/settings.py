"""How combine_attention's programs are tiled on each machine, by the sizes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from longtake.kernels.targets import TargetName

# What the programs take: queries, and a head's width.
MOST_QUERIES = 64
WIDEST = 128
# Parts that the keys are divided into at most, and blocks that a part has at least.
MOST_PARTS = 16
FEWEST_BLOCKS = 2


@dataclass(frozen=True)
class Settings:
    """One way to run a program: a tile is up to `block_m` queries by `block_n` keys by a head of up to `block_e`.

    `fill` is how many such programs the machine runs at once.
    """

    block_m: int
    block_e: int
    block_n: int
    warps: int
    stages: int
    fill: int

    def parts(self, batch_heads: int, sizes: tuple[int, ...]) -> tuple[int, int]:
        """Into how many parts to divide the keys of sources of some sizes, and how many blocks a part has."""
        blocks = sum(-(-size // self.block_n) for size in sizes)
        most = min(self.fill // max(1, batch_heads), blocks // FEWEST_BLOCKS, MOST_PARTS)
        part_blocks = -(-blocks // max(1, most))
        return max(1, -(-blocks // max(1, part_blocks))), part_blocks


# Where a tile is large and its rows few, less of the work goes to addresses and masks.
FORWARD: Mapping[TargetName, tuple[Settings, ...]] = {
    "sm_80": (
        Settings(16, 64, 128, 4, 2, 432),
        Settings(32, 64, 128, 4, 2, 324),
        Settings(64, 64, 64, 4, 3, 324),
        Settings(16, 128, 64, 4, 2, 432),
        Settings(32, 128, 64, 4, 2, 324),
        Settings(64, 128, 64, 4, 2, 216),
    ),
    "sm_90": (
        Settings(16, 64, 128, 4, 2, 528),
        Settings(32, 64, 128, 4, 2, 396),
        Settings(64, 64, 128, 4, 2, 396),
        Settings(16, 128, 64, 4, 2, 660),
        Settings(32, 128, 64, 4, 2, 396),
        Settings(64, 128, 64, 4, 2, 264),
    ),
    "sm_100": (
        Settings(16, 64, 128, 4, 2, 592),
        Settings(32, 64, 128, 4, 2, 444),
        Settings(64, 64, 64, 4, 3, 444),
        Settings(16, 128, 64, 4, 2, 740),
        Settings(32, 128, 64, 4, 2, 444),
        Settings(64, 128, 64, 4, 2, 296),
    ),
    "gfx942": (
        Settings(16, 64, 64, 4, 2, 608),
        Settings(32, 64, 64, 4, 2, 608),
        Settings(64, 64, 64, 4, 2, 608),
        Settings(16, 128, 64, 4, 2, 608),
        Settings(32, 128, 64, 4, 2, 608),
        Settings(64, 128, 64, 4, 2, 304),
    ),
}
# Here keys are the rows of all products, and registers are what is short.
BACKWARD: Mapping[TargetName, tuple[Settings, ...]] = {
    "sm_80": (
        Settings(32, 64, 32, 4, 3, 216),
        Settings(64, 64, 32, 4, 3, 216),
        Settings(32, 128, 32, 8, 2, 108),
        Settings(64, 128, 16, 8, 2, 108),
    ),
    "sm_90": (
        Settings(32, 64, 64, 4, 3, 264),
        Settings(64, 64, 64, 4, 3, 264),
        Settings(32, 128, 64, 8, 2, 132),
        Settings(64, 128, 32, 8, 2, 132),
    ),
    "sm_100": (
        Settings(32, 64, 64, 4, 3, 296),
        Settings(64, 64, 64, 4, 3, 296),
        Settings(32, 128, 64, 8, 2, 148),
        Settings(64, 128, 64, 8, 2, 148),
    ),
    "gfx942": (
        Settings(32, 64, 64, 4, 2, 304),
        Settings(64, 64, 64, 4, 2, 304),
        Settings(32, 128, 32, 4, 2, 304),
        Settings(64, 128, 16, 4, 2, 304),
    ),
}
# In float32, on every machine: products run on the plain cores and bound the program, so no row is there for nothing.
FORWARD_FLOAT32 = (
    Settings(16, 64, 64, 4, 2, 528),
    Settings(32, 64, 64, 8, 2, 264),
    Settings(64, 64, 32, 8, 2, 264),
    Settings(16, 128, 32, 8, 2, 264),
    Settings(32, 128, 32, 16, 2, 132),
    Settings(64, 128, 16, 16, 1, 132),
)
BACKWARD_FLOAT32 = (
    Settings(16, 64, 32, 8, 2, 264),
    Settings(32, 64, 32, 8, 2, 132),
    Settings(64, 64, 16, 8, 2, 264),
    Settings(16, 128, 16, 8, 2, 264),
    Settings(32, 128, 16, 8, 2, 132),
    Settings(64, 128, 16, 16, 1, 132),
)


def forward_settings(target: TargetName, dtype: torch.dtype) -> tuple[Settings, ...]:
    """All settings of the forward program in a dtype, smallest tiles first."""
    return FORWARD_FLOAT32 if dtype == torch.float32 else FORWARD[target]


def backward_settings(target: TargetName, dtype: torch.dtype) -> tuple[Settings, ...]:
    """All settings of the backward program in a dtype, smallest tiles first."""
    return BACKWARD_FLOAT32 if dtype == torch.float32 else BACKWARD[target]


def choose(settings: tuple[Settings, ...], queries: int, width: int) -> Settings:
    """The first settings that queries and a head's width fit in."""
    return next(each for each in settings if each.block_m >= queries and each.block_e >= width)


def obstacle(queries: int, width: int) -> str | None:
    """Why no settings fit, None where some do."""
    if queries > MOST_QUERIES:
        return f"there are {queries} queries, and it takes at most {MOST_QUERIES}"
    if width > WIDEST:
        return f"a head's width is {width}, and it takes at most {WIDEST}"
    return None
