"""The grid that average pooling and the C-Abstractor work on: 2D patches of the pictures, patches of the spectrogram.

Sparse tubes share no grid with anything, so only the tube whose kernel is one frame (a 2D patch) takes part. The m
combined tokens are laid out as t x n x n cells (time, rows, columns), n as large as it goes. Every cell is the picture
in it together with the sound of its time.

Shapes: B lanes, N tokens of an encoder, C cells, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from longtake.operators.model.config import ModelConfig
from longtake.operators.model.feature_layout import FeatureLayout


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the 2D patches lie among the video tokens, and how patches fall into cells.

    `patches` is (frames, rows, columns) of patches, `audio` is (times, bands), `cells` is (times, rows, columns).
    """

    first: int
    patches: tuple[int, int, int]
    audio: tuple[int, int]
    cells: tuple[int, int, int]

    @property
    def count(self) -> int:
        """How many 2D patches there are."""
        return self.patches[0] * self.patches[1] * self.patches[2]

    def select(self, video_BND: Tensor) -> Tensor:
        """The 2D patches among video tokens or their mask, whose second axis counts tokens."""
        return video_BND[:, self.first : self.first + self.count]


def grid_of(config: ModelConfig, layout: FeatureLayout) -> Grid:
    """The grid of a config whose features lie as `layout` says.

    Raises:
        ValueError: there is no tube of one frame, or several, or the tokens cannot be laid out on its grid.
    """
    name, tokens = config.combiner.name, config.combiner.tokens
    grids = layout.video
    flat = [index for index, is_flat in enumerate(layout.flat) if is_flat]
    if len(flat) != 1:
        raise ValueError(f"the {name} combiner needs exactly one tube of one frame (2D patches), not {len(flat)}")
    patches = grids[flat[0]]
    first = sum(frames * rows * columns for frames, rows, columns in grids[: flat[0]])
    times = min(patches[0], layout.audio[0])
    sides = range(min(patches[1], patches[2]), 0, -1)
    side = next((n for n in sides if tokens % (n * n) == 0 and tokens // (n * n) <= times), None)
    if side is None:
        raise ValueError(
            f"the {name} combiner cannot lay out {tokens} tokens as times x n x n on a grid of {patches}"
            f" (frames, rows, columns) patches with {layout.audio[0]} patches of sound in time"
        )
    cells = (tokens // (side * side), side, side)
    return Grid(first=first, patches=patches, audio=layout.audio, cells=cells)


def pooling_weights(sizes: tuple[int, ...], cells: tuple[int, ...]) -> Tensor:
    """Which inputs an adaptive average pool puts into which cell; float32 [C, N] of zeros and ones.

    Cell i of c along an axis of n covers inputs floor(i n / c) to ceil((i + 1) n / c), the common definition.
    """
    weights_CN = torch.ones(1, 1)
    for size, count in zip(sizes, cells, strict=True):
        index_N, cell_C1 = torch.arange(size), torch.arange(count)[:, None]
        low, high = cell_C1 * size // count, -(-(cell_C1 + 1) * size // count)
        weights_CN = torch.kron(weights_CN, ((index_N >= low) & (index_N < high)).float())
    return weights_CN


def masked_pool(tokens_BND: Tensor, mask_BN: Tensor, weights_CN: Tensor) -> Tensor:
    """The mean of each cell's visible tokens; zero where a cell has none. [B, C, D], dtype of the tokens."""
    weights_BCN = weights_CN.float() * mask_BN[:, None].float()
    total_BC1 = weights_BCN.sum(dim=-1, keepdim=True)
    pooled_BCD = torch.bmm(weights_BCN / total_BC1.clamp_min(1.0), tokens_BND.float())
    return pooled_BCD.to(tokens_BND.dtype)


def pooled_sound(audio_BND: Tensor, mask_BN: Tensor, weights_CN: Tensor, silence_D: Tensor) -> Tensor:
    """The mean of the sound tokens of each time of the cells, and `silence_D` where a time has none; [B, C, D]."""
    heard_BC = mask_BN.float() @ weights_CN.float().T > 0
    return torch.where(heard_BC[..., None], masked_pool(audio_BND, mask_BN, weights_CN), silence_D)
