"""What a run on rows does, and what it learns from: its stages' plans, rows, videos, and the batches of each stage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from longtake.errors import InputError
from longtake.operators.training.losses import LossWeights
from longtake.operators.training.row_batches import RandomStretches, RowBatches
from longtake.operators.training.rows import Row
from longtake.operators.training.snippet_store import SnippetStore

ENCODERS = ("video_encoder", "audio_encoder", "combiner")
PARTS = (*ENCODERS, "latent_model", "text_decoder")
LEAST_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage: how often it sees its rows (None: ten times, or as often as gives a thousand steps), stretches a
    step, the longest stretch in snippets, rows that share one, the peak learning rate, and what each loss counts."""

    epochs: int | None
    batch: int
    most: int
    together: int
    rate: float
    weights: LossWeights


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """What a run on rows does; `frozen` parts learn in no stage, encoders and combiner in stage `questions` only with
    `train_encoders`.

    Raises:
        InputError: no stage has any epoch, or one of them trains nothing.
    """

    seed: int = 0
    snippets: StagePlan = field(
        default_factory=lambda: StagePlan(
            epochs=None,
            batch=8,
            most=8,
            together=1,
            rate=1.5e-3,
            weights=LossWeights(text=1.0, evidence=0.0, next_tokens=1.0, next_features=1.0),
        )
    )
    questions: StagePlan = field(
        default_factory=lambda: StagePlan(
            epochs=None,
            batch=8,
            most=512,
            together=8,
            rate=1.5e-3,
            weights=LossWeights(text=1.0, evidence=0.3, next_tokens=0.1, next_features=0.1),
        )
    )
    frozen: tuple[str, ...] = ()
    train_encoders: bool = False
    weight_decay: float = 0.03
    keep: float = 0.9  # share of snippets that random masking leaves visible to others

    def __post_init__(self) -> None:
        if not self.stages():
            raise InputError("both stages have 0 epochs: there is nothing to do")
        for stage in self.stages():
            if not self.learns(stage):
                raise InputError(f"stage {stage}: every part is frozen, nothing is left to train")

    def stages(self) -> tuple[str, ...]:
        """The stages that have any epoch."""
        plans = {"snippets": self.snippets, "questions": self.questions}
        return tuple(name for name, plan in plans.items() if plan.epochs != 0)

    def learns(self, stage: str) -> tuple[str, ...]:
        """The parts that a stage trains."""
        fixed = {*self.frozen, *(ENCODERS if stage == "questions" and not self.train_encoders else ())}
        return tuple(part for part in PARTS if part not in fixed)

    def reads_tokens(self, stage: str) -> bool:
        """Whether a stage reads tokens that are encoded once, since nothing that makes them learns."""
        return not set(ENCODERS) & set(self.learns(stage))


class TokenSource(Protocol):
    """Where a video's tokens come from once they do not change any more."""

    def tokens(self, video: int) -> Tensor:
        """All tokens of a video, by its number; float32 [T, m, D]."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Rows, and the videos that they number.

    Args:
        lengths: how many snippets each video has. snippet_s: how long one lasts.
        names: of the videos in `store`, which is there where some stage reads decoded snippets.
        captions: what stage `snippets` learns text from; it may be empty. rows: all rows, for stage `questions`.
        encode: encodes all videos with the checkpoint of a directory, or finds that this is done.
    """

    lengths: tuple[int, ...]
    snippet_s: float
    names: tuple[str, ...]
    store: SnippetStore | None
    captions: tuple[Row, ...]
    rows: tuple[Row, ...]
    encode: Callable[[Path], TokenSource]

    def key(self) -> str:
        """Sixteen hex digits that change with what is learned."""
        return hashlib.sha256(repr((self.lengths, self.captions, self.rows)).encode()).hexdigest()[:16]


def snippet_batches(plan: DataPlan, data: TrainingData) -> RowBatches | RandomStretches:
    """The steps of stage `snippets`: a stretch about each caption, or random ones where there are none."""
    stage = plan.snippets
    settings: dict[str, Any] = {"most": stage.most, "batch": stage.batch, "seed": plan.seed, "name": "snippets"}
    if not data.captions:
        once = RandomStretches(data.lengths, epochs=1, **settings)
        return RandomStretches(data.lengths, epochs=_epochs(stage, once.a_epoch), **settings)
    settings["together"] = stage.together
    once_a_row = RowBatches(data.captions, data.lengths, epochs=1, **settings)
    return RowBatches(data.captions, data.lengths, epochs=_epochs(stage, once_a_row.a_epoch), **settings)


def question_batches(plan: DataPlan, data: TrainingData) -> RowBatches:
    """The steps of stage `questions`: whole videos, as far as they are not too long, with some of their rows."""
    stage = plan.questions
    settings: dict[str, Any] = {"most": stage.most, "batch": stage.batch, "seed": plan.seed, "name": "questions"}
    settings["together"] = stage.together
    once = RowBatches(data.rows, data.lengths, epochs=1, **settings)
    return RowBatches(data.rows, data.lengths, epochs=_epochs(stage, once.a_epoch), **settings)


def _epochs(stage: StagePlan, a_epoch: int) -> int:
    return stage.epochs if stage.epochs is not None else max(10, -(-LEAST_STEPS // a_epoch))
