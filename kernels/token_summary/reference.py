"""The definition of the token summary: N tokens softmax-pooled into k (Token Turing Machines, arXiv 2211.09119, eq. 3).

Everything that pools tokens by learned importance goes through this call, so that another implementation of it serves
all of them.

Shapes: B batch, N tokens, k summary tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
