"""The training losses (Mirasol3B, section 3.5), and evidence.

Shapes: V videos, T snippets, m tokens, N = T * m, Q questions, L text tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.operators.combiners import Features
from longtake.operators.model import LongTakeModel
from longtake.operators.training.batches import Questions


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much each loss counts."""

    text: float = 1.0
    evidence: float = 0.3
    next_tokens: float = 0.1
    next_features: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The weighted sum, and its parts as plain numbers for the log; `exact` is the share of fully right answers."""

    total: Tensor
    parts: dict[str, float]


def question_losses(
    model: LongTakeModel,
    tokens_VTmD: Tensor,
    questions: Questions,
    weights: LossWeights,
    keep_VT: Tensor | None,
    features: Features | None = None,
) -> Losses:
    """Text, evidence and next-snippet losses of questions about combined tokens; with the encoders' features, also
    the reconstruction of the next snippet's reduced features."""
    latents_VTmD = model.latent_model(tokens_VTmD, keep_BT=keep_VT)
    decoder = model.text_decoder
    span_VT = torch.ones(latents_VTmD.shape[:2], dtype=torch.bool, device=latents_VTmD.device)
    context = decoder.context(latents_VTmD, span_VT).select(questions.video_Q)
    tokens = latents_VTmD.shape[2]
    context = context.with_span(questions.span_QT, tokens)
    logits_QLV, evidence_QLN = decoder(questions.ids_QL[:, :-1], context, want_weights=True)
    assert evidence_QLN is not None
    target_QL, on_QL = questions.ids_QL[:, 1:], questions.answer_QL[:, 1:]
    text = F.cross_entropy(logits_QLV[on_QL].float(), target_QL[on_QL])
    right_Q = ((logits_QLV.argmax(-1) == target_QL) | ~on_QL).all(-1)
    evidence = _evidence_loss(evidence_QLN, questions, tokens)
    next_tokens = next_token_loss(model, latents_VTmD, tokens_VTmD)
    total = weights.text * text + weights.evidence * evidence + weights.next_tokens * next_tokens
    parts = {"text": text.item(), "evidence": evidence.item(), "next_tokens": next_tokens.item()}
    if features is not None:
        next_features = next_feature_loss(model, latents_VTmD, features)
        total = total + weights.next_features * next_features
        parts["next_features"] = next_features.item()
    return Losses(total=total, parts={**parts, "exact": right_Q.float().mean().item()})


def _evidence_loss(evidence_QLN: Tensor, questions: Questions, tokens: int) -> Tensor:
    """Minus the log of the attention on the snippets that prove the answer, or on "nowhere" where none does."""
    wanted_QT = questions.evidence_QT & questions.span_QT
    nowhere_Q1 = ~wanted_QT.any(-1, keepdim=True)
    wanted_QN = torch.cat([nowhere_Q1, wanted_QT.repeat_interleave(tokens, dim=1)], dim=1)
    mass_QL = (evidence_QLN * wanted_QN[:, None]).sum(-1)
    on_QL = questions.content_QL[:, 1:]
    return -(mass_QL[on_QL] + 1e-6).log().mean()


def next_token_loss(model: LongTakeModel, latents_VTmD: Tensor, tokens_VTmD: Tensor) -> Tensor:
    """One minus the cosine between the prediction of the next snippet's tokens and those tokens, whose gradient is
    stopped (else the tokens would collapse to what is easy to predict)."""
    if latents_VTmD.shape[1] < 2:
        return latents_VTmD.new_zeros(())
    predicted = model.latent_model.next_tokens(latents_VTmD[:, :-1])
    return 1 - F.cosine_similarity(predicted.float(), tokens_VTmD[:, 1:].detach().float(), dim=-1).mean()


def next_feature_loss(model: LongTakeModel, latents_VTmD: Tensor, features: Features) -> Tensor:
    """Mean squared error of the next snippet's reduced video and audio features.

    The target is a snippet's encoder features, averaged over its tokens and area-reduced to the head's width,
    normalised, with its gradient stopped.
    """
    lanes, snippets = latents_VTmD.shape[:2]
    loss = latents_VTmD.new_zeros((), dtype=torch.float32)
    if snippets < 2:
        return loss
    summary_VTD = latents_VTmD[:, :-1].mean(2)
    for head, features_SND, mask_SN in (
        (model.latent_model.next_video, features.video_BND, features.video_mask_BN),
        (model.latent_model.next_audio, features.audio_BND, features.audio_mask_BN),
    ):
        if head is None:
            continue
        weight_SN1 = mask_SN[..., None].float()
        mean_SD = (features_SND.detach().float() * weight_SN1).sum(1) / weight_SN1.sum(1).clamp_min(1)
        target_SR = F.adaptive_avg_pool1d(mean_SD[None], head.out_features)[0]
        target_VTR = F.layer_norm(target_SR, target_SR.shape[-1:]).unflatten(0, (lanes, snippets))
        known_VT1 = mask_SN.any(-1).unflatten(0, (lanes, snippets))[:, 1:, None].float()
        error = (head(summary_VTD).float() - target_VTR[:, 1:]) ** 2 * known_VT1
        loss = loss + error.sum() / (known_VT1.sum() * head.out_features).clamp_min(1)
    return loss
