"""The transformer combiner (Mirasol3B, section 3.2): m learned tokens after [video | audio], their outputs kept.

Shapes: B lanes, N feature tokens, m combined tokens, P history snippets, D width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from longtake.operators.model.combiners.base import Combiner, Features
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.feature_layout import FeatureLayout
from longtake.operators.model.layers import Block, key_bias, sinusoid


class TransformerCombiner(Combiner):
    """A transformer over [earlier combined tokens | video | audio | m learned tokens]; the last m outputs are kept.

    Scope `current` sees one snippet. Scope `all_so_far` also reads the combined tokens of up to `history` snippets
    before it: the carried memory is one row that counts them and `history * m` rows that hold them, newest last.
    """

    def __init__(self, config: ModelConfig, layout: FeatureLayout | None = None) -> None:
        super().__init__(config, layout)
        width = config.width
        self.history = config.combiner.history if config.combiner.scope == "all_so_far" else 0
        self.queries_mD = nn.Parameter(torch.randn(self.tokens, width) * 0.02)
        self.source_3D = nn.Parameter(torch.randn(3, width) * 0.02)  # added to video, audio, history
        if config.combiner.transformer.depth < 1:
            raise ValueError("the transformer combiner needs depth >= 1")
        self.blocks = nn.ModuleList(
            Block(width, config.combiner.transformer) for _ in range(config.combiner.transformer.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def initial_memory(self, lanes: int) -> Tensor:
        rows = 1 + self.history * self.tokens if self.history else 0
        return torch.zeros(lanes, rows, self.config.width, device=self.queries_mD.device)

    def forward(self, features: Features, memory_BKD: Tensor, start_s_B: Tensor) -> tuple[Tensor, Tensor]:
        tokens_BmD = self.queries_mD[None]
        sources = [features.video_BND + self.source_3D[0], features.audio_BND + self.source_3D[1], tokens_BmD]
        masks: list[Tensor | None] = [features.video_mask_BN, features.audio_mask_BN, None]
        if self.history:
            past_BSD, past_mask_BS = self._history(memory_BKD)
            sources.insert(0, past_BSD.to(features.video_BND.dtype))
            masks.insert(0, past_mask_BS)
        if len(self.blocks) > 1:
            # All tokens attend to all: one sequence, whose last m go on.
            x_BND, mask_BN = self._sequence_of(sources, masks)
            bias = key_bias(mask_BN, x_BND.dtype)
            for block in self.blocks[:-1]:
                x_BND = block(x_BND, bias)
            tokens_BmD, sources, masks = x_BND[:, -self.tokens :], [x_BND], [mask_BN]
        # Of the last layer only the tokens' outputs are needed.
        tokens_BmD = self.norm(cast(Block, self.blocks[-1]).read(tokens_BmD, sources, masks))
        return tokens_BmD, self._remember(memory_BKD, tokens_BmD)

    def _sequence_of(self, sources: list[Tensor], masks: list[Tensor | None]) -> tuple[Tensor, Tensor]:
        """Sources and masks concatenated; a batch of 1 is repeated and None becomes True."""
        lanes = len(sources[0])
        x_BND = torch.cat([source.expand(lanes, -1, -1) for source in sources], dim=1)
        seen = [
            x_BND.new_ones(lanes, source.shape[1], dtype=torch.bool) if mask is None else mask
            for source, mask in zip(sources, masks, strict=True)
        ]
        return x_BND, torch.cat(seen, dim=1)

    def _history(self, memory_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """The remembered tokens with their age added, and which of them are there yet."""
        rows = self.history * self.tokens
        # Age in snippets of each row: the newest, at the end, is 1 snippet old.
        age_S = (self.history - torch.arange(rows, device=memory_BKD.device) // self.tokens).float()
        mask_BS = age_S <= memory_BKD[:, 0, :1]
        return memory_BKD[:, 1:] + sinusoid(age_S, self.config.width) + self.source_3D[2].float(), mask_BS

    def _remember(self, memory_BKD: Tensor, tokens_BmD: Tensor) -> Tensor:
        if not self.history:
            return memory_BKD
        kept_BSD = torch.cat([memory_BKD[:, 1 + self.tokens :], tokens_BmD.float()], dim=1)
        return torch.cat([memory_BKD[:, :1] + 1.0, kept_BSD], dim=1)
