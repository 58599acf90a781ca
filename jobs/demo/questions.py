"""Which questions the demo asks: a dozen of every kind about the made videos, and general ones about any other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longtake.errors import InputError
from longtake.pipeline.evaluation.evaluate import NOTHING

# What can be asked about any video. A model that knows the made world only should see none of it in real footage.
GENERAL = (
    "What was shown when the border flashed?",
    "What was on screen while the horn sounded?",
    "Did the siren sound?",
    "Was a red circle shown?",
)


@dataclass(frozen=True, kw_only=True)
class MadeQuestion:
    """A row of the made world's questions; `moments` are the seconds that prove the answer."""

    video: str
    question: str
    answer: str
    kind: str
    moments: tuple[tuple[float, float], ...]
    from_s: float | None
    to_s: float | None

    @property
    def has_span(self) -> bool:
        """Whether it is about a part of the video only."""
        return self.from_s is not None or self.to_s is not None


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a question should be like; None leaves it open."""

    kind: str
    span: bool | None = None
    nothing: bool | None = None

    def distance(self, row: MadeQuestion) -> int:
        """How far a row is from the wish: its kind weighs most, then that the answer is "nothing", then the span."""
        return (
            4 * (row.kind != self.kind)
            + 2 * (self.nothing is not None and (row.answer == NOTHING) != self.nothing)
            + (self.span is not None and row.has_span != self.span)
        )


# Each kind twice; spans, events that did not happen, and both at once among them. Chosen by what is asked, never by
# what the model makes of it.
WISHES = (
    Wish(kind="needle", span=False, nothing=False),
    Wish(kind="bind", span=False, nothing=False),
    Wish(kind="first", span=False, nothing=False),
    Wish(kind="count", span=False),
    Wish(kind="last", span=False, nothing=False),
    Wish(kind="exists", span=False),
    Wish(kind="bind", nothing=True),
    Wish(kind="needle", span=True, nothing=True),
    Wish(kind="count", span=True),
    Wish(kind="first", span=True, nothing=False),
    Wish(kind="exists", span=True),
    Wish(kind="last", span=True, nothing=False),
)


def read_made_questions(path: Path) -> list[MadeQuestion]:
    """The rows that `longtake world` wrote.

    Raises:
        InputError: the file cannot be read or is of another make.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [
            MadeQuestion(
                video=row["video"],
                question=row["question"],
                answer=row["answer"],
                kind=row["kind"],
                moments=tuple((float(start), float(stop)) for start, stop in row["moments"]),
                from_s=row["from_s"],
                to_s=row["to_s"],
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the questions of a made world ({type(error).__name__}: {error})") from error


def choose_questions(rows: Sequence[MadeQuestion], wishes: Sequence[Wish] = WISHES) -> list[MadeQuestion]:
    """One question for each wish, as near to it as the rows allow, spread evenly over the videos; in the videos' order.

    Raises:
        InputError: there are fewer rows than wishes.
    """
    if len(rows) < len(wishes):
        raise InputError(f"{len(rows)} questions were made, and {len(wishes)} are wanted")
    videos = sorted({row.video for row in rows})
    left = list(rows)
    chosen: list[MadeQuestion] = []
    asked: Counter[str] = Counter()
    most = -(-len(wishes) // len(videos))
    for wish in wishes:
        texts = {(row.video, row.question) for row in chosen}
        # The same words about another span of the same video are a second-best choice.
        best = min(
            left,
            key=lambda row: (
                asked[row.video] >= most,
                wish.distance(row),
                (row.video, row.question) in texts,
                asked[row.video],
            ),
        )
        left.remove(best)
        chosen.append(best)
        asked[best.video] += 1
    return sorted(chosen, key=lambda row: row.video)
