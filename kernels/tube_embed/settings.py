"""How the tube embedding's programs are tiled on each machine, by the sizes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from longtake.kernels.targets import TargetName
from longtake.kernels.tube_embed.reference import TubeShape


@dataclass(frozen=True)
class Settings:
    """One way to run a program: tiles of tokens (`rows`), channels (`columns`) and a tube's numbers (`depth`).

    `stages` is for pictures read directly. Through a frame index the places of pixels must be loaded first, and Triton
    divides the stages between the two loads: `indexed_stages` keeps about as many tiles of pixels in flight.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    indexed_stages: int

    def span(self, tube: TubeShape) -> int:
        """How many of a tube's pictures one block of its numbers reaches into, at most."""
        picture = tube.depth // tube.kernel[0]
        starts = range(0, tube.depth, self.depth)
        return max((min(start + self.depth, tube.depth) - 1) // picture - start // picture + 1 for start in starts)


@dataclass(frozen=True)
class Tiles:
    """The settings of a machine in one dtype.

    `direct` for many tokens, `indexed` where their pictures are found by an index, `small` for few tokens, `gradient`
    for the weights' gradient. `fill` is how many of the large programs the machine runs at once.
    """

    direct: Settings
    indexed: Settings
    small: Settings
    gradient: Settings
    fill: int


# Two large programs share an SM: up to 128 registers a thread. With an index that takes shallower tiles.
HOPPER = Tiles(
    direct=Settings(128, 128, 64, 8, 4, 7),
    indexed=Settings(128, 128, 32, 8, 5, 9),
    small=Settings(64, 64, 64, 4, 4, 7),
    gradient=Settings(64, 128, 128, 8, 4, 7),
    fill=264,
)
AMPERE_SIZED = Settings(128, 128, 32, 8, 4, 7)
HALF: Mapping[TargetName, Tiles] = {
    "sm_80": Tiles(
        direct=AMPERE_SIZED,
        indexed=AMPERE_SIZED,
        small=Settings(64, 64, 64, 4, 4, 7),
        gradient=Settings(32, 128, 128, 8, 3, 5),
        fill=216,
    ),
    "sm_90": HOPPER,
    "sm_100": HOPPER,
    "gfx942": Tiles(
        direct=Settings(128, 128, 32, 8, 2, 2),
        indexed=Settings(128, 128, 32, 8, 2, 2),
        small=Settings(64, 64, 64, 4, 2, 2),
        gradient=Settings(32, 128, 128, 8, 2, 2),
        fill=304,
    ),
}
# In float32 the products run on the plain cores and bound the program on every machine.
FLOAT32_SIZED = Settings(64, 64, 32, 8, 3, 5)
FLOAT32 = Tiles(
    direct=FLOAT32_SIZED,
    indexed=FLOAT32_SIZED,
    small=FLOAT32_SIZED,
    gradient=Settings(16, 64, 64, 8, 2, 3),
    fill=528,
)


def tiles(target: TargetName, dtype: torch.dtype) -> Tiles:
    """All settings of a machine in a dtype."""
    return FLOAT32 if dtype == torch.float32 else HALF[target]


def large_settings(target: TargetName, dtype: torch.dtype, tube: TubeShape, *, indexed: bool) -> Settings:
    """How to make tokens where there are many."""
    choice = tiles(target, dtype)
    # In a tube of one picture the index is the same for all of a token's numbers.
    return choice.indexed if indexed and tube.kernel[0] > 1 else choice.direct


def forward_settings(
    target: TargetName, dtype: torch.dtype, tube: TubeShape, rows: int, width: int, *, indexed: bool
) -> Settings:
    """How to make `rows` tokens of `width` channels."""
    large = large_settings(target, dtype, tube, indexed=indexed)
    choice = tiles(target, dtype)
    programs = -(-rows // large.rows) * -(-width // large.columns)
    return large if programs >= choice.fill // 2 else choice.small


def gradient_settings(
    target: TargetName, dtype: torch.dtype, tube: TubeShape, rows: int, width: int
) -> tuple[Settings, int]:
    """How to make a weight's gradient, and how many tokens (whole tiles of them) a program sums."""
    choice = tiles(target, dtype)
    settings = choice.gradient
    programs = -(-width // settings.columns) * -(-tube.depth // settings.depth)
    blocks = max(1, -(-rows // settings.rows))
    # A few tiles at least: every chunk costs a write and a read of the whole gradient in float32.
    chunks = max(1, min(choice.fill // programs, blocks // 4))
    return settings, -(-blocks // chunks) * settings.rows


def vector(tube: TubeShape, columns: int) -> int:
    """How many bytes can be read at once: what divides every run of a tube and where each starts, up to 16."""
    return math.gcd(tube.kernel[2] * 3, tube.stride[2] * 3, tube.offset[2] * 3, columns * 3, 16)
