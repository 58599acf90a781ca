"""The training losses (Mirasol3B, section 3.5), and evidence.

Shapes: V videos, T snippets, m tokens, N = T * m, Q questions, L text tokens, S of them of answers, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.operators.model.model import LongTakeModel
from longtake.operators.training.batch_tensors import Questions


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much each loss counts."""

    text: float = 1.0
    evidence: float = 0.3
    next_tokens: float = 0.1
    next_features: float = 0.1
    recall: float = 0.0


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
    next_features: tuple[Tensor, Tensor] | None,
    positions_T: Tensor | None = None,
    there_VT: Tensor | None = None,
    asked_Q: Tensor | None = None,
    recall: Callable[[Tensor], tuple[Tensor, dict[str, float]]] | None = None,
) -> Losses:
    """Text, evidence and next-snippet losses of questions about combined tokens.

    Args:
        next_features: every snippet's reduced video and audio features, [V, T, R] each; None learns nothing of them.
        positions_T: the snippets' numbers; None says 0, 1, 2, ...
        there_VT: bool, False on snippets that only fill a video up to the others' length; None says that all are.
        asked_Q: bool, False on questions that do not count; None says that all do.
        recall: a further loss of the latents [V, T, m, D], and figures for the log; not asked where it has no weight.
    """
    latents_VTmD = model.latent_model(tokens_VTmD, keep_BT=keep_VT, positions_T=positions_T)
    decoder = model.text_decoder
    span_VT = torch.ones(latents_VTmD.shape[:2], dtype=torch.bool, device=latents_VTmD.device)
    context = decoder.context(latents_VTmD, span_VT, positions_T)
    tokens = latents_VTmD.shape[2]
    context = context.with_span(questions.span_QT, tokens)
    target_QL, on_QL = questions.ids_QL[:, 1:], questions.answer_QL[:, 1:]
    logits_SV, evidence_SN = decoder(questions.ids_QL[:, :-1], context, want_weights=True, at_BL=on_QL)
    assert evidence_SN is not None
    text = F.cross_entropy(logits_SV.float(), target_QL[on_QL])
    right_Q = rightly_answered(logits_SV, target_QL, on_QL)
    right_Q = right_Q if asked_Q is None else right_Q[asked_Q]
    evidence = _evidence_loss(evidence_SN, questions, tokens)
    total = weights.text * text + weights.evidence * evidence
    parts = {"text": text.item(), "evidence": evidence.item(), "exact": right_Q.float().mean().item()}
    if recall is not None and weights.recall:
        recalled, figures = recall(latents_VTmD)
        total = total + weights.recall * recalled
        parts |= {"recall": recalled.item(), **figures}
    return _with_next(
        Losses(total=total, parts=parts), model, latents_VTmD, tokens_VTmD, weights, next_features, there_VT
    )


def reconstruction_losses(
    model: LongTakeModel,
    tokens_VTmD: Tensor,
    weights: LossWeights,
    keep_VT: Tensor | None,
    next_features: tuple[Tensor, Tensor] | None,
    there_VT: Tensor | None = None,
) -> Losses:
    """The next-snippet losses alone, where nothing is asked; the arguments are those of `question_losses`."""
    latents_VTmD = model.latent_model(tokens_VTmD, keep_BT=keep_VT)
    nothing = Losses(total=latents_VTmD.new_zeros((), dtype=torch.float32), parts={})
    return _with_next(nothing, model, latents_VTmD, tokens_VTmD, weights, next_features, there_VT)


def _with_next(
    losses: Losses,
    model: LongTakeModel,
    latents_VTmD: Tensor,
    tokens_VTmD: Tensor,
    weights: LossWeights,
    next_features: tuple[Tensor, Tensor] | None,
    there_VT: Tensor | None,
) -> Losses:
    next_tokens = next_token_loss(model, latents_VTmD, tokens_VTmD, there_VT)
    total = losses.total + weights.next_tokens * next_tokens
    parts = {**losses.parts, "next_tokens": next_tokens.item()}
    if next_features is not None:
        reconstruction = next_feature_loss(model, latents_VTmD, *next_features, there_VT)
        total = total + weights.next_features * reconstruction
        parts["next_features"] = reconstruction.item()
    return Losses(total=total, parts=parts)


