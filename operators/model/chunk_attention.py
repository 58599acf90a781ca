"""Chunk-wise causal attention: a token sees its own snippet and all earlier ones (Mirasol3B, section 3.3).

On a GPU a whole pass runs through PyTorch's FlexAttention, which skips the blocks that nobody may see and never holds
the mask; elsewhere, and for snippets that continue a cache, the mask is an additive bias.

Shapes: B videos, T snippets, m tokens a snippet, N = T * m queries, S keys, H heads, E head width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longtake.operators.model.layers import MASKED, attend

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128  # FlexAttention's own block of queries and keys

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def chunk_causal_attention(x: Tensor, first: int, snippets: int, tokens: int, keep_BT: Tensor | None) -> Attend:
    """The attention of `snippets` snippets of `tokens` tokens that follow `first` earlier ones in a cache.

    Args:
        x: any tensor of the model: its device and dtype are what the attention is for.
        keep_BT: bool, False hides a snippet from every other one.
    Returns:
        a call for q [B, H, N, E] with k and v [B, H, S, E] of all snippets so far; every layer uses the same one.
    """
    if x.is_cuda and not first:
        blocks = block_mask(snippets, tokens, keep_BT, x.device)
        return lambda q, k, v: _compiled_flex()(q, k, v, block_mask=blocks)
    bias = chunk_causal_bias(first, snippets, tokens, keep_BT, x)
    return lambda q, k, v: attend(q, k, v, bias)


def chunk_causal_bias(first: int, snippets: int, tokens: int, keep_BT: Tensor | None, x: Tensor) -> Tensor:
    """The mask as an additive bias in the dtype of `x`, [B or 1, 1, T * m, (first + T) * m]."""
    query_T = torch.arange(first, first + snippets, device=x.device)
    key_S = torch.arange(first + snippets, device=x.device)
    visible = (key_S[None, :] <= query_T[:, None])[None]
    if keep_BT is not None:
        own = key_S[None, :] == query_T[:, None]
        visible = visible & (keep_BT[:, None, :] | own)
    visible = visible.repeat_interleave(tokens, dim=1).repeat_interleave(tokens, dim=2)
    return torch.zeros_like(visible, dtype=x.dtype).masked_fill(~visible, MASKED)[:, None]


def block_mask(snippets: int, tokens: int, keep_BT: Tensor | None, device: torch.device) -> BlockMask:
    """The mask as FlexAttention's blocks, from arithmetic alone: the dense mask of a long video would not fit."""
    from torch.nn.attention.flex_attention import BlockMask

    length = snippets * tokens
    rows = torch.arange(-(-length // BLOCK), device=device)
    seen_by_all = (rows * BLOCK // tokens + 1) * tokens  # keys that the first query of a block of queries may see
    seen_by_one = (((rows + 1) * BLOCK - 1).clamp(max=length - 1) // tokens + 1) * tokens  # and the last one
    full = seen_by_all // BLOCK if keep_BT is None else torch.zeros_like(rows)
    partial = -(-seen_by_one // BLOCK) - full
    order = rows.expand(len(rows), -1)

    def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        earlier = key // tokens <= query // tokens
        if keep_BT is None:
            return earlier
        return earlier & (keep_BT[b, key // tokens] | (key // tokens == query // tokens))

    blocks: BlockMask = BlockMask.from_kv_blocks(
        partial.int()[None, None],
        (order + full[:, None]).clamp(max=len(rows) - 1).int()[None, None],
        full.int()[None, None],
        order.int()[None, None].contiguous(),
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=(length, length),
    )
    return blocks


@functools.cache
def _compiled_flex() -> Any:
    """FlexAttention is a kernel only when it is compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
