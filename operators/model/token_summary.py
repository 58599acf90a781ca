"""The token summary with its learned importance (Token Turing Machines, arXiv 2211.09119, section 3.1).

Shapes: B batch, N tokens of all sources together, k summary tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from longtake.kernels.token_summary.op import token_summary


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

    def forward(
        self,
        sources: Sequence[Tensor],
        masks: Sequence[Tensor | None] | None = None,
        position_ND: Tensor | None = None,
        out_dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Summarise the tokens of up to three sources to [B, k, D].

        Args:
            sources: each [B, N_i, D]; their dtypes may differ.
            masks: for each source None, or bool [B, N_i]: tokens that are False take no part.
            position_ND: added to the tokens of all sources, in their order, and so part of what is mixed.
            out_dtype: by default the promotion of the sources' dtypes.
        """
        return token_summary(
            sources,
            [None] * len(sources) if masks is None else masks,
            self.norm.weight,
            self.norm.bias,
            self.up.weight,
            self.up.bias,
            self.down.weight,
            self.down.bias,
            position_ND,
            eps=self.norm.eps,
            out_dtype=out_dtype,
        )
