"""From an index and its answers to what the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from longtake.jobs.clock import format_moment
from longtake.jobs.console import counted
from longtake.jobs.demo.page.content import Asked, Cell, Shown, Span, cell_spans, video_source
from longtake.jobs.demo.questions import MadeQuestion
from longtake.pipeline.answering.question import VideoAnswer
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.thumbnails import read_strip
from longtake.pipeline.table.schema import IndexReader, VideoRow

# More pictures than this would be too small to be recognised; neighbours then share one.
MOST_CELLS = 96
# The strip's pictures, in pixels: twice what most screens show.
CELL_HEIGHT = 96


def show_video(reader: IndexReader, row: VideoRow, asked: Sequence[Asked], page: Path, note: str = "") -> Shown:
    """An indexed video with its strip of pictures.

    Raises:
        MediaError: the file is not there any more.
    """
    info = probe(row.uri)
    _, start_ns, stop_ns, _ = reader.tokens(row.video_id)
    spans = cell_spans(start_ns.tolist(), stop_ns.tolist(), MOST_CELLS)
    pictures = read_strip(info, [(start + stop) // 2 for start, stop in spans], CELL_HEIGHT)
    duration_s = max(row.duration_s or 0.0, int(stop_ns[-1]) / 1e9)
    return Shown(
        name=Path(row.uri).name,
        source=video_source(Path(row.uri), page),
        duration_s=duration_s,
        width=info.video.width,
        height=info.video.height,
        details=(
            format_moment(duration_s),
            f"{info.video.width} x {info.video.height} {info.video.codec}",
            "picture and sound" if row.has_audio else "no sound",
            f"{counted(row.snippets, 'snippet')} of {counted(row.frames, 'frame')}",
        ),
        cells=tuple(
            Cell(start_s=start / 1e9, stop_s=stop / 1e9, jpeg=picture)
            for (start, stop), picture in zip(spans, pictures, strict=True)
        ),
        asked=tuple(asked),
        note=note,
    )


def judge(answer: VideoAnswer, made: MadeQuestion | None) -> Asked:
    """An answer beside its truth, where that is known."""
    return Asked(
        question=answer.question,
        answer=answer.answer,
        probability=answer.probability,
        moments=tuple(Span(start_s=m.start_s, stop_s=m.stop_s, weight=m.weight) for m in answer.moments),
        truth=made.answer if made is not None else None,
        evidence=tuple(Span(start_s=start, stop_s=stop) for start, stop in made.moments) if made is not None else (),
        from_s=answer.from_s,
        to_s=answer.to_s,
        unknown_words=answer.unknown_words,
    )
