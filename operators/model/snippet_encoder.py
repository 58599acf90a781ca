"""From snippets to tokens, in lanes: what indexing runs on a GPU or the CPU.

Shapes: L lanes, F pictures, H rows, W columns, A mel frames, M mels, m tokens, K memory rows, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longtake.operators.model.combiners.ttm import TTMCombiner
from longtake.operators.model.graphed_step import GraphedStep
from longtake.operators.model.model import LongTakeModel


class SnippetEncoder:
    """Encodes and combines one snippet of each of `lanes` videos a step.

    A step always has the same batch shape; rows without work are padded. So what a video's tokens are does not
    depend on which other videos run beside it, and a resumed video gets the same tokens.
    """

    def __init__(
        self,
        model: LongTakeModel,
        *,
        lanes: int,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if lanes < 1:
            raise ValueError(f"an encoder needs at least 1 lane, not {lanes}")
        self.lanes = lanes
        self.device = torch.device(device)
        self.dtype = dtype
        self.model = model.to(device=self.device, dtype=dtype).eval()
        graphed = self.device.type == "cuda" and isinstance(model.combiner, TTMCombiner)
        self._combine = GraphedStep(self.model.combiner) if graphed else self.model.combiner

    def initial_memory(self) -> Tensor:
        """The combiner's memory before a video's first snippet, float32 [K, D] on the CPU."""
        with torch.inference_mode():
            return self.model.combiner.initial_memory(1)[0].float().cpu().clone()

    def step(
        self,
        frames_LFHWC: Tensor,
        frame_mask_LF: Tensor,
        mel_LAM: Tensor,
        mel_mask_LA: Tensor,
        start_s_L: Tensor,
        memory_LKD: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Encode one snippet a lane.

        Args:
            frames_LFHWC: uint8 pictures. frame_mask_LF: bool, all False on an idle lane.
            mel_LAM: float32 log-mel. mel_mask_LA: bool, False where there is no sound.
            start_s_L: float32, each snippet's start on its video's clock, seconds.
            memory_LKD: float32, each lane's carried memory.
        Returns:
            tokens float32 [L, m, D] and memory float32 [L, K, D], both on the CPU.
        Raises:
            ValueError: another number of rows than the encoder has lanes.
        """
        if len(frames_LFHWC) != self.lanes:
            raise ValueError(f"{len(frames_LFHWC)} rows for an encoder of {self.lanes} lanes; pad idle lanes")
        given = (frames_LFHWC, frame_mask_LF, mel_LAM, mel_mask_LA, start_s_L, memory_LKD)
        tokens_LmD, memory_LKD = self.run(*(tensor.to(self.device) for tensor in given))
        return tokens_LmD.float().cpu(), memory_LKD.float().cpu()

    def run(
        self,
        frames_LFHWC: Tensor,
        frame_mask_LF: Tensor,
        mel_LAM: Tensor,
        mel_mask_LA: Tensor,
        start_s_L: Tensor,
        memory_LKD: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The step alone, on tensors of the encoder's device: tokens in its dtype, and the memory in float32."""
        with torch.inference_mode():
            features = self.model.features(frames_LFHWC, frame_mask_LF, mel_LAM, mel_mask_LA)
            tokens_LmD, memory_LKD = self._combine(features, memory_LKD, start_s_L)
            return tokens_LmD, memory_LKD
