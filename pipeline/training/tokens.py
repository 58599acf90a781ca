"""The tokens of rows' videos: an index of the run's own, written by the job that `longtake index` runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from longtake.errors import InputError
from longtake.operators.model.checkpoint import load_model
from longtake.operators.training.snippet_store import StoredVideo
from longtake.pipeline.answering.byte_cache import Kept
from longtake.pipeline.indexing.index import IndexOptions, Progress, index
from longtake.pipeline.table.metadata import IndexMetadata
from longtake.pipeline.table.schema import IndexReader, open_table
from longtake.pipeline.training.videos import Film

# Tokens that are kept in memory; others are read again from the table.
KEPT_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    tokens_TmD: Tensor

    @property
    def size_bytes(self) -> int:
        return self.tokens_TmD.nbytes


class TokenIndex:
    """The tokens of the rows' videos, in the index that one of the run's checkpoints wrote."""

    def __init__(self, path: Path, films: Sequence[Film]) -> None:
        self._reader = IndexReader.open(str(path))
        rows = {row.uri: row for row in self._reader.videos()}
        self._rows = [rows.get(film.path) for film in films]
        failures = {row.uri: row.message.removeprefix(f"{row.uri}: ") for row in self._reader.failures()}
        self._errors = [failures.get(film.path, "nothing of it was indexed") for film in films]
        self._kept: Kept[int, _Tokens] = Kept(KEPT_BYTES)

    def video(self, number: int) -> StoredVideo:
        """The windows of a video's snippets, or why there are none."""
        row = self._rows[number]
        if row is None or not row.snippets:
            return StoredVideo(windows=(), error=self._errors[number])
        _, start_T, stop_T, _ = self._reader.tokens(row.video_id)
        return StoredVideo(windows=tuple(zip(start_T.tolist(), stop_T.tolist(), strict=True)))

    def tokens(self, video: int) -> Tensor:
        """All tokens of a video, float32 [T, m, D]."""
        found = self._kept.get(video)
        if found is None:
            row = self._rows[video]
            assert row is not None
            tokens_TmD, _, _, _ = self._reader.tokens(row.video_id)
            found = self._kept.put(video, _Tokens(tokens_TmD=torch.from_numpy(np.array(tokens_TmD))))
        return found.tokens_TmD


def index_videos(
    films: Sequence[Film],
    into: Path,
    checkpoint: Path,
    device: str,
    on_progress: Callable[[Progress], None] | None = None,
) -> TokenIndex:
    """Encode the videos that are not in the run's index yet; an index of other encoders is made anew.

    Raises:
        LongTakeError: the work cannot go on; what was committed stays.
    """
    table = open_table(str(into), "snippets")
    told = None if table is None else IndexMetadata.from_schema(table.schema.metadata, str(into))
    stale = told is not None and told.fingerprint != load_model(str(checkpoint)).fingerprint
    options = IndexOptions(
        into=str(into),
        model=str(checkpoint.absolute()),
        token_store="float32",
        device=cast(Literal["cpu", "cuda"], device),
        rebuild=stale,
    )
    index([film.path for film in films], options, on_progress=on_progress)
    return TokenIndex(into, films)


def indexed_as_stored(source: TokenIndex, films: Sequence[Film], lengths: Sequence[int]) -> TokenIndex:
    """The same index, when it holds as many snippets of each video as rows were placed over.

    Raises:
        InputError: it does not: a file changed meanwhile, or was read otherwise.
    """
    for number, (film, length) in enumerate(zip(films, lengths, strict=True)):
        video = source.video(number)
        if len(video.windows) != length:
            why = video.error or "the file has changed, or is damaged"
            raise InputError(f"{film.path}: {len(video.windows)} snippets are indexed, {length} were decoded: {why}")
    return source
