"""The token summary with its learned importance (Token Turing Machines, arXiv 2211.09119, section 3.1).

Shapes: B batch, N tokens, k summary tokens, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from longtake.kernels.token_summary.reference import token_summary


class TokenSummary(nn.Module):
    """A token summary with its learned importance: LayerNorm, a dense layer, tanh GELU, one logit for each of k.

    The importance is computed from the normalised tokens, in the weights' dtype; what is mixed are the tokens as they
    come ("TL", the public implementation's default).
    """

    def __init__(self, width: int, summaries: int, hidden: int = 64) -> None:
        super().__init__()
        if min(width, summaries, hidden) < 1:
            raise ValueError(f"a token summary of {summaries} from width {width}, hidden {hidden}: each must be >= 1")
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, summaries)

    def forward(self, tokens_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """Summarise [B, N, D] to [B, k, D] of the same dtype; tokens where the mask is False take no part."""
        normed_BND = self.norm(tokens_BND.to(self.up.weight.dtype))
        logits_BNk = self.down(F.gelu(self.up(normed_BND), approximate="tanh"))
        return token_summary(tokens_BND, logits_BNk, mask_BN)
