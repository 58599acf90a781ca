"""What a track is: a question that ablations answer, its variants, and how one of them is trained and scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from longtake.operators.ablation.results import Row, RunResult


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where a run stands: its stage, the step of how many, and the loss and share of right answers there."""

    variant: str
    seed: int
    stage: str
    step: int
    steps: int
    loss: float = 0.0
    exact: float = 0.0


Report = Callable[[Step], None]


class Track(Protocol):
    """A question that ablations answer: its variants, and how one of them is trained and scored."""

    @property
    def variants(self) -> dict[str, str]:
        """What each variant is, in the order of the tables."""
        ...

    @property
    def quick(self) -> tuple[str, ...]:
        """The variants of a quick run."""
        ...

    @property
    def plan(self) -> str:
        """Everything that a run's result depends on, but for its variant and seed."""
        ...

    def baseline(self) -> list[Row]:
        """What the commonest answers would score in the tests that every variant takes."""
        ...

    def prepare(self, report: Report) -> None:
        """Compute what all variants share, or read it from the track's folder."""
        ...

    def run(self, variant: str, seed: int, report: Report) -> RunResult:
        """Train one variant and score it; `prepare` comes first."""
        ...
