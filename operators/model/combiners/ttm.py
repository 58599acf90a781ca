"""The TTM combiner: a Token Turing Machine whose memory carries over from snippet to snippet (arXiv 2211.09119).

Each step reads Z = S_R([M | I]), processes O = Process(Z) and writes M' = S_K([M | I | O]), where S_k is the token
summary. The cost of a step does not depend on how much video came before it.

Shapes: B lanes, N input tokens, R read tokens, K memory tokens, m combined tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longtake.operators.model.combiners.base import Combiner, Features
from longtake.operators.model.config import CombinerConfig, ModelConfig
from longtake.operators.model.feature_layout import FeatureLayout
from longtake.operators.model.layers import Transformer, sinusoid
from longtake.operators.model.token_summary import TokenSummary

# Slow end of the timestamp's sin/cos features, in seconds: a little more than a day of video.
LONGEST_S = 100_000.0


class TokenTuringUnit(nn.Module):
    """One step of a Token Turing Machine, in the order and numerics of the public implementation (token_turing).

    Learned position embeddings on read and write are an option, and fix the number of input tokens. They are added
    before the summary, so they are part of what is mixed.
    """

    def __init__(self, width: int, inputs: int, config: CombinerConfig) -> None:
        super().__init__()
        memory, read = config.memory_tokens, config.read_tokens
        self.read = TokenSummary(width, read, config.summary_hidden)
        self.write = TokenSummary(width, memory, config.summary_hidden)
        self.position_RD = nn.Parameter(torch.randn(read, width) * 0.02)
        self.processor = Transformer(width, config.transformer)
        self.read_position_ND: nn.Parameter | None = None
        self.write_position_ND: nn.Parameter | None = None
        if config.position_embedding:
            self.read_position_ND = nn.Parameter(torch.randn(memory + inputs, width) * 0.02)
            self.write_position_ND = nn.Parameter(torch.randn(memory + inputs + read, width) * 0.02)

    def forward(self, memory_BKD: Tensor, input_BND: Tensor, mask_BN: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            memory_BKD: float32.
            input_BND: the step's tokens, in the weights' dtype.
            mask_BN: bool, input tokens that are False are neither read nor written.
        Returns:
            the next memory, float32 [B, K, D], and the output tokens, [B, R, D].
        """
        # Both summaries mix in float32: the memory is never rounded to the weights' dtype.
        weights = self.position_RD.dtype
        sources, masks = [memory_BKD, input_BND], [None, mask_BN]
        read_BRD = self.read(sources, masks, self.read_position_ND, weights)
        output_BRD: Tensor = self.processor(read_BRD + self.position_RD)
        next_BKD: Tensor = self.write(
            [*sources, output_BRD], [*masks, None], self.write_position_ND, out_dtype=torch.float32
        )
        return next_BKD, output_BRD


class TTMCombiner(Combiner):
    """A Token Turing Machine over the snippets of a video.

    The initial memory is learned (standard deviation 1: one that starts at zero has been reported not to learn).

    A step's R outputs are the snippet's tokens, as in the paper, so the config's `read_tokens` equals its `tokens`. The
    alternative, one more token summary from R outputs to m, starts as a near-uniform mean of tokens that are themselves
    near-uniform means: its m tokens differ by about a thousandth of their size.

    With `timestamp` each step's inputs carry sin/cos features of the snippet's start in seconds, and through them so
    does the memory.
    """

    def __init__(self, config: ModelConfig, layout: FeatureLayout | None = None) -> None:
        super().__init__(config, layout)
        combiner, width = config.combiner, config.width
        self.initial_KD = nn.Parameter(torch.randn(combiner.memory_tokens, width))
        self.unit = TokenTuringUnit(width, self.layout.tokens, combiner)

    def initial_memory(self, lanes: int) -> Tensor:
        return self.initial_KD.float().expand(lanes, -1, -1)

    def forward(self, features: Features, memory_BKD: Tensor, start_s_B: Tensor) -> tuple[Tensor, Tensor]:
        input_BND = torch.cat([features.video_BND, features.audio_BND], dim=1)
        mask_BN = torch.cat([features.video_mask_BN, features.audio_mask_BN], dim=1)
        if self.config.combiner.timestamp:
            stamp_BD = sinusoid(start_s_B, self.config.width, LONGEST_S)
            input_BND = input_BND + stamp_BD[:, None].to(input_BND.dtype)
        next_BKD, tokens_BRD = self.unit(memory_BKD, input_BND, mask_BN)
        return tokens_BRD, next_BKD
