"""The definition of the tube embedding: uint8 pictures to the tokens of sparse tubes (TubeViT, arXiv 2212.03229).

Shapes: S snippets, F pictures, H rows, W columns, N tokens, K pixels of a tube times three, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


class TubeShape(NamedTuple):
    """One kind of tube, a strided 3D convolution without padding; each field is (pictures, rows, columns)."""

    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    offset: tuple[int, int, int] = (0, 0, 0)

    def grid(self, clip: tuple[int, int, int]) -> tuple[int, int, int]:
        """How many tubes fit in a clip of (pictures, rows, columns); 0 or less where none does."""
        t, y, x = (
            (size - offset - kernel) // stride + 1
            for size, kernel, stride, offset in zip(clip, self.kernel, self.stride, self.offset, strict=True)
        )
        return (t, y, x)

    @property
    def depth(self) -> int:
        """How many numbers of the clip a tube holds."""
        return self.kernel[0] * self.kernel[1] * self.kernel[2] * 3


def tube_tokens(
    pixels_SFHWC: Tensor, tube: TubeShape, weight_DK: Tensor, bias_D: Tensor, position_ND: Tensor | None = None
) -> Tensor:
    """One kind of tube over float pictures: every tube's pixels, ordered (t, y, x, colour), through a dense layer.

    Returns [S, N, D], tokens ordered (t, y, x).
    """
    views = pixels_SFHWC
    for axis, (kernel, stride, offset) in enumerate(zip(tube.kernel, tube.stride, tube.offset, strict=True), start=1):
        views = views.narrow(axis, offset, views.shape[axis] - offset).unfold(axis, kernel, stride)
    tubes_SNK = rearrange(views, "s t y x c kt ky kx -> s (t y x) (kt ky kx c)")
    tokens_SND = F.linear(tubes_SNK, weight_DK, bias_D)
    return tokens_SND if position_ND is None else tokens_SND + position_ND


def show(frames_SFHWC: Tensor, frame_index_SF: Tensor) -> Tensor:
    """The pictures that an index names: out[s, f] is frames[s, frame_index[s, f]]."""
    snippet_S1 = torch.arange(len(frames_SFHWC), device=frames_SFHWC.device)[:, None]
    return frames_SFHWC[snippet_S1, frame_index_SF.long()]


def tube_embed(
    frames_SFHWC: Tensor,
    tubes: Sequence[TubeShape],
    weights_DK: Sequence[Tensor],
    biases_D: Sequence[Tensor],
    positions_ND: Sequence[Tensor] | None = None,
    frame_index_SF: Tensor | None = None,
) -> Tensor:
    """Pictures u, as x = u / 127.5 - 1, to the tokens of every kind of tube: x W^T + b + position; [S, sum of N, D]."""
    if frame_index_SF is not None:
        frames_SFHWC = show(frames_SFHWC, frame_index_SF)
    pixels_SFHWC = frames_SFHWC.to(weights_DK[0].dtype) / 127.5 - 1.0
    positions: Sequence[Tensor | None] = [None] * len(tubes) if positions_ND is None else positions_ND
    kinds = zip(tubes, weights_DK, biases_D, positions, strict=True)
    return torch.cat([tube_tokens(pixels_SFHWC, *kind) for kind in kinds], dim=1)
