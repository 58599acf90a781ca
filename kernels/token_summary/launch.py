"""What the launches of the token summary's programs have in common: a launch, and what programs take of the tensors.

A launch is run by a function that the caller gives, so that what is compiled ahead of time (`cases.programs`) is what
is launched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import triton.language as tl
from torch import Tensor

from longtake.kernels.targets import TargetName
from longtake.kernels.token_summary.settings import Kind, Tile, padded

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
# Of the programs that only add up: rows and columns of a block.
SMALL = Tile(2, 512, 4, 3)

Arguments: TypeAlias = dict[str, "Tensor | int | float | None"]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of one program: `arguments` may differ from call to call, `constants` are compiled in."""

    program: Any
    grid: int
    arguments: Mapping[str, Tensor | int | float | None]
    constants: Mapping[str, Any]
    tile: Tile


Run: TypeAlias = Callable[[Launch], None]


def execute(launch: Launch) -> None:
    """Launch a program on its tensors' device; none for nothing."""
    if not launch.grid:
        return
    options = {"num_warps": launch.tile.warps, "num_stages": launch.tile.stages}
    tensors = [value for value in launch.arguments.values() if isinstance(value, Tensor)]
    with torch.cuda.device_of(tensors[0]):
        launch.program[(launch.grid,)](**launch.arguments, **launch.constants, **options)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The importance's weights, contiguous and of one dtype; shapes as in `op.token_summary`."""

    norm_weight: Tensor
    norm_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor
    eps: float

    @property
    def exact(self) -> bool:
        return self.up.dtype == torch.float32


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The sources [B, N_i, D] with their masks [B, N_i] (contiguous) and the position of all of them, [N, D]."""

    sources: Sequence[Tensor]
    masks: Sequence[Tensor | None]
    position: Tensor | None
    kinds: Sequence[Kind]
    target: TargetName

    @property
    def lanes(self) -> int:
        return self.sources[0].shape[0]

    @property
    def width(self) -> int:
        return self.sources[0].shape[2]

    @property
    def counts(self) -> list[int]:
        return [source.shape[1] for source in self.sources]

    def all_sources(self) -> Arguments:
        """What a program of all sources takes of them; None and 0 for those that are not there."""
        found: Arguments = {"width": self.width, "lanes": self.lanes, **self._position()}
        for number in range(3):
            source = self.sources[number] if number < len(self.sources) else None
            found[f"source{number}"] = source
            found[f"tokens{number}"] = 0 if source is None else source.shape[1]
            found[f"lane_stride{number}"] = 0 if source is None else source.stride(0)
            found[f"row_stride{number}"] = 0 if source is None else source.stride(1)
        return found

    def all_masks(self) -> Arguments:
        return {f"mask{number}": self.masks[number] if number < len(self.masks) else None for number in range(3)}

    def all_kinds(self) -> list[Kind]:
        """Three kinds: sources that are not there take the last one's, which nothing reads."""
        return [*self.kinds, *[self.kinds[-1]] * (3 - len(self.kinds))]

    def one_source(self, number: int) -> Arguments:
        """What a program of one source takes of it."""
        source = self.sources[number]
        return {
            **{"tokens": source, "lane_stride": source.stride(0), "row_stride": source.stride(1)},
            **{"count": source.shape[1], "offset": sum(self.counts[:number]), "all_tokens": sum(self.counts)},
            **{"width": self.width, "lanes": self.lanes, **self._position()},
        }

    def _position(self) -> Arguments:
        return {
            "position": self.position,
            "position_stride": 0 if self.position is None else self.position.stride(0),
        }


@dataclass(frozen=True, kw_only=True)
class Forward:
    """The result [B, k, D] and what the backward needs of a forward.

    rest: what the result's rounding left, if wanted (else empty); softmax [B, 2, k]: each summary's
    largest logit and 1 / sum; statistics [2, B, N]: each token's mean and 1 / standard deviation; parts [PARTS, H, D]
    and folded [2, H]: the first layer's weights with the norm's, and their sums over D.
    """

    result: Tensor
    rest: Tensor
    softmax: Tensor
    statistics: Tensor
    parts: Tensor
    folded: Tensor


def layers_of(parameters: Parameters, made: Forward) -> Arguments:
    """What a program takes of the importance's weights."""
    return {"parts": made.parts, "folded": made.folded, "down": parameters.down, "down_bias": parameters.down_bias}


def sizes_of(parameters: Parameters) -> dict[str, int]:
    summaries, hidden = parameters.down.shape
    return {"K": summaries, "H": hidden, "SUMMARIES": padded(summaries), "HIDDEN": padded(hidden)}


def product_of(kind: Kind, half: torch.dtype) -> tl.dtype:
    """The dtype in which tokens meet the summaries."""
    return tl.float32 if kind == "exact" else DTYPES[half]


def rest_of(made: Forward) -> Tensor | None:
    return made.rest if made.rest.numel() else None
