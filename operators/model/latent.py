"""The latent model: autoregressive over snippets, each snippet a chunk of m tokens (Mirasol3B, section 3.3).

Tokens of one snippet see each other and all earlier snippets (chunk-wise causal). The output at snippet t has seen
snippets up to t and predicts snippet t + 1. It does not depend on a question: it is computed once a video.

Shapes: B videos, T snippets, m tokens a snippet, N = T * m, D width, H heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn

from longtake.operators.model.chunk_attention import Attend, chunk_causal_attention
from longtake.operators.model.config import ModelConfig, TransformerConfig
from longtake.operators.model.layers import MLP, sinusoid

# The slow end of the time features: far more snippets than a day of video has at one a second.
LONGEST = 100_000.0


@dataclass
class LatentCache:
    """Keys and values of the snippets so far, for one layer after another; grows by m tokens a snippet."""

    keys_BHNE: list[Tensor] = field(default_factory=list)
    values_BHNE: list[Tensor] = field(default_factory=list)
    snippets: int = 0


class CausalBlock(nn.Module):
    """A pre-norm layer whose attention takes rotary positions (the snippet's number) and earlier keys."""

    def __init__(self, width: int, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_attention = nn.LayerNorm(width, eps=1e-6)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, int(width * config.mlp_ratio))

    def forward(
        self, x_BND: Tensor, rotary: tuple[Tensor, Tensor], attend: Attend, cache: LatentCache | None, layer: int
    ) -> Tensor:
        q, k, v = rearrange(
            self.query_key_value(self.norm_attention(x_BND)), "b n (three h e) -> three b h n e", three=3, h=self.heads
        )
        q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            if len(cache.keys_BHNE) > layer:
                k = torch.cat([cache.keys_BHNE[layer], k], dim=2)
                v = torch.cat([cache.values_BHNE[layer], v], dim=2)
                cache.keys_BHNE[layer], cache.values_BHNE[layer] = k, v
            else:
                cache.keys_BHNE.append(k)
                cache.values_BHNE.append(v)
        out_BHNE = attend(q, k, v)
        x_BND = x_BND + self.output(rearrange(out_BHNE, "b h n e -> b n (h e)"))
        out_BND: Tensor = x_BND + self.mlp(self.norm_mlp(x_BND))
        return out_BND


def rotary_angles(positions_N: Tensor, width: int, theta: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding for real positions; float32 [N, width / 2] each."""
    rates = theta ** (-torch.arange(width // 2, dtype=torch.float32, device=positions_N.device) / (width // 2))
    angles = positions_N.float()[:, None] * rates
    return angles.cos(), angles.sin()


def rotate(x_BHNE: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs (first half, second half) of the head width by the angles (RoPE, arXiv 2104.09864)."""
    cos, sin = (part.to(x_BHNE.dtype) for part in rotary)
    first, second = x_BHNE.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class LatentModel(nn.Module):
    """Tokens of a video's snippets to latents of the same shape, and predictions of the next snippet."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, latent = config.width, config.latent
        if width % (2 * latent.transformer.heads):
            raise ValueError(
                f"width {width} does not divide into {latent.transformer.heads} latent heads of an even width"
            )
        self.tokens = config.combiner.tokens
        self.width = width
        self.head_width = width // latent.transformer.heads
        self.slot_mD = nn.Parameter(torch.randn(self.tokens, width) * 0.02)
        self.time = nn.Linear(width, width, bias=False)
        self.blocks = nn.ModuleList(CausalBlock(width, latent.transformer) for _ in range(latent.transformer.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.next_tokens = nn.Linear(width, width)
        self.next_video = nn.Linear(width, latent.reconstruct_video) if latent.reconstruct_video else None
        self.next_audio = nn.Linear(width, latent.reconstruct_audio) if latent.reconstruct_audio else None

    def forward(
        self,
        tokens_BTmD: Tensor,
        cache: LatentCache | None = None,
        keep_BT: Tensor | None = None,
        positions_T: Tensor | None = None,
    ) -> Tensor:
        """Latents of T snippets, [B, T, m, D].

        Args:
            tokens_BTmD: the combiner's tokens.
            cache: keys of earlier snippets; the T snippets given continue them, and are added.
            keep_BT: bool, False hides a snippet from every other one (random masking in training).
            positions_T: increasing numbers of the snippets where they do not simply follow (in training).
        """
        lanes, snippets = tokens_BTmD.shape[:2]
        first = cache.snippets if cache is not None else 0
        if positions_T is None:
            positions_T = torch.arange(first, first + snippets, device=tokens_BTmD.device)
        time_TD = self.time(sinusoid(positions_T, self.width, LONGEST).to(tokens_BTmD.dtype))
        x_BND = (tokens_BTmD + self.slot_mD + time_TD[:, None]).flatten(1, 2)
        rotary = rotary_angles(positions_T.repeat_interleave(self.tokens), self.head_width)
        attend = chunk_causal_attention(x_BND, first, snippets, self.tokens, keep_BT)
        for layer, block in enumerate(self.blocks):
            x_BND = block(x_BND, rotary, attend, cache, layer)
        if cache is not None:
            cache.snippets += snippets
        latents_BTmD: Tensor = self.norm(x_BND).view(lanes, snippets, self.tokens, -1)
        return latents_BTmD