def rightly_answered(logits_SV: Tensor, target_QL: Tensor, on_QL: Tensor) -> Tensor:
    """Which questions have the likeliest token at every token of their answers, as greedy decoding would: bool [Q].

    `logits_SV` are those of the S tokens that are True in `on_QL`, in their order.
    """
    right_QL = torch.ones_like(on_QL)
    right_QL[on_QL] = logits_SV.argmax(-1) == target_QL[on_QL]
    return right_QL.all(-1)


def _evidence_loss(evidence_SN: Tensor, questions: Questions, tokens: int) -> Tensor:
    """Minus the log of the attention on the snippets that prove the answer, or on "nowhere" where none does.

    `evidence_SN` is that of the answers' S tokens, in the order of `questions.answer_QL[:, 1:]`.
    """
    wanted_QT = questions.evidence_QT & questions.span_QT
    nowhere_Q1 = ~wanted_QT.any(-1, keepdim=True)
    wanted_QN = torch.cat([nowhere_Q1, wanted_QT.repeat_interleave(tokens, dim=1)], dim=1)
    question_S = questions.answer_QL[:, 1:].nonzero()[:, 0]
    mass_S = (evidence_SN * wanted_QN[question_S]).sum(-1)
    on_S = questions.content_QL[:, 1:][questions.answer_QL[:, 1:]]
    if not bool(on_S.any()):
        # No question's evidence is known.
        return mass_S.new_zeros(())
    return -(mass_S[on_S] + 1e-6).log().mean()


def next_token_loss(
    model: LongTakeModel, latents_VTmD: Tensor, tokens_VTmD: Tensor, there_VT: Tensor | None = None
) -> Tensor:
    """One minus the cosine between the prediction of the next snippet's tokens and those tokens, whose gradient is
    stopped (else the tokens would collapse to what is easy to predict)."""
    if latents_VTmD.shape[1] < 2:
        return latents_VTmD.new_zeros(())
    predicted = model.latent_model.next_tokens(latents_VTmD[:, :-1])
    near_VTm = F.cosine_similarity(predicted.float(), tokens_VTmD[:, 1:].detach().float(), dim=-1)
    return 1 - (near_VTm if there_VT is None else near_VTm[there_VT[:, 1:]]).mean()


def next_feature_loss(
    model: LongTakeModel, latents_VTmD: Tensor, video_VTR: Tensor, audio_VTR: Tensor, there_VT: Tensor | None = None
) -> Tensor:
    """Mean squared error of the predictions of the next snippet's reduced video and audio features."""
    loss = latents_VTmD.new_zeros((), dtype=torch.float32)
    if latents_VTmD.shape[1] < 2:
        return loss
    summary_VTD = latents_VTmD[:, :-1].mean(2)
    heads = model.latent_model.next_video, model.latent_model.next_audio
    for head, target_VTR in zip(heads, (video_VTR, audio_VTR), strict=True):
        if head is not None:
            predicted_VTR, wanted_VTR = head(summary_VTD).float(), target_VTR[:, 1:].float()
            if there_VT is not None:
                predicted_VTR, wanted_VTR = predicted_VTR[there_VT[:, 1:]], wanted_VTR[there_VT[:, 1:]]
            loss = loss + F.mse_loss(predicted_VTR, wanted_VTR)
    return loss


def reduced(features_SND: Tensor, mask_SN: Tensor, width: int) -> Tensor:
    """A snippet's features at reduced size: averaged over its tokens, area-reduced to `width`, normalised; [S, width].

    Snippets without the modality give zeros, the mean of all others.
    """
    if width == 0:
        return features_SND.new_zeros(len(features_SND), 0, dtype=torch.float32)
    weight_SN1 = mask_SN[..., None].float()
    mean_SD = (features_SND.float() * weight_SN1).sum(1) / weight_SN1.sum(1).clamp_min(1)
    reduced_SR = F.layer_norm(F.adaptive_avg_pool1d(mean_SD[None], width)[0], (width,))
    return reduced_SR * mask_SN.any(1, keepdim=True)
