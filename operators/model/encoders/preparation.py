"""How a public encoder wants its pictures: size, crop, scale and normalisation, on the pictures' own device.

The numbers are those of the checkpoint's preprocessor file; the order of operations is that of the stock processors
(transformers, the torchvision ones), so that the result is theirs on the same device.

Shapes: B pictures, C channels, H rows, W columns of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from longtake.errors import CheckpointError
from longtake.operators.hub.picture_preparation import Preparation
from longtake.operators.hub.preprocessor import read_preprocessor

# Values of Pillow's resampling, by which preprocessor files name it.
MODES = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, kw_only=True)
class PicturePreparation:
    """`size` is (rows, columns), or one number for the shorter side, or None to leave the size.

    `budget` and `patch` serve encoders of any aspect: at most so many patches of that side; `size` is not used then.
    `scale_first`: the numbers are scaled before the picture is resized, which is then not rounded to whole numbers.
    """

    numbers: Preparation
    mode: str
    size: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    budget: int | None = None
    patch: int = 1
    scale_first: bool = False

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The size to which a picture is resized, before it is cropped."""
        if self.budget is not None:
            return size_of_budget(height, width, self.patch, self.budget)
        if self.size is None:
            return height, width
        if isinstance(self.size, tuple):
            return self.size
        longer = int(self.size * max(height, width) / min(height, width))
        return (longer, self.size) if width <= height else (self.size, longer)

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """The size of what `__call__` returns."""
        return self.crop or self.target(height, width)

    def __call__(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to float32 [B, 3, rows, columns]."""
        pictures_BCHW = frames_BHWC.movedim(-1, 1).contiguous()
        if self.scale_first:
            pictures_BCHW = pictures_BCHW * self.numbers.scale
        pictures_BCHW = scaled(pictures_BCHW, self.target(*pictures_BCHW.shape[-2:]), self.mode)
        if self.crop is not None:
            pictures_BCHW = cropped(pictures_BCHW, self.crop)
        if not self.scale_first:
            return self.numbers.normalise(pictures_BCHW.movedim(1, -1))
        mean, std = (torch.tensor(row, device=frames_BHWC.device) for row in (self.numbers.mean, self.numbers.std))
        return (pictures_BCHW - mean[:, None, None]) / std[:, None, None]


def read_preparation(
    folder: Path,
    *,
    types: Collection[str],
    defaults: dict[str, Any],
    square: bool = False,
    scale_first: bool = False,
    patch: int = 1,
) -> PicturePreparation:
    """From a directory's preprocessor file.

    Args:
        types: the processors that this preparation is equal to; the file may name one of them or none.
        defaults: what these processors take where the file is silent.
        square: a single number as `size` means both sides, not the shorter one.
        patch: side of a patch where the file may contradict the config.
    Raises:
        CheckpointError: no file, another processor, or values that are not supported.
    """
    given = read_preprocessor(folder)
    named = str(given.get("video_processor_type") or given.get("image_processor_type") or "")
    named = named or str(given.get("feature_extractor_type") or "")
    # The same processor under its older names.
    if named and named.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor") not in types:
        raise CheckpointError(f"{folder}: pictures are prepared by {named}; supported is {' or '.join(types)}")
    given = defaults | given
    mode = MODES.get(given["resample"])
    if mode is None:
        raise CheckpointError(f"{folder}: resample {given['resample']} is not supported; 2 and 3 are")
    resized = given.get("do_resize", True)
    budget = given.get("max_num_patches") if resized else None
    crop = given.get("crop_size") if given.get("do_center_crop") else None
    return PicturePreparation(
        numbers=Preparation.read(folder, patch=patch),
        mode=mode,
        size=_size(folder, given["size"], square=square) if resized and not budget else None,
        crop=_both(folder, crop) if crop else None,
        budget=int(budget) if budget else None,
        patch=patch,
        scale_first=scale_first,
    )


def _size(folder: Path, given: Any, *, square: bool) -> tuple[int, int] | int:
    if isinstance(given, int):
        return (given, given) if square else given
    if isinstance(given, dict) and {name for name, value in given.items() if value} == {"shortest_edge"}:
        return int(given["shortest_edge"])
    return _both(folder, given)


def _both(folder: Path, given: Any) -> tuple[int, int]:
    if isinstance(given, int):
        return given, given
    if isinstance(given, dict) and {"height", "width"} <= set(given):
        return int(given["height"]), int(given["width"])
    raise CheckpointError(f"{folder}: the preprocessor's size {given} is not supported; height and width are")


def scaled(pictures_BCHW: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize with antialiasing, uint8 or float, as torchvision does it on the pictures' device."""
    if pictures_BCHW.shape[-2:] == size:
        return pictures_BCHW
    whole = pictures_BCHW.dtype == torch.uint8
    # The CPU resizes uint8 itself, in whole numbers; what cannot takes the way through floats.
    fast = mode == "bicubic" or torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    native = whole and pictures_BCHW.device.type == "cpu" and fast
    given = pictures_BCHW.float() if whole and not native else pictures_BCHW
    made = interpolate(given, size=size, mode=mode, antialias=True, align_corners=False)
    return made.round().clamp(0, 255).to(torch.uint8) if whole and not native else made


def cropped(pictures_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of each picture; what is smaller is surrounded by zeros."""
    short = [max(0, want - have) for want, have in zip(size, pictures_BCHW.shape[-2:], strict=True)]
    if any(short):
        down, right = short
        pictures_BCHW = pad(pictures_BCHW, (right // 2, (right + 1) // 2, down // 2, (down + 1) // 2))
    top, left = ((have - want) // 2 for want, have in zip(size, pictures_BCHW.shape[-2:], strict=True))
    return pictures_BCHW[..., top : top + size[0], left : left + size[1]]


@lru_cache(maxsize=256)
def size_of_budget(height: int, width: int, patch: int, budget: int) -> tuple[int, int]:
    """The largest size of about this aspect in at most `budget` patches, found by bisection as SigLIP 2 does."""

    def sides(scale: float) -> tuple[int, int]:
        rows, columns = (max(patch, math.ceil(side * scale / patch) * patch) for side in (height, width))
        return rows, columns

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        rows, columns = sides(middle)
        if (rows / patch) * (columns / patch) <= budget:
            low = middle
        else:
            high = middle
    return sides(low)
