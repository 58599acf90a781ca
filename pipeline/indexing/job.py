"""What an indexing job has to do and what it has done: each file from its first look to its end, and the record of it.

What is on record decides what is done. A file whose size and modification time are those of its row is not read again;
another content, sampling or model gives another `video_id`, whose rows replace the old ones. A video with rows but not
done goes on after its last committed snippet, with the memory that was committed with it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from longtake.errors import MediaError
from longtake.pipeline.indexing.messages import Looked
from longtake.pipeline.indexing.state import Ending, Start, Video
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.segment import Damage
from longtake.pipeline.table.identity import FileState, file_state, video_id
from longtake.pipeline.table.schema import FailureRow, Status, VideoRow, utc_now
from longtake.pipeline.table.writer import Committer, Written

NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How a job stands. `fraction` is the share of the archive's bytes that is done, from which `eta_s` follows.

    `videos` counts all files; `indexed`, `skipped` and `failed` those that are over. `snippets`, `frames` and
    `video_seconds` are what this job has encoded, committed or not. `current` names the files under way.
    """

    videos: int
    indexed: int
    skipped: int
    failed: int
    snippets: int
    frames: int
    video_seconds: float
    seconds: float
    fraction: float
    eta_s: float | None
    current: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class IndexSummary:
    """What a job did. `videos` = `indexed` + `skipped` + `failed`; a file that failed before and was left counts too.

    `snippets`, `frames` and `video_seconds` are what this job added, `seconds` its whole time, of which `startup_s`
    passed before the first file was looked at. `failures` are the failed files' newest rows.
    """

    videos: int
    indexed: int
    skipped: int
    failed: int
    snippets: int
    frames: int
    video_seconds: float
    seconds: float
    startup_s: float
    failures: tuple[FailureRow, ...]


@dataclass(eq=False, kw_only=True)
class _Entry:
    """One file of the job, from the first look at its row to its end."""

    uri: str
    row: VideoRow | None
    size_bytes: int
    video: Video | None = None
    first: int = 0
    reached_ns: int = 0
    start_ns: int | None = None


