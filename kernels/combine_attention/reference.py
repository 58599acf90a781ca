"""The definition of combine_attention: a few queries attend to several separate sources of keys and values.

It is the last layer of the transformer combiner (Mirasol3B, arXiv 2311.05698, section 3.2), where only the outputs of
the m learned tokens are needed, and attention pooling.

Shapes: B batch, m queries, N keys of a source, S keys of all sources, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def combine_attention(
    q_BmHE: Tensor, sources: Sequence[Tensor], masks: Sequence[Tensor | None], scale: float
) -> Tensor:
    """The softmax attention of `op.combine_attention`, over the concatenated sources; [B, m, H, E]."""
    batch = max(x.shape[0] for x in (q_BmHE, *sources))
    parts = [source.expand(batch, -1, -1, -1, -1) for source in sources]
    kv_BS2HE = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    k_BHSE, v_BHSE = kv_BS2HE.permute(2, 0, 3, 1, 4).unbind(0)
    logits_BHmS = (q_BmHE.transpose(1, 2) * scale) @ k_BHSE.transpose(-1, -2)
    if all(mask is None for mask in masks):
        out_BHmE = logits_BHmS.softmax(dim=-1, dtype=logits_BHmS.dtype) @ v_BHSE
        return out_BHmE.transpose(1, 2)
    seen = [
        torch.ones(batch, source.shape[1], dtype=torch.bool, device=source.device)
        if mask is None
        else mask.expand(batch, -1)
        for source, mask in zip(sources, masks, strict=True)
    ]
    mask_B11S = torch.cat(seen, dim=1)[:, None, None]
    # A finite number keeps a row without keys free of NaN; the second fill makes such a row's result zero.
    logits_BHmS = logits_BHmS.masked_fill(~mask_B11S, torch.finfo(logits_BHmS.dtype).min)
    out_BHmE = logits_BHmS.softmax(dim=-1, dtype=logits_BHmS.dtype) @ v_BHSE
    return out_BHmE.masked_fill(~mask_B11S.any(dim=-1, keepdim=True), 0.0).transpose(1, 2)
