"""A file of rows to train on: reading it, and what is wrong with a row.

A row is one JSON object a line. A question has `video` (a path, relative to the file's folder), `question` and
`answer`; a caption has `video` and `caption`. Either may have `from_s` and `to_s`, the span that it is about. A
question may have its evidence, as in the files that `longtake world` writes: `start_s` and `stop_s`, or `moments`, a
list of such pairs, where an empty one says that nothing in the video proves the answer. Other fields are left alone.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longtake.errors import InputError
from longtake.operators.training.rows import CAPTION_PROMPT, Places, Row
from longtake.pipeline.answering.moments import snippets_in_span

Window = tuple[int, int]

# People round: a span may say that it ends so much after the video does.
END_TOLERANCE_S = 0.5


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be used, and why; `video` is as the row names it, "" where it names none."""

    line: int
    video: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """A row as the file has it; `path` is the video's absolute path."""

    line: int
    video: str
    path: str
    question: str
    answer: str
    caption: bool
    from_s: float | None
    to_s: float | None
    moments: tuple[tuple[float, float], ...] | None


class BadRows:
    """The rows of a file that are left out, up to a limit.

    Args:
        path: the file of rows. rows: how many it has. most: how many may be bad; None says a tenth, and at least 10.
        listed: where they are written, as JSON lines.
    """

    def __init__(self, path: Path, rows: int, most: int | None, listed: Path) -> None:
        self.path, self.rows, self.listed = path, rows, listed
        self.most = max(10, rows // 10) if most is None else most
        self.found: dict[int, BadRow] = {}

    def add(self, line: int, video: str, reason: str) -> None:
        """Leave a row out; the first reason stands."""
        self.found.setdefault(line, BadRow(line=line, video=video, reason=" ".join(reason.split())))

    def in_order(self) -> list[BadRow]:
        """All of them, by line."""
        return [self.found[line] for line in sorted(self.found)]

    def settle(self) -> None:
        """Write the list, and refuse to go on with too few rows left.

        Raises:
            InputError: there are more than the limit, or no other rows; names the first few.
        """
        bad = self.in_order()
        self.listed.parent.mkdir(parents=True, exist_ok=True)
        self.listed.write_text("".join(json.dumps(vars(row), ensure_ascii=False) + "\n" for row in bad))
        if len(bad) <= self.most and len(bad) < self.rows:
            return
        allowed = (
            f"more than the {self.most} that --max-bad-rows allows" if len(bad) > self.most else "and no other is left"
        )
        few = "; ".join(f"line {row.line}: {row.video}{': ' if row.video else ''}{row.reason}" for row in bad[:3])
        raise InputError(
            f"{self.path}: {len(bad)} of {self.rows} rows cannot be used, {allowed}: {few}"
            f"{'; ...' if len(bad) > 3 else ''} ({self.listed} lists all of them)"
        )


def read_rows(path: Path, most_bad: int | None, listed: Path) -> tuple[list[FileRow], BadRows]:
    """The rows of a file, and those that are not what a row is.

    Raises:
        InputError: the file cannot be read, or holds no row.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot read the rows: {error.strerror}") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise InputError(f"{path}: holds no row")
    bad = BadRows(path, len(numbered), most_bad, listed)
    rows: list[FileRow] = []
    for number, line in numbered:
        video = ""
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"a row is a JSON object, not {type(row).__name__}")
            video = row["video"] if isinstance(row.get("video"), str) else ""
            rows.append(_row(number, row, path.parent))
        except (ValueError, RecursionError) as error:
            what = "not JSON: " if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else ""
            bad.add(number, video, f"{what}{error}")
    return rows, bad


def _row(line: int, row: dict[str, Any], folder: Path) -> FileRow:
    """A row, checked.

    Raises:
        ValueError: a field is missing or not what it must be.
    """
    video = _text(row, "video")
    if ("caption" in row) == ("question" in row):
        raise ValueError("a row has either a question with its answer or a caption")
    caption = "caption" in row
    from_s, to_s = _seconds(row, "from_s"), _seconds(row, "to_s")
    if to_s is not None and to_s <= (from_s or 0.0):
        raise ValueError(f"to_s {to_s:g} must be after {'from_s ' if from_s is not None else ''}{from_s or 0:g}")
    return FileRow(
        line=line,
        video=video,
        # As `find_videos` names files: links keep their own names.
        path=os.path.abspath(folder / Path(video).expanduser()),  # noqa: PTH100
        question=CAPTION_PROMPT if caption else _text(row, "question"),
        answer=_text(row, "caption" if caption else "answer"),
        caption=caption,
        from_s=from_s,
        to_s=to_s,
        moments=None if caption else _moments(row),
    )


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {json.dumps(value)[:40]}" if name in row else f"no {name}")
    if not value.strip():
        raise ValueError(f"the {name} is empty")
    return value.strip()


def _seconds(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a number of seconds from 0 on, not {json.dumps(value)[:40]}")
    return float(value)


def _moments(row: dict[str, Any]) -> tuple[tuple[float, float], ...] | None:
    if row.get("moments") is not None:
        given = row["moments"]
        if not isinstance(given, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in given):
            raise ValueError("moments must be a list of pairs of seconds")
        pairs = [(_seconds({"moments": a}, "moments"), _seconds({"moments": b}, "moments")) for a, b in given]
    else:
        pairs = [(_seconds(row, "start_s"), _seconds(row, "stop_s"))]
        if pairs == [(None, None)]:
            return None
    for start_s, stop_s in pairs:
        if start_s is None or stop_s is None:
            raise ValueError("evidence needs both a start and a stop")
        if stop_s <= start_s:
            raise ValueError(f"the evidence stops at {stop_s:g} s, not after its start at {start_s:g} s")
    return tuple((start_s, stop_s) for start_s, stop_s in pairs if start_s is not None and stop_s is not None)


def place_row(row: FileRow, number: int, windows: Sequence[Window]) -> Row:
    """A row over the snippets that its video has.

    Args:
        number: of the video. windows: of its snippets in ns, at least one.
    Raises:
        ValueError: what the row speaks of lies outside the video, or in a hole of it.
    """
    start_T, stop_T = np.array(windows, dtype=np.int64).T
    end_s = int(stop_T[-1]) / 1e9
    for name, value in (("from_s", row.from_s), ("to_s", row.to_s)):
        limit_s = end_s if name == "from_s" else end_s + END_TOLERANCE_S
        if value is not None and (value > limit_s or (name == "from_s" and value >= end_s)):
            raise ValueError(f"{name} {value:g} lies outside the video, which ends at {end_s:.1f} s")
    span_T = snippets_in_span(start_T, stop_T, row.from_s, row.to_s)
    if not span_T.any():
        raise ValueError("nothing of its span could be decoded")
    evidence: list[Places] | None = None if row.moments is None else []
    for start_s, stop_s in row.moments or ():
        if stop_s > end_s + END_TOLERANCE_S or start_s >= end_s:
            raise ValueError(f"its evidence at {start_s:g}-{stop_s:g} s lies outside the video of {end_s:.1f} s")
        # A microsecond less: a moment that stops where a snippet starts does not lie in it.
        proves_T = (start_T < stop_s * 1e9 - 1e3) & (stop_T > start_s * 1e9 + 1e3)
        if proves_T.any() and evidence is not None:
            evidence.append(_range(proves_T))
    if row.moments and not evidence:
        raise ValueError("nothing of its evidence could be decoded")
    return Row(
        video=number,
        question=row.question,
        answer=row.answer,
        span=_range(span_T),
        evidence=None if evidence is None else tuple(evidence),
        caption=row.caption,
    )


def _range(true_T: np.ndarray[Any, np.dtype[np.bool_]]) -> Places:
    """From the first to the last True."""
    places = np.flatnonzero(true_T)
    return int(places[0]), int(places[-1]) + 1
