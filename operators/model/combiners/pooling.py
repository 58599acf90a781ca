"""Pooling combiners: average pooling and attention pooling, the simple connectors of MM1 (arXiv 2403.09611, 3.2).

Neither carries a memory from snippet to snippet.

Shapes: B lanes, N feature tokens, m combined tokens, C times of the cells, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from longtake.operators.model.combiners.base import Combiner, Features
from longtake.operators.model.combiners.grid import grid_of, masked_pool, pooled_sound, pooling_weights
from longtake.operators.model.config import ModelConfig, TransformerConfig
from longtake.operators.model.feature_layout import FeatureLayout
from longtake.operators.model.layers import MLP, Attention


class AveragePool(Combiner):
    """The mean of the 2D patches of each cell of a grid beside the mean of the sound of its time, and a dense layer.

    `config.combiner.transformer` is not used. Where a cell has no sound a learned vector stands for it.

    Raises:
        ValueError: the config has no grid, see `grid_of`.
    """

    def __init__(self, config: ModelConfig, layout: FeatureLayout | None = None) -> None:
        super().__init__(config, layout)
        self.grid = grid_of(config, self.layout)
        times, rows, columns = self.grid.cells
        self.cells_a_time = rows * columns
        self.silence_D = nn.Parameter(torch.randn(config.width) * 0.02)
        self.dense = nn.Linear(2 * config.width, config.width)
        self.register_buffer("video_CN", pooling_weights(self.grid.patches, self.grid.cells), persistent=False)
        self.register_buffer("audio_CN", pooling_weights(self.grid.audio, (times, 1)), persistent=False)

    def forward(self, features: Features, memory_BKD: Tensor, start_s_B: Tensor) -> tuple[Tensor, Tensor]:
        video_mask_BN = self.grid.select(features.video_mask_BN)
        video_BmD = masked_pool(self.grid.select(features.video_BND), video_mask_BN, self.get_buffer("video_CN"))
        audio_BCD = pooled_sound(
            features.audio_BND, features.audio_mask_BN, self.get_buffer("audio_CN"), self.silence_D
        )
        audio_BmD = audio_BCD.repeat_interleave(self.cells_a_time, dim=1)
        return self.dense(torch.cat([video_BmD, audio_BmD], dim=-1)), memory_BKD


class AttentionPool(Combiner):
    """m learned queries that attend to all features, `depth` times; depth 1 is the plain attention pool of MM1."""

    def __init__(self, config: ModelConfig, layout: FeatureLayout | None = None) -> None:
        super().__init__(config, layout)
        depth = config.combiner.transformer.depth
        if depth < 1:
            raise ValueError("the attention_pool combiner needs depth >= 1")
        self.queries_mD = nn.Parameter(torch.randn(self.tokens, config.width) * 0.02)
        self.source_2D = nn.Parameter(torch.randn(2, config.width) * 0.02)  # added to video, audio
        self.layers = nn.ModuleList(PoolLayer(config.width, config.combiner.transformer) for _ in range(depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, features: Features, memory_BKD: Tensor, start_s_B: Tensor) -> tuple[Tensor, Tensor]:
        sources = [features.video_BND + self.source_2D[0], features.audio_BND + self.source_2D[1]]
        masks = [features.video_mask_BN, features.audio_mask_BN]
        tokens_BmD = self.queries_mD[None]
        for layer in self.layers:
            tokens_BmD = layer(tokens_BmD, sources, masks)
        return self.norm(tokens_BmD), memory_BKD


class PoolLayer(nn.Module):
    """A pre-norm layer of cross-attention from queries to features."""

    def __init__(self, width: int, config: TransformerConfig) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(width, eps=1e-6)
        self.norm_source = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, config.heads)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, int(width * config.mlp_ratio))

    def forward(self, x_BmD: Tensor, sources: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        normed = [self.norm_source(source) for source in sources]
        x_BmD = x_BmD + self.attention.read(self.norm_query(x_BmD), normed, masks)
        out_BmD: Tensor = x_BmD + self.mlp(self.norm_mlp(x_BmD))
        return out_BmD
