"""Token summary: N tokens softmax-pooled into k (Token Turing Machines, arXiv 2211.09119, section 3.1).

Everything that pools tokens by learned importance goes through `token_summary`, so that another implementation of
that one call serves all of them.

Shapes: B batch, N tokens, k summary tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def token_summary(tokens_BND: Tensor, logits_BNk: Tensor, mask_BN: Tensor | None = None) -> Tensor:
    """Softmax-pool N tokens into k, each a convex mix of the inputs.

    The softmax and the sum run in float32 whatever the inputs' dtypes are.

    Args:
        tokens_BND: what is mixed, any floating dtype.
        logits_BNk: importance of each token for each summary; the softmax runs over N.
        mask_BN: bool, False excludes a token: its weight is exactly 0. A row with no token left gives zeros.
    Returns:
        [B, k, D], dtype of `tokens_BND`.
    Raises:
        ValueError: shapes disagree, or N or k is 0.
    """
    batch, tokens, _ = tokens_BND.shape
    if logits_BNk.shape[:2] != (batch, tokens) or 0 in (tokens, logits_BNk.shape[2]):
        raise ValueError(
            f"tokens are {tuple(tokens_BND.shape)} and logits {tuple(logits_BNk.shape)}; wanted [B, N, D] and [B, N, k]"
        )
    # Tokens come last, so that every softmax is one row's: over a strided axis the CPU's result depends, in its last
    # bits, on which lane of a batch a row is in.
    logits_BkN = logits_BNk.float().transpose(1, 2).contiguous()
    if mask_BN is None:
        weights_BkN = logits_BkN.softmax(dim=-1)
    elif mask_BN.shape != (batch, tokens):
        raise ValueError(f"the mask is {tuple(mask_BN.shape)}; wanted {(batch, tokens)}")
    else:
        hidden_B1N = ~mask_BN[:, None]
        # A finite number keeps a row without tokens free of NaN; the second fill makes such a row's weights zero.
        lowest = torch.finfo(torch.float32).min
        weights_BkN = logits_BkN.masked_fill(hidden_B1N, lowest).softmax(dim=-1).masked_fill(hidden_B1N, 0.0)
    return torch.bmm(weights_BkN, tokens_BND.float()).to(tokens_BND.dtype)


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
