"""The definition of the token summary: N tokens softmax-pooled into k (Token Turing Machines, arXiv 2211.09119, eq. 3).

Each summary is a convex mix of the tokens, by an importance that is learned: a LayerNorm of the token, a dense layer, a
tanh GELU and a dense layer give one logit for each of the k summaries, and a softmax over all tokens makes weights of
them. The tokens come in up to three sources, such as a memory, an input and an output.

Shapes: B batch, N tokens of all sources together, k summary tokens, D width, H hidden width of the importance.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor


def token_summary(
    sources: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    norm_weight_D: Tensor,
    norm_bias_D: Tensor,
    up_weight_HD: Tensor,
    up_bias_H: Tensor,
    down_weight_kH: Tensor,
    down_bias_k: Tensor,
    position_ND: Tensor | None = None,
    *,
    eps: float = 1e-6,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Summarise the tokens of some sources to [B, k, D]; arguments and errors are those of `op.token_summary`.

    The importance is computed from the tokens in the weights' dtype, the softmax and the mix in float32 (in float64
    where that comes in).
    """
    dtype = reduce(torch.promote_types, [source.dtype for source in sources])
    wide = reduce(torch.promote_types, [torch.float32, dtype])
    # With a position the tokens that are mixed are sums, and those are not rounded.
    mixed = dtype if position_ND is None else reduce(torch.promote_types, [wide, position_ND.dtype])
    parts = [source.to(mixed) for source in sources]
    tokens_BND = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    if position_ND is not None:
        tokens_BND = tokens_BND + position_ND.to(mixed)

    mask_BN = None
    if any(mask is not None for mask in masks):
        seen = [
            torch.ones(source.shape[:2], dtype=torch.bool, device=source.device) if mask is None else mask
            for source, mask in zip(sources, masks, strict=True)
        ]
        mask_BN = seen[0] if len(seen) == 1 else torch.cat(seen, dim=1)

    importance_BND = tokens_BND.to(up_weight_HD.dtype)
    normed_BND = F.layer_norm(importance_BND, importance_BND.shape[-1:], norm_weight_D, norm_bias_D, eps)
    hidden_BNH = F.gelu(F.linear(normed_BND, up_weight_HD, up_bias_H), approximate="tanh")
    logits_BNk = F.linear(hidden_BNH, down_weight_kH, down_bias_k)
    return softmax_pool(tokens_BND, logits_BNk, mask_BN, out_dtype=out_dtype or dtype)


def softmax_pool(
    tokens_BND: Tensor, logits_BNk: Tensor, mask_BN: Tensor | None = None, *, out_dtype: torch.dtype | None = None
) -> Tensor:
    """Softmax-pool N tokens into k, each a convex mix of the inputs.

    The softmax and the sum run in float32 whatever the inputs' dtypes are (float64 stays).

    Args:
        tokens_BND: what is mixed, any floating dtype.
        logits_BNk: importance of each token for each summary; the softmax runs over N.
        mask_BN: bool, False excludes a token: its weight is exactly 0. A row with no token left gives zeros.
        out_dtype: the result's, by default that of `tokens_BND`.
    Returns:
        [B, k, D].
    Raises:
        ValueError: shapes disagree, or N or k is 0.
    """
    batch, tokens, _ = tokens_BND.shape
    if logits_BNk.shape[:2] != (batch, tokens) or 0 in (tokens, logits_BNk.shape[2]):
        raise ValueError(
            f"tokens are {tuple(tokens_BND.shape)} and logits {tuple(logits_BNk.shape)}; wanted [B, N, D] and [B, N, k]"
        )
    wide = reduce(torch.promote_types, [torch.float32, tokens_BND.dtype, logits_BNk.dtype])
    # Tokens come last, so that every softmax is one row's: over a strided axis the CPU's result depends, in its last
    # bits, on which lane of a batch a row is in.
    logits_BkN = logits_BNk.to(wide).transpose(1, 2).contiguous()
    if mask_BN is None:
        weights_BkN = logits_BkN.softmax(dim=-1)
    elif mask_BN.shape != (batch, tokens):
        raise ValueError(f"the mask is {tuple(mask_BN.shape)}; wanted {(batch, tokens)}")
    else:
        hidden_B1N = ~mask_BN[:, None]
        # A finite number keeps a row without tokens free of NaN; the second fill makes such a row's weights zero.
        lowest = torch.finfo(wide).min
        weights_BkN = logits_BkN.masked_fill(hidden_B1N, lowest).softmax(dim=-1).masked_fill(hidden_B1N, 0.0)
    return torch.bmm(weights_BkN, tokens_BND.to(wide)).to(out_dtype or tokens_BND.dtype)
