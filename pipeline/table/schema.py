"""The index as Lance tables: their schemas, the metadata that ties them to a model, and reading at one version.

One directory (or any URI that Lance opens) is one index and holds three tables:

- `videos`: one row a file, keyed by `uri`. Two files with the same content share a `video_id` and their tokens.
- `snippets`: one row a snippet, keyed by (`video_id`, `snippet`). `memory` is the combiner's memory after that snippet
  (empty for a public model, whose snippets stand alone) and is null except on a commit's last row of a video. Snippet
  numbers may have gaps: a snippet that was lost to damage
  has no row here and one in `failures`.
- `failures`: one row for each thing that went wrong, keyed by `failure_id`, so that seeing it again adds no row.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lance
import numpy as np
import pyarrow as pa
import torch

from longtake.errors import IndexMismatchError, InputError
from longtake.operators.vlm.tokens import VideoTokens
from longtake.pipeline.table.metadata import IndexMetadata
from longtake.pipeline.table.token_columns import from_columns, token_fields
from longtake.pipeline.table.vlm_columns import from_vlm_columns, vlm_fields

# In the order in which they are made, and made anew: where the last one is, there is an index.
TABLES = ("videos", "failures", "snippets")
# How long a reader waits for three tables of one moment. A rebuild has them in a fraction of a second.
SETTLED_S = 30.0
Status = Literal["indexing", "done", "partial", "failed"]

_KEY = {"lance-schema:unenforced-primary-key": "true"}


def videos_schema(metadata: IndexMetadata) -> pa.Schema:
    """One row a file; see the module's docstring."""
    return pa.schema(
        [
            pa.field("uri", pa.string(), nullable=False, metadata=_KEY),
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("title", pa.string(), nullable=False),
            pa.field("duration_s", pa.float64()),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("rate_hz", pa.float64()),
            pa.field("has_audio", pa.bool_(), nullable=False),
            pa.field("snippets", pa.int32(), nullable=False),
            pa.field("frames", pa.int64(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("model", pa.string(), nullable=False),
            pa.field("sampling", pa.string(), nullable=False),
            pa.field("size_bytes", pa.int64(), nullable=False),
            pa.field("mtime_ns", pa.int64(), nullable=False),
            pa.field("content_hash", pa.string(), nullable=False),
            pa.field("indexed_at", pa.timestamp("us", "UTC"), nullable=False),
        ],
        metadata=metadata.to_schema(),
    )


def snippets_schema(metadata: IndexMetadata) -> pa.Schema:
    """One row a snippet; `pictures` counts its unmasked frames. See `token_columns` and `vlm_columns`."""
    return pa.schema(
        [
            pa.field("video_id", pa.string(), nullable=False, metadata=_KEY),
            pa.field("snippet", pa.int32(), nullable=False, metadata=_KEY),
            pa.field("start_ns", pa.int64(), nullable=False),
            pa.field("stop_ns", pa.int64(), nullable=False),
            pa.field("pictures", pa.int32(), nullable=False),
            *stored_fields(metadata),
            pa.field("text", pa.string(), nullable=False),
            pa.field("memory", pa.large_binary()),
        ],
        metadata=metadata.to_schema(),
    )


def stored_fields(metadata: IndexMetadata) -> list[pa.Field]:
    """The columns of the snippets table that hold tokens."""
    return vlm_fields(metadata.token_store) if metadata.kind == "vlm" else token_fields(metadata)


def failures_schema(metadata: IndexMetadata) -> pa.Schema:
    """One row for each thing that went wrong: the whole file (no start_ns) or a span of it."""
    return pa.schema(
        [
            pa.field("failure_id", pa.string(), nullable=False, metadata=_KEY),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("stage", pa.string(), nullable=False),
            pa.field("start_ns", pa.int64()),
            pa.field("stop_ns", pa.int64()),
            pa.field("error", pa.string(), nullable=False),
            pa.field("message", pa.string(), nullable=False),
            pa.field("attempts", pa.int32(), nullable=False),
            pa.field("at", pa.timestamp("us", "UTC"), nullable=False),
        ],
        metadata=metadata.to_schema(),
    )


SCHEMAS = {"videos": videos_schema, "snippets": snippets_schema, "failures": failures_schema}


def utc_now() -> datetime.datetime:
    """The time that rows are stamped with."""
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True, kw_only=True)
class VideoRow:
    """A file of the index. `snippets` and `frames` are what is committed so far; `video_id` is "" if unreadable."""

    uri: str
    video_id: str
    title: str = ""
    duration_s: float | None = None
    width: int = 0
    height: int = 0
    rate_hz: float | None = None
    has_audio: bool = False
    snippets: int = 0
    frames: int = 0
    status: Status = "indexing"
    model: str = ""
    sampling: str = ""
    size_bytes: int = 0
    mtime_ns: int = 0
    content_hash: str = ""
    indexed_at: datetime.datetime = dataclasses.field(default_factory=utc_now)


@dataclass(frozen=True, kw_only=True)
class FailureRow:
    """Something that went wrong. `start_ns` and `stop_ns` are None when it concerns the whole file."""

    uri: str
    video_id: str
    stage: str
    error: str
    message: str
    start_ns: int | None = None
    stop_ns: int | None = None
    attempts: int = 1
    at: datetime.datetime = dataclasses.field(default_factory=utc_now)

    @property
    def failure_id(self) -> str:
        """The row's key: the same trouble at the same place of the same video is one row."""
        place = json.dumps([self.uri, self.video_id, self.stage, self.start_ns, self.stop_ns, self.error])
        return hashlib.sha256(place.encode()).hexdigest()[:32]


def rows_to_table(rows: Iterable[VideoRow | FailureRow], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table of `schema`."""
    plain = [
        {**dataclasses.asdict(row), **({"failure_id": row.failure_id} if isinstance(row, FailureRow) else {})}
        for row in rows
    ]
    return pa.Table.from_pylist(plain, schema=schema)


def table_uri(index_uri: str, table: str) -> str:
    """Where one table of the index lies."""
    return f"{index_uri.rstrip('/')}/{table}.lance"


def open_table(index_uri: str, table: str, version: int | None = None) -> Any | None:
    """The Lance data set of a table, or None where there is none.

    Raises:
        InputError: something is there, and Lance cannot open it.
    """
    uri = table_uri(index_uri, table)
    try:
        return lance.dataset(uri, version=version)
    except (ValueError, OSError) as error:
        message = str(error)
        if version is None and ("not found" in message.lower() or "does not exist" in message.lower()):
            return None
        raise InputError(f"{uri}: cannot be opened: {message.splitlines()[0]}") from error


def video_filter(video_id: str) -> str:
    """A Lance filter for the rows of one video."""
    escaped = video_id.replace("'", "''")
    return f"video_id = '{escaped}'"


class IndexReader:
    """An index as it stood at one moment: whole commits only, however much is being written meanwhile.

    `version` is the snippets table's version: a video's tokens at one version never change, so it serves as a key for
    what is computed from them.
    """

    def __init__(self, uri: str, videos: Any, snippets: Any, failures: Any, metadata: IndexMetadata) -> None:
        self.uri = uri
        self.metadata = metadata
        self._videos = videos
        self._snippets = snippets
        self._failures = failures

    @staticmethod
    def open(uri: str) -> IndexReader:
        """Open the index at `uri` at its newest version.

        Opened while a rebuild throws the tables away, it waits until all three are of the same model.

        Raises:
            InputError: there is no index, or it is being made and has not all its tables yet; or it did not stand still
                for as long as it takes to open three tables.
            IndexMismatchError: another format version wrote it, or its tables are of different models for good: a
                rebuild was cut off.
        """
        # Three tables have three versions. `videos` is written after the snippets that it speaks of, so a pair is
        # sound when `videos` did not move while the others were opened; a busy writer costs a few tries.
        until = time.monotonic() + SETTLED_S
        for attempt in itertools.count():
            videos, failures, snippets = (open_table(uri, table) for table in TABLES)
            if snippets is None:
                if videos is None and failures is None:
                    raise InputError(f"{uri}: there is no index here")
                raise InputError(f"{uri}: an index is being made here; nothing is in it yet")
            if videos is None or failures is None:
                # Looked for before they were made. By now they are there, for `snippets` is made after them.
                if attempt:
                    raise InputError(f"{uri}: not a whole index: its table of videos or of failures is missing")
                continue
            metadata = IndexMetadata.from_schema(snippets.schema.metadata, uri)
            told = [IndexMetadata.from_schema(table.schema.metadata, uri) for table in (videos, failures)]
            of_one_model = all(other == metadata for other in told)
            if of_one_model and videos.latest_version == videos.version:
                break
            if time.monotonic() > until:
                if of_one_model:
                    raise InputError(f"{uri}: is written to faster than it can be opened")
                raise IndexMismatchError(f"{uri}: its tables were written by different models; --rebuild makes it anew")
            if not of_one_model:
                time.sleep(0.01)
        return IndexReader(uri, videos, snippets, failures, metadata)

    @property
    def version(self) -> int:
        """The snippets table's version."""
        return int(self._snippets.version)

    @property
    def model(self) -> str:
        """The name or path of the model that wrote the index."""
        return self.metadata.model

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that wrote the index."""
        return self.metadata.fingerprint

    def newest_version(self) -> int:
        """The snippets table's version now: when it is not `version`, opening again sees more."""
        return int(self._snippets.latest_version)

    def videos(self) -> list[VideoRow]:
        """Every file, by uri. A video that is still being indexed counts the snippets that this version holds."""
        rows = [VideoRow(**row) for row in self._videos.to_table().to_pylist()]
        counted = [
            dataclasses.replace(row, snippets=self._snippets.count_rows(filter=video_filter(row.video_id)))
            if row.status == "indexing"
            else row
            for row in rows
        ]
        return sorted(counted, key=lambda row: row.uri)

    def failures(self) -> list[FailureRow]:
        """Every failure, oldest first."""
        names = [field.name for field in dataclasses.fields(FailureRow)]
        rows = [FailureRow(**row) for row in self._failures.to_table(columns=names).to_pylist()]
        return sorted(rows, key=lambda row: (row.at, row.uri, row.start_ns or 0))

    def tokens(
        self, video_id: str, first: int = 0, stop: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """A video's snippets whose numbers lie in [first, stop), in their order.

        Returns:
            tokens float32 [T, tokens, width], start_ns int64 [T], stop_ns int64 [T], and T subtitle texts. T is 0 for a
            video that the index does not hold. T may be smaller than stop - first: see the module's docstring.
        Raises:
            ValueError: a public model's index; see `video_tokens`.
        """
        if self.metadata.kind != "longtake":
            raise ValueError(f"{self.uri}: the tokens are {self.model}'s: video_tokens reads them")
        table = self._read(video_id, first, stop)
        order = np.argsort(table["snippet"].to_numpy(), kind="stable")
        tokens = from_columns({field.name: table[field.name] for field in stored_fields(self.metadata)}, self.metadata)
        start_ns, stop_ns = table["start_ns"].to_numpy()[order], table["stop_ns"].to_numpy()[order]
        texts: Sequence[str] = table["text"].to_pylist()
        return tokens[order], start_ns, stop_ns, [texts[row] for row in order]

    def video_tokens(
        self, video_id: str, first: int = 0, stop: int | None = None, *, dtype: torch.dtype = torch.float32
    ) -> tuple[VideoTokens, np.ndarray, np.ndarray, list[str]]:
        """A public model's tokens of a video, of the snippets whose numbers lie in [first, stop), in their order.

        Args:
            dtype: of the tokens.
        Returns:
            The tokens with their places, start_ns int64 [T], stop_ns int64 [T], and T subtitle texts.
        Raises:
            InputError: the index holds none of them.
            ValueError: an index of one of LongTake's own models; see `tokens`.
        """
        if self.metadata.kind != "vlm":
            raise ValueError(f"{self.uri}: the tokens are of LongTake's model {self.model}: tokens reads them")
        # Sorted first: tokens are many, and then lie in their order without another copy.
        table = self._read(video_id, first, stop).sort_by("snippet")
        if table.num_rows == 0:
            raise InputError(f"{self.uri}: holds none of these snippets of video {video_id}")
        start_ns, stop_ns = table["start_ns"].to_numpy(), table["stop_ns"].to_numpy()
        snippets = from_vlm_columns(
            {field.name: table[field.name] for field in stored_fields(self.metadata)},
            start_ns,
            store=self.metadata.token_store,
            width=self.metadata.width,
            sound_hz=self.metadata.sound_hz,
            dtype=dtype,
        )
        return VideoTokens(snippets=tuple(snippets)), start_ns, stop_ns, table["text"].to_pylist()

    def _read(self, video_id: str, first: int, stop: int | None) -> pa.Table:
        where = f"{video_filter(video_id)} AND snippet >= {int(first)}"
        if stop is not None:
            where += f" AND snippet < {int(stop)}"
        stored = [field.name for field in stored_fields(self.metadata)]
        return self._snippets.to_table(columns=["snippet", "start_ns", "stop_ns", "text", *stored], filter=where)

    def windows(self, video_id: str) -> tuple[np.ndarray, np.ndarray]:
        """When a video's snippets start and stop, int64 [T] each, in their order; no token is read."""
        table = self._snippets.to_table(columns=["snippet", "start_ns", "stop_ns"], filter=video_filter(video_id))
        order = np.argsort(table["snippet"].to_numpy(), kind="stable")
        return table["start_ns"].to_numpy()[order], table["stop_ns"].to_numpy()[order]

    def numbers(self, video_id: str) -> np.ndarray:
        """The snippet numbers that the index holds of a video: int32 [T], increasing."""
        table = self._snippets.to_table(columns=["snippet"], filter=video_filter(video_id))
        return np.sort(table["snippet"].to_numpy())

    def memory(self, video_id: str) -> tuple[int, bytes | None]:
        """The last snippet number of a video and the combiner's memory after it; (-1, None) where there is none."""
        table = self._snippets.to_table(columns=["snippet", "memory"], filter=video_filter(video_id))
        if table.num_rows == 0:
            return -1, None
        last = int(np.argmax(table["snippet"].to_numpy()))
        return int(table["snippet"][last].as_py()), table["memory"][last].as_py()
