"""The C-Abstractor as a combiner: Honeybee's locality-enhanced projector (arXiv 2312.06742, section 3.2).

Shapes: B lanes, T frames of patches, Y rows, X columns, C cells, m combined tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from longtake.operators.model.combiners.base import Combiner, Features
from longtake.operators.model.combiners.grid import grid_of, masked_pool, pooled_sound, pooling_weights
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.feature_layout import FeatureLayout

# The squeeze-and-excitation bottleneck, as a part of the width, rounded up to whole vectors of the CPU: the last few
# numbers of a tensor that does not fill them are computed otherwise, and the last lane would differ in its last bits.
SQUEEZE = 0.25
VECTOR = 32


class CAbstractor(Combiner):
    """Convolutions on the patch grid, adaptive average pooling to cells, convolutions on the cells, a dense readout.

    A learned position embedding and `depth` RegNet blocks run on every frame's patches; the pooled cells go through
    `depth` more and a two-layer SiLU MLP. The spectrogram has a first stage of its own; its patches, pooled to the
    cells' times, are added to the cells before the second stage. Honeybee's depth is 3; of
    `config.combiner.transformer` only the depth is used. There is no memory from snippet to snippet.

    Raises:
        ValueError: the config has no grid, see `grid_of`, or its depth is 0.
    """

    def __init__(self, config: ModelConfig, layout: FeatureLayout | None = None) -> None:
        super().__init__(config, layout)
        width, depth = config.width, config.combiner.transformer.depth
        if depth < 1:
            raise ValueError("the c_abstractor combiner needs depth >= 1")
        self.grid = grid_of(config, self.layout)
        _, rows, columns = self.grid.patches
        self.video_position_YXD = nn.Parameter(torch.randn(rows, columns, width) * 0.02)
        self.audio_position_YXD = nn.Parameter(torch.randn(*self.grid.audio, width) * 0.02)
        self.silence_D = nn.Parameter(torch.randn(width) * 0.02)
        self.video_stage = nn.Sequential(*(RegNetBlock(width) for _ in range(depth)))
        self.audio_stage = nn.Sequential(*(RegNetBlock(width) for _ in range(depth)))
        self.cell_stage = nn.Sequential(*(RegNetBlock(width) for _ in range(depth)))
        self.readout = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        times = self.grid.cells[0]
        self.register_buffer("video_CN", pooling_weights(self.grid.patches, self.grid.cells), persistent=False)
        self.register_buffer("audio_CN", pooling_weights(self.grid.audio, (times, 1)), persistent=False)

    def forward(self, features: Features, memory_BKD: Tensor, start_s_B: Tensor) -> tuple[Tensor, Tensor]:
        lanes = len(features.video_BND)
        frames, rows, columns = self.grid.patches
        video_BND, video_mask_BN = self.grid.select(features.video_BND), self.grid.select(features.video_mask_BN)
        video = rearrange(video_BND, "b (t y x) d -> b t y x d", t=frames, y=rows, x=columns) + self.video_position_YXD
        # Convolutions mix neighbours, so what is masked is zero before them.
        video = video * rearrange(video_mask_BN, "b (t y x) -> b t y x 1", t=frames, y=rows, x=columns)
        video = rearrange(self.video_stage(video.flatten(0, 1)), "(b t) y x d -> b (t y x) d", b=lanes)
        cells_BCD = masked_pool(video, video_mask_BN, self.get_buffer("video_CN"))

        bands = self.grid.audio[1]
        audio = rearrange(features.audio_BND, "b (y x) d -> b y x d", x=bands) + self.audio_position_YXD
        audio = audio * rearrange(features.audio_mask_BN, "b (y x) -> b y x 1", x=bands)
        audio = self.audio_stage(audio).flatten(1, 2)
        sound_BTD = pooled_sound(audio, features.audio_mask_BN, self.get_buffer("audio_CN"), self.silence_D)

        times, side, _ = self.grid.cells
        cells = rearrange(cells_BCD, "b (t y x) d -> b t y x d", t=times, y=side) + sound_BTD[:, :, None, None]
        cells = rearrange(self.cell_stage(cells.flatten(0, 1)), "(b t) y x d -> b (t y x) d", b=lanes)
        return self.readout(cells), memory_BKD


class RegNetBlock(nn.Module):
    """1x1, depthwise 3x3, squeeze-and-excitation, 1x1, each normalised over channels, SiLU, and a residual path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        squeezed = -(-round(width * SQUEEZE) // VECTOR) * VECTOR
        self.dense_in = nn.Linear(width, width, bias=False)
        self.norm_in = nn.LayerNorm(width, eps=1e-6)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm_depthwise = nn.LayerNorm(width, eps=1e-6)
        self.squeeze = nn.Linear(width, squeezed)
        self.excite = nn.Linear(squeezed, width)
        self.dense_out = nn.Linear(width, width, bias=False)
        self.norm_out = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x_BYXD: Tensor) -> Tensor:
        """[B, Y, X, D] to the same shape."""
        y = F.silu(self.norm_in(self.dense_in(x_BYXD)))
        y = self.depthwise(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = F.silu(self.norm_depthwise(y))
        gate = self.excite(F.silu(self.squeeze(y.mean(dim=(1, 2), keepdim=True)))).sigmoid()
        return F.silu(self.norm_out(self.dense_out(y * gate)) + x_BYXD)
