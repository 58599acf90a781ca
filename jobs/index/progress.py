"""How an indexing job looks while it runs, and its summary."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from longtake.errors import InputError
from longtake.jobs.clock import format_moment
from longtake.jobs.console import counted, messages, output, print_json, warn
from longtake.jobs.index.snippet_length import warn_about_rate, warn_about_videos

if TYPE_CHECKING:
    from longtake.pipeline.indexing.index import IndexOptions, IndexSummary, Progress

# Where nobody watches (a file, a batch job's log) a line every so often says how far it is.
LINE_EVERY_S = 15.0
MOST_FAILURES_LISTED = 20


class Display:
    """Live lines on a terminal, else a line now and then; both on standard error."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._first: Progress | None = None
        self._told_at = time.monotonic()

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.__enter__()
            self._live.update(Text("starting ..."), refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def update(self, progress: Progress) -> None:
        """Show how far the job is."""
        if self._first is None:
            self._first = progress
        if self._live is not None:
            self._live.update(_draw(progress, self._first), refresh=True)
        elif time.monotonic() - self._told_at >= LINE_EVERY_S:
            self._told_at = time.monotonic()
            done = f"{progress.fraction:.0%}, {_describe(progress, self._first)}"
            print(f"longtake: {done}", file=self._console.file, flush=True)


def _describe(progress: Progress, first: Progress) -> str:
    """The numbers of a progress in one line; speeds are counted from the first progress on, without the start-up."""
    over = progress.indexed + progress.skipped + progress.failed
    parts = [f"{over} of {progress.videos} videos", f"{progress.snippets} snippets"]
    # A job of moments has no speed without its start-up that would mean anything.
    before = first if progress.seconds - first.seconds > 1 else None
    seconds = progress.seconds - (before.seconds if before else 0.0)
    parts.append(f"{(progress.frames - (before.frames if before else 0)) / seconds:.0f} frames/s")
    parts.append(f"{(progress.video_seconds - (before.video_seconds if before else 0.0)) / seconds:.1f} x real time")
    parts.append(f"{format_moment(progress.seconds)} gone")
    if progress.eta_s is not None:
        parts.append(f"{format_moment(progress.eta_s)} to go")
    parts.append(f"{progress.failed} failed")
    return ", ".join(parts)


def _draw(progress: Progress, first: Progress) -> Group:
    bar = Table.grid(padding=(0, 1), expand=False)
    bar.add_row(ProgressBar(total=1.0, completed=progress.fraction, width=40), f"{progress.fraction:.0%}")
    names = [PurePath(uri).name for uri in progress.current]
    under_way = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return Group(bar, Text(_describe(progress, first), overflow="fold"), Text(under_way, style="dim"))


def run_with_progress(paths: Sequence[str], options: IndexOptions, *, strict: bool, as_json: bool) -> int:
    """Index with a live display, print the summary, and return the exit code."""
    from longtake.pipeline.indexing.find_videos import find_videos
    from longtake.pipeline.indexing.index import index
    from longtake.pipeline.table.schema import IndexReader

    # A path that names nothing is told before anything is loaded.
    uris = set(find_videos(paths))
    warn_about_rate(options)
    try:
        with Display(messages()) as display:
            summary = index(paths, options, on_progress=display.update)
    except KeyboardInterrupt:
        warn("interrupted; what was whole is kept, and the same command goes on from there")
        raise
    rows = [row for row in IndexReader.open(options.into).videos() if row.uri in uris]
    partial = [row.uri for row in rows if row.status == "partial"]
    warn_about_videos(options, rows)
    if as_json:
        print_json({**dataclasses.asdict(summary), "partial": partial})
    else:
        _print_summary(summary, partial, options.into)
    return 1 if strict and (summary.failed or partial) else 0


def _print_summary(summary: IndexSummary, partial: Sequence[str], into: str) -> None:
    out = output()
    out.print(
        f"{counted(summary.videos, 'video')}: "
        f"{summary.indexed} indexed, {summary.skipped} skipped, {summary.failed} failed"
        + (f"; {len(partial)} are damaged in places" if partial else "")
    )
    if summary.snippets:
        working_s = max(summary.seconds - summary.startup_s, 1e-9)
        out.print(
            f"{summary.snippets} snippets, {summary.frames} frames of {format_moment(summary.video_seconds)} of video"
            f" in {format_moment(summary.seconds)} ({format_moment(summary.startup_s)} of it starting up):"
            f" {summary.frames / working_s:.0f} frames/s, {summary.video_seconds / working_s:.1f} x real time"
        )
    for row in summary.failures[:MOST_FAILURES_LISTED]:
        # Messages about files begin with the file's name.
        reason = row.message if row.message.startswith(row.uri) else f"{row.uri}: {row.stage}: {row.message}"
        out.print(f"failed: {reason}")
    if len(summary.failures) > MOST_FAILURES_LISTED or partial:
        out.print(f"longtake failures {into}   lists everything that went wrong")


def retry(into: str, *, model: str, uris: Sequence[str], ray_address: str | None, as_json: bool) -> int:
    """Index the files of an index's failures again.

    Raises:
        InputError: none of them is there any more.
    """
    from longtake.pipeline.indexing.index import IndexOptions

    here = [uri for uri in uris if Path(uri).is_file()]
    gone = sorted(set(uris) - set(here))
    if gone:
        warn(f"{len(gone)} of the files are gone: {', '.join(gone[:3])}" + ", ..." * (len(gone) > 3))
    if not here:
        raise InputError(f"{into}: none of the files with failures is there any more")
    options = IndexOptions(into=into, model=model, ray_address=ray_address, retry_failures=True)
    return run_with_progress(here, options, strict=False, as_json=as_json)
