"""The text decoder: a Llama-style transformer that reads a question and cross-attends to a video's latents.

RMSNorm (eps 1e-5), rotary positions, grouped-query self-attention, SwiGLU and untied output embedding (Llama 2, arXiv
2307.09288, section 2.2). Each layer's cross-attention sees the latents that the mask allows, and one learned
"nowhere" key beside them, so that a question about something that never happened has a place to look at.

Shapes: B sequences, L text tokens, T snippets, m tokens a snippet, N = T * m latents, D text width, H heads,
E head width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from longtake.operators.model.config import ModelConfig
from longtake.operators.model.latent import rotary_angles, rotate
from longtake.operators.model.layers import MASKED, attend, sinusoid

# The clock of the cross-attention's time slopes: one unit is this many snippets.
SLOPE_SNIPPETS = 16.0
# The features of a clock: from half a dozen snippets a turn to some thousands.
CLOCK_FEATURES, CLOCK_LONGEST = 32, 1000.0


@dataclass(frozen=True, kw_only=True)
class Context:
    """Videos' latents as the cross-attention of every layer reads them: keys and values, computed once.

    V videos serve B = V * G sequences, G questions a video, video-major.
    """

    keys_VHNE: tuple[Tensor, ...]
    values_VHNE: tuple[Tensor, ...]
    # Additive bias [V or B, 1, 1, 1 + N]: hidden latents (outside the asked span) carry a large negative number.
    bias: Tensor

    def with_span(self, span_mask_BT: Tensor, tokens: int) -> Context:
        """The same latents under other span masks, a row for each sequence."""
        return Context(keys_VHNE=self.keys_VHNE, values_VHNE=self.values_VHNE, bias=span_bias(span_mask_BT, tokens))


class CrossAttention(nn.Module):
    """Attention from text to latents, with a learned "nowhere" key and a time slope that the query sets. With a
    `clock`, values carry the time of their snippet."""

    def __init__(self, width: int, source: int, heads: int, clock: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(source, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        head = width // heads
        self.nowhere_key_HE = nn.Parameter(torch.zeros(heads, head))
        self.nowhere_value_HE = nn.Parameter(torch.zeros(heads, head))
        # Keys get (time / SLOPE_SNIPPETS) * slope: a query along it prefers later or earlier snippets.
        self.slope_HE = nn.Parameter(torch.randn(heads, head) * 0.25)
        self.clock = nn.Linear(CLOCK_FEATURES, width, bias=False) if clock else None

    def context(self, latents_BTmD: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the latents of snippets at `positions_T`, "nowhere" first; [B, H, 1 + N, E] each."""
        batch, _, tokens, _ = latents_BTmD.shape
        k, v = self.key_value(latents_BTmD.flatten(1, 2)).chunk(2, dim=-1)
        k, v = (rearrange(x, "b n (h e) -> b h n e", h=self.heads) for x in (k, v))
        time_N = positions_T.repeat_interleave(tokens) / SLOPE_SNIPPETS
        k = k + (time_N[:, None] * self.slope_HE[:, None]).to(k.dtype)
        if self.clock is not None:
            told_TD = self.clock(sinusoid(positions_T, CLOCK_FEATURES, CLOCK_LONGEST).to(v.dtype))
            v = v + rearrange(told_TD.repeat_interleave(tokens, dim=0), "n (h e) -> h n e", h=self.heads)
        first_k = self.nowhere_key_HE[None, :, None].expand(batch, -1, -1, -1).to(k.dtype)
        first_v = self.nowhere_value_HE[None, :, None].expand(batch, -1, -1, -1).to(v.dtype)
        return torch.cat([first_k, k], dim=2), torch.cat([first_v, v], dim=2)

    def forward(
        self, x_BLD: Tensor, keys_VHNE: Tensor, values_VHNE: Tensor, bias: Tensor, want_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from B = V * G sequences, G in a row for each of V videos, without a copy of keys for each.

        `bias` has a row for each video or for each sequence. The weights [B, H, L, 1 + N] in float32 come back where
        they are wanted.
        """
        videos, length = len(keys_VHNE), x_BLD.shape[1]
        q_VHGE = rearrange(self.query(x_BLD), "(v g) l (h e) -> v h (g l) e", v=videos, h=self.heads)
        if len(bias) != videos:
            bias = rearrange(bias.expand(-1, -1, length, -1), "(v g) one l n -> v one (g l) n", v=videos)
        if want_weights:
            logits = (q_VHGE * q_VHGE.shape[-1] ** -0.5 @ keys_VHNE.transpose(-1, -2)).float() + bias.float()
            weights = logits.softmax(dim=-1)
            out = weights.to(values_VHNE.dtype) @ values_VHNE
        else:
            out = attend(q_VHGE, keys_VHNE, values_VHNE, bias)
        out_BLD: Tensor = self.output(rearrange(out, "v h (g l) e -> (v g) l (h e)", l=length))
        if not want_weights:
            return out_BLD, None
        return out_BLD, rearrange(weights, "v h (g l) n -> (v g) h l n", l=length)


class SelfAttention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * kv_heads * self.head_width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x_BLD: Tensor, rotary: tuple[Tensor, Tensor], past: list[Tensor] | None) -> Tensor:
        q = rearrange(self.query(x_BLD), "b l (h e) -> b h l e", h=self.heads)
        k, v = rearrange(self.key_value(x_BLD), "b l (two h e) -> two b h l e", two=2, h=self.kv_heads)
        q, k = rotate(q, rotary), rotate(k, rotary)
        before = 0
        if past is not None:
            if past:
                before = past[0].shape[2]
                k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
            past[:] = [k, v]
        groups = self.heads // self.kv_heads
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        length = q.shape[2]
        bias = None
        if length > 1:
            hidden = torch.ones(length, before + length, dtype=torch.bool, device=q.device).triu(before + 1)
            bias = torch.zeros(hidden.shape, device=q.device).masked_fill(hidden, MASKED)
        out = attend(q, k, v, bias)
        out_BLD: Tensor = self.output(rearrange(out, "b h l e -> b l (h e)"))
        return out_BLD


class SwiGLU(nn.Module):
    """The gated MLP of Llama: down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


class TextLayer(nn.Module):
    """Self-attention, cross-attention to the latents, gated MLP; RMSNorm before each."""

    def __init__(self, width: int, source: int, config: ModelConfig) -> None:
        super().__init__()
        text = config.text
        self.norm_self = nn.RMSNorm(width, eps=1e-5)
        self.self_attention = SelfAttention(width, text.transformer.heads, text.kv_heads)
        self.norm_cross = nn.RMSNorm(width, eps=1e-5)
        self.cross_attention = CrossAttention(width, source, text.transformer.heads, text.clock)
        self.norm_mlp = nn.RMSNorm(width, eps=1e-5)
        self.mlp = SwiGLU(width, int(width * text.transformer.mlp_ratio))


class TextDecoder(nn.Module):
    """Text tokens and latents to next-token logits, and where the last layer looked."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        text = config.text
        width = text.width or config.width
        if width % (2 * text.transformer.heads):
            raise ValueError(f"text width {width} does not divide into {text.transformer.heads} heads of an even width")
        self.config = text
        self.embedding = nn.Embedding(text.vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.norm_latents = nn.RMSNorm(config.width, eps=1e-5)
        self.layers = nn.ModuleList(TextLayer(width, config.width, config) for _ in range(text.transformer.depth))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, text.vocabulary, bias=False)
        # The heads of the last layer whose attention is the evidence: the first half.
        self.evidence_heads = max(1, text.transformer.heads // 2)

    def context(self, latents_BTmD: Tensor, span_mask_BT: Tensor, positions_T: Tensor | None = None) -> Context:
        """Prepare a video's latents for any number of questions.

        Args:
            latents_BTmD: the latent model's output.
            span_mask_BT: bool, the snippets that may be looked at.
            positions_T: the numbers of the snippets that the latent model was given, None: 0, 1, 2, ...
        """
        if positions_T is None:
            positions_T = torch.arange(latents_BTmD.shape[1], device=latents_BTmD.device)
        normed = self.norm_latents(latents_BTmD)
        pairs = [layer.cross_attention.context(normed, positions_T) for layer in self._text_layers()]
        return Context(
            keys_VHNE=tuple(k for k, _ in pairs),
            values_VHNE=tuple(v for _, v in pairs),
            bias=span_bias(span_mask_BT, latents_BTmD.shape[2]),
        )

    def forward(
        self,
        ids_BL: Tensor,
        context: Context,
        past: list[list[Tensor]] | None = None,
        want_weights: bool = False,
        at_BL: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Next-token logits.

        Args:
            ids_BL: int64 token ids; with `past`, the tokens that follow those given before.
            context: of V videos, B a multiple of V.
            past: one list a layer, empty at first: the keys and values of earlier text.
            want_weights: also return the evidence, the last layer's attention averaged over the evidence heads.
            at_BL: bool, the S positions whose logits are wanted: in training the answers', a fifth of the text. What
                follows the last layer's self-attention is not computed of the others. None wants all.
        Returns:
            logits [B, L, V] and, where wanted, float32 weights [B, L, 1 + N], "nowhere" first; with `at_BL` [S, V] and
            [S, 1 + N], in the order of the positions.
        Raises:
            ValueError: the text is longer than the config's context.
        """
        before = past[0][0].shape[2] if past and past[0] else 0
        length = ids_BL.shape[1]
        if before + length > self.config.context:
            raise ValueError(f"the text has {before + length} tokens; the model reads at most {self.config.context}")
        head_width = self._text_layers()[0].self_attention.head_width
        positions = torch.arange(before, before + length, device=ids_BL.device)
        rotary = rotary_angles(positions, head_width, self.config.rope_theta)
        x = self.embedding(ids_BL)
        bias, weights, there_VS = context.bias, None, None
        for number, layer in enumerate(self._text_layers()):
            x = x + layer.self_attention(layer.norm_self(x), rotary, past[number] if past is not None else None)
            last = number == len(self.layers) - 1
            if last and at_BL is not None:
                x, bias, there_VS = picked(x, bias, at_BL, len(context.keys_VHNE[number]))
            cross, weights = layer.cross_attention(
                layer.norm_cross(x),
                context.keys_VHNE[number],
                context.values_VHNE[number],
                bias,
                want_weights and last,
            )
            x = x + cross
            x = x + layer.mlp(layer.norm_mlp(x))
        evidence = weights[:, : self.evidence_heads].mean(dim=1) if weights is not None else None
        if there_VS is not None:
            x, evidence = x[there_VS], evidence[there_VS] if evidence is not None else None
        return self.head(self.norm(x)), evidence

    def _text_layers(self) -> list[TextLayer]:
        return [cast(TextLayer, layer) for layer in self.layers]


def picked(x_BLD: Tensor, bias: Tensor, at_BL: Tensor, videos: int) -> tuple[Tensor, Tensor, Tensor]:
    """Some positions of B = V * G sequences, those of a video in one row, filled up to the longest row's S.

    Returns:
        the positions [V, S, D], their bias (a row each, [V, 1, S, 1 + N], where sequences have their own), and which of
        them are no filling, bool [V, S].
    """
    at_VM = at_BL.reshape(videos, -1)
    longest = int(at_VM.sum(1).max())
    # A stable sort keeps the positions' order.
    place_VS = at_VM.int().argsort(dim=1, descending=True, stable=True)[:, :longest]
    x_VSD = x_BLD.reshape(videos, -1, x_BLD.shape[-1]).gather(1, place_VS[..., None].expand(-1, -1, x_BLD.shape[-1]))
    if len(bias) != videos:
        per_video = bias.view(videos, -1, bias.shape[-1])
        sequence_VS = place_VS // at_BL.shape[1]
        bias = per_video.gather(1, sequence_VS[..., None].expand(-1, -1, bias.shape[-1]))[:, None]
    return x_VSD, bias, at_VM.gather(1, place_VS)


def span_bias(span_mask_BT: Tensor, tokens: int) -> Tensor:
    """The additive bias of a span mask, "nowhere" always visible; float32 [B, 1, 1, 1 + T * tokens]."""
    hidden_BN = ~span_mask_BT.repeat_interleave(tokens, dim=1)
    bias = torch.zeros(hidden_BN.shape, device=hidden_BN.device).masked_fill(hidden_BN, MASKED)
    return F.pad(bias, (1, 0))[:, None, None, :]
