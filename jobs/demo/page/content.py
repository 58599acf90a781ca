"""What the demo's page shows: plain data, checked where it is made."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

from longtake.pipeline.evaluation.evaluate import normalise

# A larger video is linked beside the page instead of being put into it (where it takes a third more, as base64).
MOST_EMBEDDED_BYTES = 8 << 20
_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm", ".ogv": "video/ogg"}
_TYPES[".mkv"] = "video/webm"


@dataclass(frozen=True, kw_only=True)
class Span:
    """Seconds [start_s, stop_s) of a video, and the share of the attention that fell there (1 for a truth)."""

    start_s: float
    stop_s: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start_s < self.stop_s:
            raise ValueError(f"a span of [{self.start_s}, {self.stop_s}) s is empty or negative")

    def overlaps(self, start_s: float, stop_s: float) -> bool:
        """Whether it shares time with [start_s, stop_s)."""
        return self.start_s < stop_s and start_s < self.stop_s


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture of a strip, standing for [start_s, stop_s); `jpeg` is None where none could be read."""

    start_s: float
    stop_s: float
    jpeg: bytes | None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question with its answer. `truth` is None where it is not known; `evidence` are the truth's moments.

    `moments` are where the answer looked, strongest first. `from_s` and `to_s` are the span that was asked about.
    """

    question: str
    answer: str
    probability: float
    moments: tuple[Span, ...]
    truth: str | None = None
    evidence: tuple[Span, ...] = ()
    from_s: float | None = None
    to_s: float | None = None
    unknown_words: tuple[str, ...] = ()

    @property
    def right(self) -> bool | None:
        """Whether the answer is the truth; None where that is not known."""
        return None if self.truth is None else normalise(self.answer) == normalise(self.truth)

    @property
    def found(self) -> bool | None:
        """Whether the strongest moment shows the evidence; None where there is no evidence to find."""
        if not self.evidence:
            return None
        return bool(self.moments) and any(self.moments[0].overlaps(e.start_s, e.stop_s) for e in self.evidence)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A video on the page. `source` is what a browser plays: a data URI, or a link relative to the page."""

    name: str
    source: str
    duration_s: float
    width: int
    height: int
    details: tuple[str, ...]
    cells: tuple[Cell, ...]
    asked: tuple[Asked, ...]
    note: str = ""

    def __post_init__(self) -> None:
        if self.duration_s <= 0:
            raise ValueError(f"{self.name}: a duration of {self.duration_s} s")

    @property
    def embedded(self) -> bool:
        """Whether the video is inside the page."""
        return self.source.startswith("data:")


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole page. `facts` are short numbers with what they count; `notes` are sentences for its end."""

    shown: tuple[Shown, ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def judged(self) -> list[Asked]:
        """The questions whose truth is known."""
        return [asked for shown in self.shown for asked in shown.asked if asked.truth is not None]

    @property
    def right(self) -> int:
        """How many of them were answered right."""
        return sum(bool(asked.right) for asked in self.judged)


def video_source(path: Path, page: Path) -> str:
    """What a page plays for a video file: the file itself as a data URI, or a relative link where it is too large."""
    if path.stat().st_size <= MOST_EMBEDDED_BYTES:
        kind = _TYPES.get(path.suffix.lower(), "video/mp4")
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    return quote(os.path.relpath(path.resolve(), page.resolve().parent))


def cell_spans(start_ns: Sequence[int], stop_ns: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Windows for a strip of at most `most` pictures: the snippets' own, or runs of neighbours where they are more.

    Args:
        start_ns, stop_ns: the snippets' windows, in time order.
    """
    count = len(start_ns)
    if count <= most:
        return list(zip(start_ns, stop_ns, strict=True))
    edges = [round(k * count / most) for k in range(most + 1)]
    return [(start_ns[a], stop_ns[b - 1]) for a, b in pairwise(edges)]
