"""The videos of rows to train on: looked at, and decoded once into a store.

Snippets are read as indexing reads them. A run with learning encoders reads the store in every epoch.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from longtake.errors import LongTakeError, MediaError
from longtake.operators.model.config import ModelConfig
from longtake.operators.training.snippet_store import Record, SnippetStore, StoredVideo, Window
from longtake.pipeline.media.model_input import NativeInput
from longtake.pipeline.media.plan import Sampling, plan_rate
from longtake.pipeline.media.probe import MediaInfo, probe
from longtake.pipeline.media.snippet import Snippet
from longtake.pipeline.media.snippets import read_snippets
from longtake.pipeline.table.identity import file_state
from longtake.pipeline.training.rows import BadRows, FileRow


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
                # Messages about files begin with the name, which the row has already.
                wrong[row.path] = str(error).removeprefix(f"{row.path}: ")
        if row.path in wrong:
            bad.add(row.line, row.video, wrong[row.path])
        else:
            kept.append(row)
    return kept, list(films.values())


def store_for(path: Path, config: ModelConfig) -> SnippetStore:
    """The store of a run whose model has this config."""
    NativeInput(config=config).require_sampling(Sampling(rate_hz=config.rate_hz))
    return SnippetStore(path, config, Sampling(rate_hz=config.rate_hz).key())


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
    with ProcessPoolExecutor(min(workers, max(1, len(films))), context, torch.set_num_threads, (1,)) as pool:
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
    damage = ""

    def snippets() -> Iterator[tuple[Window, Record]]:
        nonlocal damage
        for made in read_snippets(film.info, config, Sampling(rate_hz=config.rate_hz)):
            if isinstance(made, Snippet):
                record = (made.frames_FHWC, made.frame_mask_F, made.sound_AM, made.mel_mask_A)
                yield (made.start_ns, made.stop_ns), record
            else:
                damage = damage or made.message

    try:
        stored = store.write(film.name, snippets())
    except MediaError as error:
        stored = store.note(film.name, StoredVideo(windows=(), error=str(error).removeprefix(f"{film.path}: ")))
    if not stored.windows and not stored.error:
        store.note(film.name, StoredVideo(windows=(), error=damage or "no picture could be decoded"))
