"""What is asked in an ablation: batches to train on, and fixed sets of questions to score.

Every variant of a track sees the same batches in the same order, and is scored on the same questions.

Shapes: V videos, T snippets, G questions a video, Q = V * G.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.synthetic.questions import KINDS, Kind, Question, ask, random_span
from longtake.operators.synthetic.script import BEAT_S, Script
from longtake.operators.synthetic.training.batches import tensorize
from longtake.operators.synthetic.training.shapes_task import ScriptPool
from longtake.operators.training.batch_tensors import Questions

# How often each kind is asked in training; "heard" is there because it teaches what sounded when.
SHARES: tuple[tuple[Kind, int], ...] = (
    ("needle", 2), ("bind", 5), ("first", 4), ("last", 4), ("count", 5), ("exists", 5), ("heard", 3)
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How training batches are made: lengths grow from the first of `beats` to the second over half of `steps`.

    Of each video's questions, `captions` describe one beat; of the others, of kinds drawn by `shares`, a share of
    `spans` asks about a part.
    """

    steps: int
    videos: int
    beats: tuple[int, int]
    questions: int
    captions: int = 1
    spans: float = 0.3
    shares: tuple[tuple[Kind, int], ...] = SHARES

    def draw(self, pool: ScriptPool, tokenizer: ChatTokenizer, seed: int, step: int) -> tuple[Tensor, Questions]:
        """The batch of a step: beats of the pool, int64 [V, T], and questions about them."""
        rng = random.Random(f"ablation {seed} {step}")
        low, high = self.beats
        longest = round(low + (high - low) * min(1.0, 2 * (step + 1) / self.steps))
        beats = longest if rng.random() < 0.5 else rng.randint(low, longest)
        chosen = [pool.arrange(rng, beats) for _ in range(self.videos)]
        asked = [question for order in chosen for question in self._questions(rng, pool.script(order))]
        return torch.tensor(chosen), tensorize(asked, beats, tokenizer)

    def _questions(self, rng: random.Random, script: Script) -> list[Question]:
        drawn: list[Question] = []
        while len(drawn) < self.questions:
            if len(drawn) < self.captions:
                beat = rng.randrange(script.beats)
                question = ask(rng, script, "caption", (beat * BEAT_S, (beat + 1) * BEAT_S))
            else:
                kind = rng.choices([kind for kind, _ in self.shares], [share for _, share in self.shares])[0]
                span = random_span(rng, script) if rng.random() < self.spans else None
                question = ask(rng, script, kind, span)
            if question is not None:
                drawn.append(question)
        return drawn


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """Videos of one length and questions about them, the same number for each video, video-major.

    `label` is what a table calls a question's group (its kind); an empty one is padding that nobody counts.
    """

    name: str
    chosen_VT: Tensor
    asked: tuple[Question, ...]
    labels: tuple[str, ...]

    @property
    def snippets(self) -> int:
        """Snippets a video."""
        return self.chosen_VT.shape[1]

    def part(self, first: int, stop: int) -> TestSet:
        """The videos from `first` to `stop` with their questions."""
        each = len(self.asked) // len(self.chosen_VT)
        rows = slice(first * each, stop * each)
        return TestSet(
            name=self.name, chosen_VT=self.chosen_VT[first:stop], asked=self.asked[rows], labels=self.labels[rows]
        )


def question_set(
    name: str,
    pool: ScriptPool,
    orders: Sequence[Sequence[int]],
    per_kind: int,
    spans: float,
    seed: int,
    kinds: Sequence[Kind] = KINDS,
) -> TestSet:
    """`per_kind` questions of each of `kinds` about each video, fewer where a video has too little of a kind."""
    rng = random.Random(f"test {name} {seed}")
    asked: list[Question] = []
    labels: list[str] = []
    for order in orders:
        script = pool.script(order)
        for kind in kinds:
            drawn: list[Question] = []
            for _ in range(30 * per_kind):
                span = random_span(rng, script) if rng.random() < spans else None
                question = ask(rng, script, kind, span)
                if question is not None and question not in drawn:
                    drawn.append(question)
                if len(drawn) == per_kind:
                    break
            missing = per_kind - len(drawn)
            asked += [*drawn, *[_padding(script)] * missing]
            labels += [*[kind] * len(drawn), *[""] * missing]
    return TestSet(name=name, chosen_VT=torch.tensor(orders), asked=tuple(asked), labels=tuple(labels))


def _padding(script: Script) -> Question:
    return Question(kind="exists", text="did the border flash", answer="no", moments=())


def needle_set(name: str, pool: ScriptPool, snippets: int, depth: float, videos: int, seed: int) -> TestSet:
    """One needle a video, at `depth` of its length (0 the first snippet, 1 the last); the rest is without a flash."""
    rng = random.Random(f"needle {snippets} {depth} {seed}")
    place = round(depth * (snippets - 1))
    orders: list[list[int]] = []
    asked: list[Question] = []
    while len(orders) < videos:
        # Half a dozen events beside it, as in the world's own videos, and never a second flash.
        events = [rng.choice(pool.sounding[name]) for name in rng.sample(sorted(pool.sounding), 6)]
        order = [*events, *rng.choices(pool.other, k=snippets - 1 - len(events))]
        rng.shuffle(order)
        order.insert(place, rng.choice(pool.flashing))
        question = ask(rng, pool.script(order), "needle")
        if question is not None:
            orders.append(order)
            asked.append(question)
    return TestSet(name=name, chosen_VT=torch.tensor(orders), asked=tuple(asked), labels=("needle",) * videos)
