"""Training batches: short made videos as tensors, and questions about them as token ids.

A batch is a pure function of (seed, step), so a resumed run sees the same data.

Shapes: V videos, T snippets a video, Q questions in the batch, L text tokens, F pictures, H rows, W columns, A mel
frames, M mels (for a public sound encoder A are samples and M is 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.synthetic.questions import Question
from longtake.operators.synthetic.script import BEAT_S
from longtake.operators.training.batch_tensors import Questions


def tensorize(asked: Sequence[Question], snippets: int, tokenizer: ChatTokenizer) -> Questions:
    """Questions as padded tensors, in their order."""
    prompts = [tokenizer.prompt(question.text) for question in asked]
    answers = [tokenizer.answer(question.answer) for question in asked]
    length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(asked), length), tokenizer.pad)
    answer = torch.zeros(len(asked), length, dtype=torch.bool)
    content = torch.zeros_like(answer)
    span = torch.ones(len(asked), snippets, dtype=torch.bool)
    evidence = torch.zeros(len(asked), snippets, dtype=torch.bool)
    for row, (p, a) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : len(p) + len(a)] = torch.tensor(p + a)
        answer[row, len(p) : len(p) + len(a)] = True
        content[row, len(p) : len(p) + len(a) - 2] = True
    for row, question in enumerate(asked):
        if question.from_s is not None and question.to_s is not None:
            span[row] = False
            span[row, int(question.from_s / BEAT_S) : int(question.to_s / BEAT_S)] = True
        # What came after is read off the later of its two moments: looking at the earlier one alone is no use.
        moments = question.moments[-1:] if question.kind == "after" else question.moments
        for start, stop in moments:
            evidence[row, int(start / BEAT_S) : int((stop - 1e-6) / BEAT_S) + 1] = True
    return Questions(
        ids_QL=ids,
        answer_QL=answer,
        span_QT=span,
        evidence_QT=evidence,
        content_QL=content,
    )
