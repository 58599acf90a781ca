"""How a decoded picture lands in the model's picture: pixel aspect, rotation, and a black-padded fit ("letterbox")."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

# N pictures, H rows, W columns, C = 3 colours

Pictures8 = NDArray[np.uint8]
Filter: TypeAlias = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class PictureFormat:
    """What a model wants of a video's pictures.

    "pad" keeps the aspect and fills up with black, "stretch" gives up the aspect. `filter` scales; both average over
    the whole footprint of a pixel where they make a picture smaller.

    Raises:
        ValueError: a side is not positive.
    """

    height: int
    width: int
    fit: Literal["pad", "stretch"] = "pad"
    filter: Filter = "bilinear"

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"pictures of {self.height} x {self.width}: both sides must be at least 1")

    @property
    def size_bytes(self) -> int:
        """Bytes of one picture."""
        return self.height * self.width * 3


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a picture goes: scaled to `width` x `height` as coded, turned clockwise, then put at (`top`, `left`)."""

    width: int
    height: int
    rotation: int
    top: int
    left: int
    box_height: int
    box_width: int
    filter: Filter = "bilinear"

    def place(self, scaled_NHWC: Pictures8) -> Pictures8:
        """Turn the scaled pictures and pad them with black.

        Args:
            scaled_NHWC: uint8 [N, height, width, 3], as coded.
        Returns:
            uint8 [N, box_height, box_width, 3], C-contiguous; the input itself where there is nothing to do.
        """
        if scaled_NHWC.shape[1:] != (self.height, self.width, 3):
            wanted = (self.height, self.width, 3)
            raise ValueError(f"pictures of shape {scaled_NHWC.shape[1:]}, wanted {wanted}")
        turned = np.rot90(scaled_NHWC, k=-self.rotation // 90, axes=(1, 2)) if self.rotation else scaled_NHWC
        rows, columns = turned.shape[1:3]
        if (rows, columns) == (self.box_height, self.box_width):
            return np.ascontiguousarray(turned)
        out = np.zeros((len(turned), self.box_height, self.box_width, 3), dtype=np.uint8)
        out[:, self.top : self.top + rows, self.left : self.left + columns] = turned
        return out


def displayed_size(coded_width: int, coded_height: int, sample_aspect: Fraction, rotation: int) -> tuple[int, int]:
    """(width, height) as a viewer sees the picture: pixels made square by stretching the width, then turned."""
    width = max(1, round(coded_width * sample_aspect))
    return (coded_height, width) if rotation in (90, 270) else (width, coded_height)


def fit(
    coded_width: int, coded_height: int, sample_aspect: Fraction, rotation: int, box_height: int, box_width: int
) -> Placement:
    """The largest placement of a picture in a box that keeps its displayed aspect, centred.

    Args:
        coded_width, coded_height: pixels of the decoded picture.
        sample_aspect: width of one pixel over its height.
        rotation: degrees clockwise to turn the decoded picture by: 0, 90, 180 or 270.
        box_height, box_width: the model's picture.
    Raises:
        ValueError: a side is not positive, or the rotation is not a quarter turn.
    """
    if min(coded_width, coded_height, box_height, box_width) < 1 or sample_aspect <= 0:
        raise ValueError(
            f"cannot fit {coded_width}x{coded_height} (pixel aspect {sample_aspect}) in {box_width}x{box_height}"
        )
    if rotation not in (0, 90, 180, 270):
        raise ValueError(f"rotation {rotation}: only 0, 90, 180 and 270 degrees are shown")
    shown_width, shown_height = Fraction(coded_width) * sample_aspect, Fraction(coded_height)
    if rotation in (90, 270):
        shown_width, shown_height = shown_height, shown_width
    scale = min(box_width / shown_width, box_height / shown_height)
    columns = min(box_width, max(1, round(shown_width * scale)))
    rows = min(box_height, max(1, round(shown_height * scale)))
    turned = rotation in (90, 270)
    return Placement(
        width=rows if turned else columns,
        height=columns if turned else rows,
        rotation=rotation,
        top=(box_height - rows) // 2,
        left=(box_width - columns) // 2,
        box_height=box_height,
        box_width=box_width,
    )


def stretch(rotation: int, form: PictureFormat) -> Placement:
    """A picture over all of its box, its aspect given up.

    Raises:
        ValueError: the rotation is not a quarter turn.
    """
    if rotation not in (0, 90, 180, 270):
        raise ValueError(f"rotation {rotation}: only 0, 90, 180 and 270 degrees are shown")
    turned = rotation in (90, 270)
    return Placement(
        width=form.height if turned else form.width,
        height=form.width if turned else form.height,
        rotation=rotation,
        top=0,
        left=0,
        box_height=form.height,
        box_width=form.width,
        filter=form.filter,
    )
