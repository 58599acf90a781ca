"""Decoding answers: greedy, temperature and top-p sampling, and the likelihood of given choices.

Shapes: B sequences, L text tokens, V vocabulary, N latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.text import Context, TextDecoder


@dataclass(frozen=True, kw_only=True)
class Generated:
    """One decoded answer: its ids without the markers, the probability of those ids and the end marker after them
    (at temperature 1), and the evidence averaged over the positions that the answer's words were read at."""

    ids: tuple[int, ...]
    log_probability: float
    evidence_N: Tensor


def top_p(logits_BV: Tensor, share: float) -> Tensor:
    """Logits with everything outside the smallest set of tokens that holds `share` of the probability at -inf; the
    likeliest token always stays."""
    ordered_BV, order_BV = logits_BV.sort(dim=-1, descending=True)
    before_BV = ordered_BV.softmax(-1).cumsum(-1) - ordered_BV.softmax(-1)
    past_BV = (before_BV >= share) & (before_BV > 0)
    drop_BV = torch.zeros_like(past_BV).scatter(-1, order_BV, past_BV)
    return logits_BV.masked_fill(drop_BV, float("-inf"))


def generate(
    decoder: TextDecoder,
    tokenizer: ChatTokenizer,
    question: str,
    context: Context,
    *,
    count: int = 1,
    temperature: float = 0.0,
    share: float = 1.0,
    generator: torch.Generator | None = None,
    limit: int = 24,
) -> list[Generated]:
    """Decode `count` answers to one question, each until its end marker or `limit` tokens.

    Args:
        context: the video's latents, one row.
        temperature: 0 takes the likeliest token each time.
        share: top-p, the share of probability to sample from.
    Raises:
        ValueError: the question is longer than the model reads.
    """
    prompt = tokenizer.prompt(question)
    room = decoder.config.context - len(prompt)
    if room < 1:
        raise ValueError(f"the question has {len(prompt)} tokens; the model reads at most {decoder.config.context - 1}")
    device = context.bias.device
    past: list[list[Tensor]] = [[] for _ in decoder.layers]
    ids_BL = torch.tensor([prompt] * count, device=device)
    chosen: list[list[int]] = [[] for _ in range(count)]
    scores = [0.0] * count
    evidence: list[list[Tensor]] = [[] for _ in range(count)]
    open_rows = set(range(count))
    banned = [tokenizer.pad, tokenizer.unknown, tokenizer.start]
    for _ in range(min(limit, room)):
        logits_BLV, evidence_BLN = decoder(ids_BL, context, past, want_weights=True)
        assert evidence_BLN is not None
        logits_BV = logits_BLV[:, -1].float()
        # The model's own words only: rows of the embedding that no token uses are never an answer.
        logits_BV[:, len(tokenizer) :] = float("-inf")
        logits_BV[:, banned] = float("-inf")
        log_BV = logits_BV.log_softmax(-1)
        if temperature > 0:
            sharpened_BV = top_p(logits_BV / temperature, share)
            picks_B = torch.multinomial(sharpened_BV.softmax(-1), 1, generator=generator)[:, 0]
        else:
            picks_B = logits_BV.argmax(-1)
        for row in sorted(open_rows):
            pick = int(picks_B[row])
            scores[row] += float(log_BV[row, pick])
            if pick == tokenizer.end:
                open_rows.discard(row)
                if not evidence[row]:
                    evidence[row].append(evidence_BLN[row, -1])
            else:
                chosen[row].append(pick)
                evidence[row].append(evidence_BLN[row, -1])
        if not open_rows:
            break
        ids_BL = picks_B[:, None]
    return [
        Generated(ids=tuple(ids), log_probability=score, evidence_N=torch.stack(seen).mean(0))
        for ids, score, seen in zip(chosen, scores, evidence, strict=True)
    ]


def score_choices(
    decoder: TextDecoder, tokenizer: ChatTokenizer, question: str, context: Context, choices: Sequence[str]
) -> list[Generated]:
    """The log-likelihood of each choice as the whole answer, its end marker included.

    Raises:
        ValueError: no choice, or question and choice are longer than the model reads.
    """
    if not choices:
        raise ValueError("no choice to score")
    prompt = tokenizer.prompt(question)
    answers = [[*tokenizer.text(choice), tokenizer.end] for choice in choices]
    length = len(prompt) + max(map(len, answers))
    device = context.bias.device
    ids_BL = torch.full((len(choices), length), tokenizer.pad, device=device)
    for row, answer in enumerate(answers):
        ids_BL[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer, device=device)
    logits_BLV, evidence_BLN = decoder(ids_BL[:, :-1], context, want_weights=True)
    assert evidence_BLN is not None
    log_BLV = logits_BLV.float().log_softmax(-1)
    scored = []
    for row, answer in enumerate(answers):
        places = torch.arange(len(prompt) - 1, len(prompt) - 1 + len(answer), device=device)
        words = torch.tensor(answer, device=device)
        evidence_N = evidence_BLN[row, places[: max(1, len(answer) - 1)]].mean(0)
        scored.append(
            Generated(
                ids=tuple(answer[:-1]), log_probability=float(log_BLV[row, places, words].sum()), evidence_N=evidence_N
            )
        )
    return scored
