"""Transformer parts that the encoders, the combiners and the latent model share.

Shapes: B batch, N queries, S keys, m a few queries, D width, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from longtake.kernels.combine_attention.op import combine_attention
from longtake.operators.model.config import TransformerConfig

# Added to the logits of keys that a query must not see. Finite, so that a row with no visible key gives a mean and
# not NaN; such rows belong to padding and are never read.
MASKED = -1e9


def key_bias(mask_BS: Tensor, dtype: torch.dtype) -> Tensor:
    """An additive attention bias from a key mask (True = visible); [B, 1, 1, S]."""
    return torch.zeros_like(mask_BS, dtype=dtype).masked_fill(~mask_BS, MASKED)[:, None, None, :]


def attend(q_BHNE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax attention; `bias` broadcasts to [B, H, N, S]."""
    if q_BHNE.is_cuda:
        bias = bias.to(q_BHNE.dtype) if bias is not None else None
        return F.scaled_dot_product_attention(q_BHNE, k_BHSE, v_BHSE, attn_mask=bias)
    # On a CPU plain products train several times faster than the fused call at a snippet's hundred tokens.
    logits_BHNS = (q_BHNE * q_BHNE.shape[-1] ** -0.5) @ k_BHSE.transpose(-1, -2)
    if bias is not None:
        logits_BHNS = logits_BHNS + bias.to(logits_BHNS.dtype)
    out_BHNE: Tensor = logits_BHNS.softmax(dim=-1, dtype=logits_BHNS.dtype) @ v_BHSE
    return out_BHNE


class Attention(nn.Module):
    """Multi-head attention with biased projections: of a sequence to itself, or of a few tokens to some sources."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x_BND: Tensor, bias: Tensor | None = None) -> Tensor:
        """Self-attention; `bias` broadcasts to [B, H, N, N]."""
        q_BHNE = self.split(self.query(x_BND))
        k_BND, v_BND = self.key_value(x_BND).chunk(2, dim=-1)
        out_BHNE = attend(q_BHNE, self.split(k_BND), self.split(v_BND), bias)
        out_BND: Tensor = self.output(out_BHNE.transpose(1, 2).flatten(2))
        return out_BND

    def read(self, x_BmD: Tensor, sources: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        """Attend from `x_BmD` to all tokens of some sources [B, S, D] where their masks [B, S] are True.

        A batch of 1 stands for one that is the same for every B. Where every key is masked attention gives zeros.
        """
        q_BmHE = rearrange(self.query(x_BmD), "b m (h e) -> b m h e", h=self.heads)
        key_values = [
            rearrange(self.key_value(source), "b s (two h e) -> b s two h e", two=2, h=self.heads) for source in sources
        ]
        out_BmD: Tensor = self.output(combine_attention(q_BmHE, key_values, masks).flatten(2))
        return out_BmD

    def split(self, x_BND: Tensor) -> Tensor:
        """[B, N, D] to [B, H, N, E]."""
        return rearrange(x_BND, "b n (h e) -> b h n e", h=self.heads)


class MLP(nn.Module):
    """Two dense layers with a tanh GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))
        return out


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, config: TransformerConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, config.heads)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, int(width * config.mlp_ratio))

    def forward(self, x_BND: Tensor, bias: Tensor | None = None) -> Tensor:
        x_BND = x_BND + self.attention(self.norm_attention(x_BND), bias=bias)
        out_BND: Tensor = x_BND + self.mlp(self.norm_mlp(x_BND))
        return out_BND

    def read(self, x_BmD: Tensor, sources: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        """The layer's outputs for `x_BmD` alone, whose keys are the tokens of all sources (its own only as one)."""
        normed = [self.norm_attention(source) for source in sources]
        x_BmD = x_BmD + self.attention.read(self.norm_attention(x_BmD), normed, masks)
        out_BmD: Tensor = x_BmD + self.mlp(self.norm_mlp(x_BmD))
        return out_BmD


class Transformer(nn.Module):
    """`depth` blocks and a final LayerNorm."""

    def __init__(self, width: int, config: TransformerConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x_BND: Tensor, bias: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x_BND = block(x_BND, bias)
        out_BND: Tensor = self.norm(x_BND)
        return out_BND


def sinusoid(positions: Tensor, width: int, longest: float = 10_000.0) -> Tensor:
    """Fixed sin/cos features of real-valued positions: [...] to float32 [..., width] (width even)."""
    if width % 2:
        raise ValueError(f"sinusoidal features need an even width, not {width}")
    half = width // 2
    rates = longest ** (-torch.arange(half, dtype=torch.float32, device=positions.device) / half)
    angles = positions.float()[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
