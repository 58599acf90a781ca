"""Pictures for a public model's tower, prepared on the model's own device: size, scale, normalisation, patches.

The numbers come from the model directory's preprocessor files. One frame size serves a whole video: the stock
processors choose it from the clip's length, so that a snippet would be prepared otherwise than the whole.

Shapes: L clips, F pictures, H rows, W columns of pixels, P patches, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from longtake.errors import CheckpointError
from longtake.operators.hub.preprocessor import read_preprocessor


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How uint8 pictures become a tower's input. `patch`, `step` and `merge` are 1 where a model has no such thing.

    `patch` is the side of a patch in pixels, `step` how many pictures one patch covers, `merge` the side of the block
    of patches that becomes one token.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    patch: int = 1
    step: int = 1
    merge: int = 1

    @staticmethod
    def read(path: Path, *, patch: int = 1, step: int = 1, merge: int = 1) -> Preparation:
        """From a model directory's preprocessor files; `patch`, `step` and `merge` come from the model's config.

        Raises:
            CheckpointError: no file, no mean or deviation of three channels, or a file that contradicts the config.
        """
        given = read_preprocessor(path)
        for name, value in (("patch_size", patch), ("temporal_patch_size", step), ("merge_size", merge)):
            if value != 1 and given.get(name, value) != value:
                raise CheckpointError(f"{path}: the preprocessor's {name} is {given[name]}, the model's {value}")
        mean, std = given.get("image_mean"), given.get("image_std")
        if not (isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std) == 3):
            raise CheckpointError(f"{path}: the preprocessor's image_mean and image_std must be 3 numbers each")
        if not given.get("do_normalize", True):
            mean, std = [0.0] * 3, [1.0] * 3
        scale = float(given.get("rescale_factor", 1 / 255)) if given.get("do_rescale", True) else 1.0
        return Preparation(mean=tuple(mean), std=tuple(std), scale=scale, patch=patch, step=step, merge=merge)

    @property
    def side(self) -> int:
        """What both sides of a picture must be a multiple of, in pixels."""
        return self.patch * self.merge

    def normalise(self, frames: Tensor) -> Tensor:
        """uint8 [..., H, W, 3] to float32 [..., 3, H, W], in the order of operations of the stock processors."""
        mean, std = (torch.tensor(row, device=frames.device) * (1.0 / self.scale) for row in (self.mean, self.std))
        channels_first = frames.movedim(-1, -3).to(torch.float32)
        return (channels_first - mean[:, None, None]) / std[:, None, None]

    def patchify(self, frames_LFCHW: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """The patches of each clip, float [L * P, C * step * patch * patch], blocks of `merge` x `merge` together.

        Returns:
            The patches and a clip's grid of patches (steps, rows, columns).
        Raises:
            ValueError: the pictures are no whole number of patches or steps.
        """
        clips, frames, channels, height, width = frames_LFCHW.shape
        if frames % self.step or height % self.side or width % self.side:
            raise ValueError(
                f"{frames} pictures of {height} x {width}: wanted a multiple of {self.step} pictures with sides that"
                f" are multiples of {self.side}"
            )
        steps, rows, columns = frames // self.step, height // self.patch, width // self.patch
        split = frames_LFCHW.reshape(
            clips, steps, self.step, channels,
            rows // self.merge, self.merge, self.patch, columns // self.merge, self.merge, self.patch,
        )  # fmt: skip
        ordered = split.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
        return ordered.reshape(clips * steps * rows * columns, -1), (steps, rows, columns)


def fit(height: int, width: int, *, side: int, most: int) -> tuple[int, int]:
    """The picture size nearest `height` x `width`, in multiples of `side`, of at most `most` squares of that side.

    The aspect is kept as far as the multiples allow; a picture that is small enough keeps its size, rounded.

    Raises:
        ValueError: a side or `most` is not positive.
    """
    if min(height, width, side, most) < 1:
        raise ValueError(f"a picture of {height} x {width} in at most {most} squares of {side}: all must be positive")
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    if rows * columns > most:
        shrink = math.sqrt(height * width / (most * side * side))
        rows, columns = max(1, int(height / side / shrink)), max(1, int(width / side / shrink))
        # Of an extreme aspect one side stays at 1 and the other may still be too long.
        rows, columns = min(rows, most // columns or 1), min(columns, most // rows or 1)
    return rows * side, columns * side


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """uint8 [..., H, W, 3] at another size, bicubic with antialiasing: what the stock processors do on that device."""
    if frames.shape[-3:-1] == (height, width):
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:]).movedim(-1, 1)
    # The CPU resizes uint8 itself, in whole numbers; elsewhere it takes the way through floats.
    given = flat if flat.device.type == "cpu" else flat.to(torch.float32)
    scaled = interpolate(given, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    if scaled.dtype != torch.uint8:
        scaled = scaled.round().clamp(0, 255).to(torch.uint8)
    return scaled.movedim(1, -1).reshape(*frames.shape[:-3], height, width, 3)
