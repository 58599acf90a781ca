"""What every combiner is: features of one snippet and a carried memory in, tokens and the next memory out.

Shapes: B lanes, T snippets, N feature tokens, m combined tokens, K memory rows, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from longtake.operators.model.config import ModelConfig
from longtake.operators.model.feature_layout import FeatureLayout, feature_layout


@dataclass(frozen=True, kw_only=True)
class Features:
    """The modality encoders' output for one snippet a lane; masks are True where there is something."""

    video_BND: Tensor
    video_mask_BN: Tensor
    audio_BND: Tensor
    audio_mask_BN: Tensor

    def at(self, index: int, lanes: int) -> Features:
        """Snippet `index` of features whose first axis is [lanes * T], lane-major."""
        step = len(self.video_BND) // lanes
        return Features(
            video_BND=self.video_BND[index::step],
            video_mask_BN=self.video_mask_BN[index::step],
            audio_BND=self.audio_BND[index::step],
            audio_mask_BN=self.audio_mask_BN[index::step],
        )


class Combiner(nn.Module, ABC):
    """Joins a snippet's video and audio features and compresses them to `config.combiner.tokens` tokens.

    A combiner without memory has K = 0. Memory is float32 whatever the weights' dtype, since it is carried over
    hours of video and stored beside the tokens. `layout` says how the features lie; None is as the config's own
    encoders lay them.
    """

    def __init__(self, config: ModelConfig, layout: FeatureLayout | None = None) -> None:
        super().__init__()
        self.config = config
        self.layout = layout or feature_layout(config)
        self.tokens = config.combiner.tokens

    def initial_memory(self, lanes: int) -> Tensor:
        """The memory before a video's first snippet, float32 [lanes, K, D]."""
        device = next(self.parameters()).device
        return torch.zeros(lanes, 0, self.config.width, device=device)

    @abstractmethod
    def forward(self, features: Features, memory_BKD: Tensor, start_s_B: Tensor) -> tuple[Tensor, Tensor]:
        """Combine one snippet a lane: tokens [B, m, D] and the next memory, float32 [B, K, D]."""

    def sequence(self, features: Features, memory_BKD: Tensor, start_s_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Combine T snippets a lane, given as features of [B * T] snippets, lane-major: tokens [B, T, m, D]."""
        lanes, snippets = start_s_BT.shape
        if memory_BKD.shape[1] == 0:
            tokens, _ = self(features, memory_BKD[:, :0].repeat_interleave(snippets, dim=0), start_s_BT.flatten())
            return rearrange(tokens, "(b t) m d -> b t m d", b=lanes), memory_BKD
        steps = []
        for index in range(snippets):
            tokens_BmD, memory_BKD = self(features.at(index, lanes), memory_BKD, start_s_BT[:, index])
            steps.append(tokens_BmD)
        return torch.stack(steps, dim=1), memory_BKD
