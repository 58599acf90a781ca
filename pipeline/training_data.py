"""From a file's rows to what a run learns from: videos looked at, decoded once, and encoded once.

Snippets are read as indexing reads them, into a store that a run with learning encoders reads in every epoch. Tokens
are an index of the run's own, written by the job that `longtake index` runs.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from longtake.operators.checkpoint import load_model
from longtake.operators.config import ModelConfig
from longtake.operators.errors import InputError, LongTakeError, MediaError
from longtake.operators.training.data_trainer import TokenSource
from longtake.operators.training.rows import Row
from longtake.operators.training.snippet_store import Record, SnippetStore, StoredVideo, Window
from longtake.pipeline.identity import file_state
from longtake.pipeline.index_metadata import IndexMetadata
from longtake.pipeline.indexing import IndexOptions, Progress, index
from longtake.pipeline.kept import Kept
from longtake.pipeline.media.intake import ConfigIntake
from longtake.pipeline.media.plan import Sampling, plan_rate
from longtake.pipeline.media.probe import MediaInfo, probe
from longtake.pipeline.media.snippet import Snippet
from longtake.pipeline.media.snippets import read_snippets
from longtake.pipeline.tables import IndexReader, open_table
from longtake.pipeline.training_rows import BadRows, FileRow, place_row

# Tokens that are kept in memory; others are read again from the table.
KEPT_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Film:
    """A video of the rows, as it was found; `name` is its name in the store."""

    path: str
    name: str
    info: MediaInfo


def look_at_videos(rows: Sequence[FileRow], bad: BadRows) -> tuple[list[FileRow], list[Film]]:
    """The rows whose video is there and looks like one, and these videos; the other rows go to `bad`."""
    films: dict[str, Film] = {}
    wrong: dict[str, str] = {}
    kept: list[FileRow] = []
    for row in rows:
        if row.path not in films and row.path not in wrong:
            try:
                state = file_state(row.path)
                text = f"{row.path}\n{state.size_bytes}\n{state.mtime_ns}"
                name = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:24]
                films[row.path] = Film(path=row.path, name=name, info=probe(row.path))
            except MediaError as error:
                wrong[row.path] = str(error)
        if row.path in wrong:
            bad.add(row.line, row.video, wrong[row.path])
        else:
            kept.append(row)
    return kept, list(films.values())


def store_videos(
    films: Sequence[Film], store: SnippetStore, config: ModelConfig, workers: int, on_video: Callable[[int], None]
) -> list[StoredVideo]:
    """Decode the videos that the store has not got; what each of them is there.

    Args:
        workers: processes that decode; 0 decodes in this one.
        on_video: told how many are done, after each.
    Raises:
        InputError: the disk has no room.
    """
    waiting = [film for film in films if store.find(film.name) is None]
    plan = plan_rate(config.rate_hz, config.video.frames)
    store.require_room(sum(plan.count_windows(film.info.duration_ns or 0) for film in waiting))
    done = len(films) - len(waiting)
    on_video(done)
    decoded = _in_processes(waiting, store, config, workers) if workers else _here(waiting, store, config)
    for _ in decoded:
        done += 1
        on_video(done)
    found = [store.find(film.name) for film in films]
    if missing := [film.path for film, video in zip(films, found, strict=True) if video is None]:
        raise LongTakeError(f"{store.path}: {missing[0]} is not there after it was decoded")
    return [video for video in found if video is not None]


def _here(films: Sequence[Film], store: SnippetStore, config: ModelConfig) -> Iterator[Film]:
    for film in films:
        _decode(film, store, config)
        yield film


def _in_processes(films: Sequence[Film], store: SnippetStore, config: ModelConfig, workers: int) -> Iterator[Film]:
    died: list[Film] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, max(1, len(films))), context) as pool:
        futures = {pool.submit(_decode, film, store, config): film for film in films}
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                    yield futures[future]
                except BrokenProcessPool:
                    died.append(futures[future])
        finally:
            pool.shutdown(cancel_futures=True)
    # A decoder that dies takes what others wait for with it: each of these is tried again alone.
    for film in died:
        with ProcessPoolExecutor(1, context) as alone:
            try:
                alone.submit(_decode, film, store, config).result()
            except BrokenProcessPool:
                store.note(film.name, StoredVideo(windows=(), error="the process that decoded it died"))
        yield film


def _decode(film: Film, store: SnippetStore, config: ModelConfig) -> None:
    """One video into the store, or the reason why it is not there."""
    torch.set_num_threads(1)
    damage = ""

    def snippets() -> Iterator[tuple[Window, Record]]:
        nonlocal damage
        for made in read_snippets(film.info, config, Sampling(rate_hz=config.rate_hz)):
            if isinstance(made, Snippet):
                record = (made.frames_FHWC, made.frame_mask_F, made.log_mel_AM, made.mel_mask_A)
                yield (made.start_ns, made.stop_ns), record
            else:
                damage = damage or made.message

    try:
        stored = store.write(film.name, snippets())
    except MediaError as error:
        stored = store.note(film.name, StoredVideo(windows=(), error=str(error)))
    if not stored.windows and not stored.error:
        store.note(film.name, StoredVideo(windows=(), error=damage or "no picture could be decoded"))


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
        failures = {row.uri: row.message for row in self._reader.failures()}
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


def indexed_as_stored(source: TokenIndex, films: Sequence[Film], lengths: Sequence[int]) -> TokenSource:
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


def place_rows(
    rows: Sequence[FileRow], films: Sequence[Film], videos: Sequence[StoredVideo], most: int, bad: BadRows
) -> tuple[list[Row], list[Film], list[StoredVideo]]:
    """Rows over the snippets of the videos that could be read, and these videos; the other rows go to `bad`.

    Args:
        most: how many snippets a row may be about.
    """
    read = {film.path: (film, video) for film, video in zip(films, videos, strict=True)}
    placed: list[Row] = []
    numbers: dict[str, int] = {}
    for row in rows:
        film, video = read[row.path]
        if not video.windows:
            bad.add(row.line, row.video, f"{film.path}: {video.error}".replace(f"{film.path}: {film.path}", film.path))
            continue
        try:
            made = place_row(row, numbers.get(row.path, len(numbers)), video.windows)
            if made.snippets > most:
                raise ValueError(f"it is about {made.snippets} snippets, more than {most}; give it a span")
        except ValueError as error:
            bad.add(row.line, row.video, str(error))
            continue
        numbers.setdefault(row.path, len(numbers))
        placed.append(made)
    used = [read[path] for path in numbers]
    return placed, [film for film, _ in used], [video for _, video in used]


def store_for(path: Path, config: ModelConfig) -> SnippetStore:
    """The store of a run whose model has this config."""
    ConfigIntake(config=config).require_sampling(Sampling(rate_hz=config.rate_hz))
    return SnippetStore(path, config, Sampling(rate_hz=config.rate_hz).key())
