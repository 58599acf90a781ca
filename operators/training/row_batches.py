"""Batches of rows: which stretches of which videos a step sees, and what is asked about each.

A batch is a pure function of (seed, step), so a resumed run sees the same data. An epoch sees every row once.

Shapes: V stretches, T snippets of the longest one, G rows a stretch, Q = V * G questions, L text tokens.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.training.batch_tensors import Questions
from longtake.operators.training.rows import Places, Row

# Stretches of similar length go together: an epoch's are sorted within groups of so many batches.
SORTED_BATCHES = 16


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Snippets [first, stop) of a video, read as if they were one, and the rows about them (which may be none)."""

    video: int
    first: int
    stop: int
    rows: tuple[Row, ...]

    @property
    def snippets(self) -> int:
        """How many."""
        return self.stop - self.first


@dataclass(kw_only=True)
class RowBatch:
    """A step's stretches and its questions, as many for each stretch (stretch-major).

    Where a stretch has fewer rows than another, its last one fills up; nothing is learned from those.
    """

    stretches: tuple[Stretch, ...]
    there_VT: Tensor  # bool, False past a stretch's end
    questions: Questions | None  # None where there are no rows
    asked_Q: Tensor | None  # bool, False where a row only fills up


class RowBatches:
    """The batches of a stage, `epochs` times over all rows.

    Args:
        rows: what is learned from.
        lengths: how many snippets each video has.
        most: the longest stretch. A longer video is read in part: a random stretch that holds the row's span, or
            where the span is longer too, a random part of the span.
        batch: stretches a step.
        together: how many rows of one video that is read as a whole share a stretch.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        lengths: Sequence[int],
        *,
        most: int,
        batch: int,
        together: int,
        epochs: int,
        seed: int,
        name: str,
    ) -> None:
        self.rows, self.lengths = tuple(rows), tuple(lengths)
        self.most, self.batch, self.together = most, batch, together
        self.name, self.seed = name, seed
        self._epoch: tuple[int, list[list[Stretch]]] | None = None
        self.a_epoch = len(self._draw(0))
        self.steps = epochs * self.a_epoch

    def __getitem__(self, step: int) -> list[Stretch]:
        """The stretches of a step.

        Raises:
            IndexError: there is no such step.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        epoch, place = divmod(step, self.a_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._draw(epoch))
        return self._epoch[1][place]

    def _draw(self, epoch: int) -> list[list[Stretch]]:
        rng = random.Random(f"{self.name} {self.seed} {epoch}")
        stretches = self._stretches(rng)
        rng.shuffle(stretches)
        group = self.batch * SORTED_BATCHES
        batches: list[list[Stretch]] = []
        for start in range(0, len(stretches), group):
            near = sorted(stretches[start : start + group], key=lambda one: one.snippets)
            batches += [near[n : n + self.batch] for n in range(0, len(near), self.batch)]
        rng.shuffle(batches)
        return batches

    def _stretches(self, rng: random.Random) -> list[Stretch]:
        made: list[Stretch] = []
        whole: dict[int, list[Row]] = defaultdict(list)
        for row in self.rows:
            if self.together > 1 and self.lengths[row.video] <= self.most:
                whole[row.video].append(row)
            else:
                made.append(self._around(rng, row))
        for video, rows in whole.items():
            rng.shuffle(rows)
            for start in range(0, len(rows), self.together):
                few = tuple(rows[start : start + self.together])
                made.append(Stretch(video=video, first=0, stop=self.lengths[video], rows=few))
        return made

    def _around(self, rng: random.Random, row: Row) -> Stretch:
        """A random stretch of at most `most` snippets that holds a row's span, or as much of it as goes in."""
        length = self.lengths[row.video]
        size = min(self.most, length)
        low, high = row.span
        if row.snippets >= size:
            first = rng.randint(low, high - size)
        else:
            first = rng.randint(max(0, high - size), min(low, length - size))
        return Stretch(video=row.video, first=first, stop=first + size, rows=(row,))


class RandomStretches:
    """Stretches of random videos without rows, for steps that only reconstruct; longer videos come more often.

    `epochs` says how often they cover all videos once, on the average.
    """

    def __init__(self, lengths: Sequence[int], *, most: int, batch: int, epochs: int, seed: int, name: str) -> None:
        self.lengths, self.most, self.batch = tuple(lengths), most, batch
        self.seed, self.name = seed, name
        self.a_epoch = -(-sum(-(-length // most) for length in lengths) // batch)
        self.steps = epochs * self.a_epoch

    def __getitem__(self, step: int) -> list[Stretch]:
        """The stretches of a step."""
        rng = random.Random(f"{self.name} {self.seed} {step}")
        made = []
        for video in rng.choices(range(len(self.lengths)), self.lengths, k=self.batch):
            size = min(self.most, self.lengths[video])
            first = rng.randint(0, self.lengths[video] - size)
            made.append(Stretch(video=video, first=first, stop=first + size, rows=()))
        return made


def tensorize_rows(stretches: Sequence[Stretch], tokenizer: ChatTokenizer) -> RowBatch:
    """A batch as tensors. Words that the tokenizer lacks are read, and never learned as an answer.

    Raises:
        ValueError: some stretches have rows and others none.
    """
    longest = max(one.snippets for one in stretches)
    there = torch.tensor([[place < one.snippets for place in range(longest)] for one in stretches])
    most = max(len(one.rows) for one in stretches)
    if most == 0:
        return RowBatch(stretches=tuple(stretches), there_VT=there, questions=None, asked_Q=None)
    if not all(one.rows for one in stretches):
        raise ValueError("some stretches have rows and others none")
    asked: list[tuple[Stretch, Row, bool]] = []
    for one in stretches:
        filled = [*one.rows, *[one.rows[-1]] * (most - len(one.rows))]
        asked += [(one, row, number < len(one.rows)) for number, row in enumerate(filled)]
    prompts = [tokenizer.prompt(row.question) for _, row, _ in asked]
    answers = [tokenizer.answer(row.answer) for _, row, _ in asked]
    length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(asked), length), tokenizer.pad)
    answer = torch.zeros(len(asked), length, dtype=torch.bool)
    content = torch.zeros_like(answer)
    span = torch.zeros(len(asked), longest, dtype=torch.bool)
    evidence = torch.zeros_like(span)
    for number, ((one, row, real), p, a) in enumerate(zip(asked, prompts, answers, strict=True)):
        ids[number, : len(p) + len(a)] = torch.tensor(p + a)
        span[number, _within(row.span, one)] = True
        if not real:
            continue
        learned = torch.tensor([token != tokenizer.unknown for token in a])
        answer[number, len(p) : len(p) + len(a)] = learned
        if row.evidence is not None:
            content[number, len(p) : len(p) + len(a) - 2] = learned[:-2]
            for places in row.evidence:
                evidence[number, _within(places, one)] = True
    questions = Questions(ids_QL=ids, answer_QL=answer, span_QT=span, evidence_QT=evidence, content_QL=content)
    asked_Q = torch.tensor([real for _, _, real in asked])
    return RowBatch(stretches=tuple(stretches), there_VT=there, questions=questions, asked_Q=asked_Q)


def _within(places: Places, stretch: Stretch) -> slice:
    """Snippets of a video as places in a stretch of it, as far as they lie there."""
    first, stop = max(places[0], stretch.first), min(places[1], stretch.stop)
    return slice(first - stretch.first, max(first, stop) - stretch.first)


def moved(questions: Questions, device: torch.device) -> Questions:
    """The same on a device."""
    return replace(questions, **{name: value.to(device) for name, value in vars(questions).items()})
