"""The write side of an index: fragments written where the tokens are, commits made in one place.

Encoders call `write_snippets`, which puts rows into storage without making them part of the table, and send back a
small `Written`. The one `Committer` of a job, in the process that holds the index's lock, checks it and commits it. A
commit is the only thing that changes a table, so a reader sees all of it or nothing, and a process that outlives a
killed job can write files but never rows.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from longtake.errors import LongTakeError
from longtake.pipeline.table.metadata import IndexMetadata
from longtake.pipeline.table.schema import (
    SCHEMAS,
    TABLES,
    FailureRow,
    VideoRow,
    open_table,
    rows_to_table,
    snippets_schema,
    table_uri,
    video_filter,
)
from longtake.pipeline.table.token_columns import to_columns
from longtake.pipeline.table.vlm_columns import Places, to_vlm_columns

# Fragments of a few rows slow every scan; when a job leaves more of them than this, they are merged.
MANY_FRAGMENTS = 32
# How long old versions stay readable for those who opened them.
KEEP_OLD_VERSIONS = datetime.timedelta(days=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class SnippetRow:
    """One encoded snippet on its way into the table. `tokens` is float32 [tokens, width], of a public model with their
    `places`."""

    video_id: str
    snippet: int
    start_ns: int
    stop_ns: int
    pictures: int
    tokens: np.ndarray
    text: str
    memory: bytes | None = None
    places: Places | None = None

    def __post_init__(self) -> None:
        if self.stop_ns <= self.start_ns:
            raise ValueError(f"snippet {self.snippet} stops at {self.stop_ns} ns, not after {self.start_ns} ns")
        if self.tokens.dtype != np.float32 or self.tokens.ndim != 2:
            raise ValueError(f"tokens are {self.tokens.dtype} {self.tokens.shape}, not float32 [tokens, width]")
        if self.places is not None and self.places.places_N4.shape != (len(self.tokens), 4):
            raise ValueError(f"{len(self.tokens)} tokens have places {self.places.places_N4.shape}")

    def require_fit(self, metadata: IndexMetadata) -> None:
        """Raise ValueError where the tokens are not such as the index holds."""
        shape, width = self.tokens.shape, metadata.width
        if metadata.kind == "vlm":
            if self.places is None or shape[1] != width or (metadata.tokens and shape[0] > metadata.tokens):
                raise ValueError(f"tokens are {shape}; the index holds {metadata.describe_tokens()}")
        elif self.places is not None or shape != (metadata.tokens, width):
            raise ValueError(f"tokens are {shape}; the index holds {(metadata.tokens, width)}")


@dataclass(frozen=True, kw_only=True)
class Span:
    """What a batch holds of one video: how many rows, the first and last snippet number, and their frames."""

    rows: int
    first: int
    last: int
    frames: int


@dataclass(frozen=True, kw_only=True)
class Written:
    """Rows that lie in storage and wait for their commit: Lance's fragments, and what they hold by video_id.

    `after` is the last snippet that each video had before these (-1: none): a batch that was lost on the way would be
    noticed by it, where numbers may have gaps.
    """

    fragments: tuple[Any, ...]
    spans: dict[str, Span]
    after: dict[str, int]


NOTHING_WRITTEN = Written(fragments=(), spans={}, after={})


def write_snippets(
    index_uri: str, metadata: IndexMetadata, rows: Sequence[SnippetRow], after: Mapping[str, int]
) -> Written:
    """Write rows into storage, uncommitted.

    Args:
        rows: any number of videos; those of one video increase in number, and its last one carries the memory.
        after: for each video, the last snippet that was written before these, -1 where there is none.
    Raises:
        ValueError: rows are out of order, or a video's last row has no memory, or tokens have another shape.
    """
    spans: dict[str, Span] = {}
    carried: dict[str, bool] = {}
    for row in rows:
        row.require_fit(metadata)
        before = spans.get(row.video_id)
        if before is not None and row.snippet <= before.last:
            raise ValueError(f"video {row.video_id}: snippet {row.snippet} follows {before.last}")
        spans[row.video_id] = Span(
            rows=1 + (before.rows if before else 0),
            first=before.first if before else row.snippet,
            last=row.snippet,
            frames=row.pictures + (before.frames if before else 0),
        )
        carried[row.video_id] = row.memory is not None
    if not all(carried.values()):
        raise ValueError(f"the last row of {next(name for name, has in carried.items() if not has)} has no memory")
    schema = snippets_schema(metadata)
    if not rows:
        return NOTHING_WRITTEN
    columns = {
        "video_id": pa.array([row.video_id for row in rows], pa.string()),
        "snippet": pa.array([row.snippet for row in rows], pa.int32()),
        "start_ns": pa.array([row.start_ns for row in rows], pa.int64()),
        "stop_ns": pa.array([row.stop_ns for row in rows], pa.int64()),
        "pictures": pa.array([row.pictures for row in rows], pa.int32()),
        **_token_columns(rows, metadata),
        "text": pa.array([row.text for row in rows], pa.string()),
        "memory": pa.array([row.memory for row in rows], pa.large_binary()),
    }
    fragments = lance.fragment.write_fragments(
        pa.table(columns, schema=schema), table_uri(index_uri, "snippets"), schema=schema
    )
    return Written(fragments=tuple(fragments), spans=spans, after={video_id: after[video_id] for video_id in spans})


def _token_columns(rows: Sequence[SnippetRow], metadata: IndexMetadata) -> dict[str, pa.Array]:
    if metadata.kind == "vlm":
        places = [row.places for row in rows if row.places is not None]
        return to_vlm_columns([row.tokens for row in rows], places, metadata.token_store)
    return to_columns(np.stack([row.tokens for row in rows]), metadata)


class Committer:
    """The one writer of an index's tables. Whoever makes one holds the index's lock.

    Args:
        rebuild: throw away what the tables hold, whichever model wrote it. Readers keep the versions they opened, and
            those that open one meanwhile wait for the last table.
    Raises:
        IndexMismatchError: another model or format version wrote the index, and `rebuild` is off.
        InputError: the tables cannot be opened or made.
    """

    def __init__(self, index_uri: str, metadata: IndexMetadata, *, rebuild: bool = False) -> None:
        self.uri = index_uri
        found: dict[str, Any] = {table: open_table(index_uri, table) for table in TABLES}
        if not rebuild:
            for table in found.values():
                if table is not None:
                    told = IndexMetadata.from_schema(table.schema.metadata, index_uri)
                    told.require_model(metadata.fingerprint, metadata.model, index_uri)
                    told.require_settings(metadata, index_uri)
                    # The index's own sampling stands: it is what later runs fall back to.
                    metadata = told
        self.metadata = metadata
        # In this order: `IndexReader.open` tells by the last one whether there is an index, and by all whether of one.
        for name in TABLES:
            if found[name] is None or rebuild:
                schema = SCHEMAS[name](metadata)
                found[name] = lance.write_dataset(
                    pa.Table.from_batches([], schema=schema),
                    table_uri(index_uri, name),
                    schema=schema,
                    mode="create" if found[name] is None else "overwrite",
                )
        self._videos = found["videos"]
        self._failures = found["failures"]
        self._snippets = found["snippets"]
        self.videos = {row["uri"]: VideoRow(**row) for row in self._videos.to_table().to_pylist()}
        self.spans = self._read_spans()
        self.commits = 0

    def _read_spans(self) -> dict[str, Span]:
        """What the snippets table holds of each video, in one flat-memory pass over three small columns."""
        spans: dict[str, Span] = {}
        for batch in self._snippets.to_batches(columns=["video_id", "snippet", "pictures"]):
            coded = batch["video_id"].dictionary_encode()
            codes, names = coded.indices.to_numpy(zero_copy_only=False), coded.dictionary.to_pylist()
            numbers, pictures = batch["snippet"].to_numpy(), batch["pictures"].to_numpy()
            for code, name in enumerate(names):
                mine = codes == code
                span = Span(
                    rows=int(mine.sum()),
                    first=int(numbers[mine].min()),
                    last=int(numbers[mine].max()),
                    frames=int(pictures[mine].sum()),
                )
                spans[name] = _joined(spans[name], span) if name in spans else span
        return spans

    def memory(self, video_id: str) -> bytes | None:
        """The combiner's memory after a video's last committed snippet; None when it has none.

        Raises:
            LongTakeError: the last row holds no memory, which no commit of ours leaves behind.
        """
        span = self.spans.get(video_id)
        if span is None:
            return None
        where = f"{video_filter(video_id)} AND snippet = {span.last}"
        found = self._snippets.to_table(columns=["memory"], filter=where)["memory"].to_pylist()
        if len(found) != 1 or found[0] is None:
            raise LongTakeError(
                f"{self.uri}: snippet {span.last} of video {video_id} has {len(found)} rows or no memory"
            )
        return bytes(found[0])

    def commit_snippets(self, batches: Sequence[Written]) -> None:
        """Check written rows against the table and make them part of it, all at once.

        Raises:
            LongTakeError: a batch does not continue its videos, or its fragments hold another number of rows. Nothing
                was committed.
        """
        spans = dict(self.spans)
        for batch in batches:
            wanted, held = sum(span.rows for span in batch.spans.values()), sum(f.num_rows for f in batch.fragments)
            if wanted != held:
                raise LongTakeError(f"{self.uri}: a batch of {wanted} snippets was written as {held} rows")
            for video_id, span in batch.spans.items():
                before = spans.get(video_id)
                last = before.last if before is not None else -1
                if batch.after[video_id] != last or span.first <= last:
                    raise LongTakeError(
                        f"{self.uri}: video {video_id} holds snippets up to {last}; "
                        f"a batch brings {span.first} after {batch.after[video_id]}"
                    )
                spans[video_id] = _joined(before, span) if before else span
        fragments = [fragment for batch in batches for fragment in batch.fragments]
        if not fragments:
            return
        self._snippets = lance.LanceDataset.commit(
            table_uri(self.uri, "snippets"),
            lance.LanceOperation.Append(fragments),
            read_version=self._snippets.version,
        )
        self.spans = spans
        self.commits += 1

    def put_videos(self, rows: Iterable[VideoRow]) -> None:
        """Insert or replace rows by uri, in one commit; snippets that no file speaks of any more go afterwards."""
        fresh = {row.uri: row for row in rows}
        if not fresh:
            return
        replaced = {self.videos[uri].video_id for uri in fresh if uri in self.videos}
        self._merge(self._videos, "uri", rows_to_table(fresh.values(), self._videos.schema))
        self.videos.update(fresh)
        self.delete_snippets(replaced - {row.video_id for row in self.videos.values()})

    def put_failures(self, rows: Iterable[FailureRow]) -> None:
        """Insert or replace rows by failure_id, in one commit."""
        fresh = {row.failure_id: row for row in rows}
        if fresh:
            self._merge(self._failures, "failure_id", rows_to_table(fresh.values(), self._failures.schema))

    def failures_of(self, uri: str) -> list[FailureRow]:
        """The failures recorded for a file."""
        escaped = uri.replace("'", "''")
        rows = self._failures.to_table(filter=f"uri = '{escaped}'").drop_columns(["failure_id"]).to_pylist()
        return [FailureRow(**row) for row in rows]

    def delete_failures(self, uri: str) -> None:
        """Forget a file's failures: it is about to be read again from its start."""
        escaped = uri.replace("'", "''")
        if self._failures.count_rows(filter=f"uri = '{escaped}'"):
            self._failures.delete(f"uri = '{escaped}'")

    def delete_snippets(self, video_ids: Iterable[str]) -> None:
        """Delete every snippet of these videos, in one commit."""
        gone = [video_id for video_id in sorted(video_ids) if video_id in self.spans]
        if gone:
            self._snippets.delete(" OR ".join(video_filter(video_id) for video_id in gone))
            for video_id in gone:
                del self.spans[video_id]

    def delete_orphans(self) -> None:
        """Delete snippets that no file speaks of: what a job left that was killed between two commits."""
        self.delete_snippets(set(self.spans) - {row.video_id for row in self.videos.values()})

    def tidy(self) -> None:
        """Merge small fragments and let go of old versions, when a job has left many of them."""
        for table in (self._videos, self._failures, self._snippets):
            if len(table.get_fragments()) > MANY_FRAGMENTS:
                table.optimize.compact_files(target_rows_per_fragment=16_384)
                table.cleanup_old_versions(older_than=KEEP_OLD_VERSIONS)

    def _merge(self, table: Any, key: str, rows: pa.Table) -> None:
        table.merge_insert(key).when_matched_update_all().when_not_matched_insert_all().execute(rows)


def _joined(before: Span, after: Span) -> Span:
    return Span(
        rows=before.rows + after.rows,
        first=min(before.first, after.first),
        last=max(before.last, after.last),
        frames=before.frames + after.frames,
    )
