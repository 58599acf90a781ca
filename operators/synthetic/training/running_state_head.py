"""What training tells the latents: of every snippet, what only earlier snippets can tell (how often, what before).

A question says a few bits about a whole video; this says some about each of its snippets, to the part of the model
whose work it is to know what a snippet means after all that came before.

Shapes: V videos, T snippets, m tokens, D width, P parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtake.operators.model.config import ModelConfig
from longtake.operators.synthetic.training.task import Part


class RunningStateHead(nn.Module):
    """A linear reader of latents, for training only."""

    def __init__(self, config: ModelConfig, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        values = sum(part.values for part in self.parts)
        self.latents = nn.Linear(config.width * config.combiner.tokens, values)

    def forward(self, latents_VTmD: Tensor, truth_VTP: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The mean cross-entropy of all parts, and for each part the share of snippets told rightly where there is
        something to tell.

        Args:
            truth_VTP: int64, the parts' values.
        """
        told = self.latents(latents_VTmD.flatten(2)).float().split([part.values for part in self.parts], dim=-1)
        losses, right = [], {}
        for part, logits_VTC, truth_VT in zip(self.parts, told, truth_VTP.unbind(-1), strict=True):
            losses.append(F.cross_entropy(logits_VTC.flatten(0, 1), truth_VT.flatten()))
            there_VT = truth_VT > 0
            if bool(there_VT.any()):
                right[part.name] = (logits_VTC.argmax(-1) == truth_VT)[there_VT].float().mean().item()
        return torch.stack(losses).mean(), right