class IndexJob:
    """What there is to do and what was done: the engine's `Job`."""

    def __init__(
        self,
        uris: Sequence[str],
        committer: Committer,
        sampling: Sampling,
        *,
        retry_failures: bool,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._committer, self._sampling = committer, sampling
        self._retry = retry_failures
        self._on_progress = on_progress
        self._told_at = 0.0
        self._began = time.monotonic()
        self._first_look: float | None = None
        self._videos = len(uris)
        self._indexed = self._skipped = self._snippets = self._frames = 0
        self._encoded_snippets = self._encoded_frames = 0
        self._video_ns = 0
        self._failed: list[str] = []
        self._failures: dict[str, list[FailureRow]] = {}
        self._bytes = self._bytes_done = 0
        self._entries: dict[str, _Entry] = {}
        # Files of the same content as one under way: they share its rows once it is done.
        self._copies: dict[str, list[_Entry]] = {}
        for uri in uris:
            self._judge(uri)
        self._waiting: Iterator[_Entry] = iter(list(self._entries.values()))

    @property
    def has_work(self) -> bool:
        """Whether any file has to be looked at."""
        return bool(self._entries)

    def _judge(self, uri: str) -> None:
        """Skip a file that is done, or put it among those to be looked at."""
        row = self._committer.videos.get(uri)
        try:
            state: FileState | None = file_state(uri)
        except MediaError:
            state = None
        size_bytes = state.size_bytes if state is not None else 0
        if row is not None and state is not None and self._is_same(row, state):
            if row.status == "done" or (row.status == "partial" and not self._retry):
                self._skipped += 1
                return
            if row.status == "failed" and not self._retry:
                self._failed.append(uri)
                return
        self._bytes += size_bytes
        self._entries[uri] = _Entry(uri=uri, row=row, size_bytes=size_bytes)

    def _is_same(self, row: VideoRow, state: FileState) -> bool:
        same = (row.size_bytes, row.mtime_ns) == (state.size_bytes, state.mtime_ns)
        return same and row.video_id == self._video_id(row.content_hash)

    def _video_id(self, content: str) -> str:
        return video_id(content, self._sampling.key(), self._committer.metadata.fingerprint)

    # What the engine calls

    def next_video(self) -> Video | None:
        """The next file that is not done."""
        entry = next(self._waiting, None)
        if entry is None:
            return None
        if self._first_look is None:
            self._first_look = time.monotonic()
        known = ""
        if entry.row is not None:
            try:
                state = file_state(entry.uri)
            except MediaError:
                state = None
            if state is not None and self._is_same(entry.row, state):
                known = entry.row.content_hash
        entry.video = Video(uri=entry.uri, known_hash=known, size_bytes=entry.size_bytes)
        return entry.video

    def looked(self, video: Video, looked: Looked) -> bool:
        """Record what the file is; whether it has to be indexed."""
        entry = self._entries[video.uri]
        video.video_id = self._video_id(looked.content_hash) if looked.content_hash else ""
        row = VideoRow(
            uri=video.uri,
            video_id=video.video_id,
            model=self._committer.metadata.model,
            sampling=self._sampling.describe(),
            size_bytes=looked.size_bytes,
            mtime_ns=looked.mtime_ns,
            content_hash=looked.content_hash,
            status="indexing",
        )
        if looked.info is None:
            self._end_unreadable(entry, row, looked)
            return False
        info = looked.info
        video.info, video.plan = info, looked.plan
        video.form, video.sound_peak = looked.form, looked.sound_peak
        span = self._committer.spans.get(video.video_id)
        entry.row = dataclasses.replace(
            row,
            title=info.title,
            duration_s=info.duration_ns / NS if info.duration_ns is not None else None,
            width=info.video.width,
            height=info.video.height,
            rate_hz=info.video.average_rate_hz,
            has_audio=info.audio is not None,
            snippets=span.rows if span else 0,
            frames=span.frames if span else 0,
        )
        if video.video_id in self._copies:
            self._committer.delete_failures(video.uri)
            self._copies[video.video_id].append(entry)
            return False
        same = [other for other in self._committer.videos.values() if other.video_id == video.video_id]
        finished = [other for other in same if other.status in ("done", "partial")]
        if finished and not (self._retry and finished[0].status == "partial"):
            # The very content under another name, or the same file with another modification time.
            known = any(other.uri == video.uri for other in finished)
            if not known:
                self._committer.delete_failures(video.uri)
            self._committer.put_videos([dataclasses.replace(entry.row, **_outcome_of(finished[0]))])
            self._over(entry, indexed=not known)
            return False
        if not any(other.uri == video.uri and other.status == "indexing" for other in same):
            # Not a job's unfinished work to go on with: from the start, with a clean record.
            self._committer.delete_failures(video.uri)
            if self._retry:
                self._committer.delete_snippets([video.video_id])
        self._committer.put_videos([entry.row])
        self._copies[video.video_id] = []
        return True

    def start(self, video: Video) -> Start:
        """After the last committed snippet, with the memory that was committed with it."""
        entry = self._entries[video.uri]
        span = self._committer.spans.get(video.video_id)
        entry.first = span.last + 1 if span else 0
        return Start(first=entry.first, memory=self._committer.memory(video.video_id))

    def damaged(self, video: Video, damage: tuple[Damage, ...]) -> None:
        """Keep damage for the next commit."""
        rows = self._failures.setdefault(video.uri, [])
        rows += [
            FailureRow(
                uri=video.uri,
                video_id=video.video_id,
                stage=one.stage,
                start_ns=one.start_ns,
                stop_ns=one.stop_ns,
                error=one.error,
                message=one.message,
            )
            for one in damage
        ]

    def encoded(self, video: Video, snippets: int, frames: int, reached_ns: int) -> None:
        """Count progress and tell of it."""
        entry = self._entries[video.uri]
        self._encoded_snippets += snippets
        self._encoded_frames += frames
        if entry.start_ns is None and video.plan is not None:
            entry.start_ns = video.plan.window_start_ns(entry.first)
        if reached_ns > entry.reached_ns:
            self._video_ns += reached_ns - max(entry.reached_ns, entry.start_ns or 0)
            entry.reached_ns = reached_ns
        self._tell()

    def commit(self, written: Written, endings: list[Ending]) -> None:
        """Commit failures, then rows, then what the files are now: each speaks only of what is there."""
        over = [(self._entries[ending.video.uri], ending) for ending in endings]
        for entry, ending in over:
            if ending.error:
                failure = self._failure(entry, ending.stage, ending.error, ending.message)
                self._failures.setdefault(entry.uri, []).append(failure)
        fresh = [row for rows in self._failures.values() for row in rows]
        self._committer.put_failures(fresh)
        self._failures = {}
        self._committer.commit_snippets([written])
        for span in written.spans.values():
            self._snippets += span.rows
            self._frames += span.frames
        rows: list[VideoRow] = []
        for entry, ending in over:
            rows += self._finish(entry, ending)
        self._committer.put_videos(rows)
        self._tell(now=bool(over))

    # Endings

    def _finish(self, entry: _Entry, ending: Ending) -> list[VideoRow]:
        """The rows of a file that is over, and of its copies."""
        assert entry.row is not None
        span = self._committer.spans.get(entry.row.video_id)
        troubles = self._committer.failures_of(entry.uri)
        status: Status = "failed" if span is None else "partial" if troubles else "done"
        row = dataclasses.replace(
            entry.row,
            status=status,
            snippets=span.rows if span else 0,
            frames=span.frames if span else 0,
            duration_s=ending.end_ns / NS if ending.end_ns is not None else entry.row.duration_s,
            indexed_at=utc_now(),
        )
        rows = [row]
        self._over(entry, indexed=True, failed=status == "failed")
        for copy in self._copies.pop(row.video_id, []):
            assert copy.row is not None
            rows.append(dataclasses.replace(copy.row, **_outcome_of(row)))
            self._over(copy, indexed=True, failed=status == "failed")
        return rows

    def _end_unreadable(self, entry: _Entry, row: VideoRow, looked: Looked) -> None:
        """Record a file that cannot be indexed."""
        known = self._committer.videos.get(entry.uri)
        if not looked.content_hash and known is not None and known.snippets:
            # It is not there, or may not be read, today: no reason to throw away what is known of it.
            entry.row = known
        else:
            entry.row = dataclasses.replace(row, status="failed")
            self._committer.delete_failures(entry.uri)
        self._committer.put_failures([self._failure(entry, "probe", looked.error, looked.message)])
        self._committer.put_videos([entry.row])
        self._over(entry, failed=True)

    def _failure(self, entry: _Entry, stage: str, error: str, message: str) -> FailureRow:
        return FailureRow(
            uri=entry.uri,
            video_id=entry.row.video_id if entry.row is not None else "",
            stage=stage,
            error=error,
            message=message,
        )

    def _over(self, entry: _Entry, *, indexed: bool = False, failed: bool = False) -> None:
        if failed:
            self._failed.append(entry.uri)
        elif indexed:
            self._indexed += 1
        else:
            self._skipped += 1
        self._bytes_done += entry.size_bytes
        entry.video = None

    # Telling

    def _tell(self, *, now: bool = False) -> None:
        at = time.monotonic()
        if self._on_progress is None or (at - self._told_at < 0.2 and not now):
            return
        self._told_at = at
        self._on_progress(self._progress(at))

    def _progress(self, at: float) -> Progress:
        under_way = [entry for entry in self._entries.values() if entry.video is not None]
        done = float(self._bytes_done)
        for entry in under_way:
            if entry.row is not None and entry.row.duration_s:
                done += entry.size_bytes * min(1.0, entry.reached_ns / NS / entry.row.duration_s)
        fraction = min(1.0, done / self._bytes) if self._bytes else 1.0
        seconds = at - self._began
        working = at - (self._first_look or at)
        eta_s = working * (1 - fraction) / fraction if fraction > 0.01 and working > 1 else None
        return Progress(
            videos=self._videos,
            indexed=self._indexed,
            skipped=self._skipped,
            failed=len(self._failed),
            snippets=self._encoded_snippets,
            frames=self._encoded_frames,
            video_seconds=self._video_ns / NS,
            seconds=seconds,
            fraction=fraction,
            eta_s=eta_s,
            current=tuple(entry.uri for entry in under_way),
        )

    def summary(self, seconds: float, began: float) -> IndexSummary:
        """What was done in `seconds`."""
        failures = [row for uri in self._failed for row in self._committer.failures_of(uri)]
        return IndexSummary(
            videos=self._videos,
            indexed=self._indexed,
            skipped=self._skipped,
            failed=len(self._failed),
            snippets=self._snippets,
            frames=self._frames,
            video_seconds=self._video_ns / NS,
            seconds=seconds,
            startup_s=(self._first_look - began) if self._first_look is not None else seconds,
            failures=tuple(failures),
        )


def _outcome_of(row: VideoRow) -> dict[str, Any]:
    """What a file's copies take over from it."""
    return {name: getattr(row, name) for name in ("status", "snippets", "frames", "duration_s", "indexed_at")}
