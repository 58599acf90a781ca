"""Asking an index: the public Python face, `longtake.open_index(path).ask("...")`."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from longtake.errors import IndexMismatchError, InputError
from longtake.pipeline.answering.find_video import find_video
from longtake.pipeline.answering.moments import snippets_in_span
from longtake.pipeline.answering.native import NativeBackend
from longtake.pipeline.answering.question import Asked, Backend, StreamedAnswer, VideoAnswer
from longtake.pipeline.answering.vlm import VlmBackend
from longtake.pipeline.table.metadata import is_vlm
from longtake.pipeline.table.schema import IndexReader, VideoRow

DEFAULT_CACHE_BYTES = 512 << 20


class Index:
    """An index opened at one version. Made by `longtake.open_index`; to be used from one thread at a time.

    Everything read and answered is of the version that was opened, whatever is written meanwhile; `refresh` moves on
    to the newest one. The model's weights are loaded with the first question.
    """

    def __init__(self, path: str, *, model: str | None = None, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        """Open the index at `path`, a directory or any URI that Lance opens.

        Args:
            path: where `longtake index --into` wrote.
            model: a checkpoint directory or a preset's name, or `vlm:` and the directory or hub name of a public model;
                by default what the index was written with.
            cache_bytes: how much memory may be taken by what earlier questions left for further ones (latents, or a
                public model's state after a video); at least one video's are kept.
        Raises:
            InputError: there is no index at `path`.
            IndexMismatchError: another format version wrote it, or another kind of model than `model`.
        """
        self.path = path
        self._model, self._cache_bytes = model, cache_bytes
        self._reader = IndexReader.open(path)
        self._rows = self._reader.videos()
        self._backend = self._make_backend()

    def _make_backend(self) -> Backend:
        metadata, model = self._reader.metadata, self._model
        if model is not None and is_vlm(model) != (metadata.kind == "vlm"):
            kind = "the public model" if metadata.kind == "vlm" else "LongTake's model"
            raise IndexMismatchError(f"{self.path}: indexed with {kind} {metadata.model}, which {model} cannot be")
        make = VlmBackend if metadata.kind == "vlm" else NativeBackend
        return make(self._reader, self.path, model, self._cache_bytes)

    @property
    def version(self) -> int:
        """The table version that answers are given from; it grows with every commit."""
        return self._reader.version

    def refresh(self) -> bool:
        """Move to the newest version; True when there was a newer one.

        Raises:
            InputError: the index is gone.
            IndexMismatchError: it has been rebuilt with another model.
        """
        reader = IndexReader.open(self.path)
        rows = reader.videos()
        if reader.version == self.version and rows == self._rows:
            return False
        before = {row.video_id: row for row in self._rows}
        unmoved = {row.video_id for row in rows if before.get(row.video_id) == row}
        changed_kind = reader.metadata.kind != self._reader.metadata.kind
        self._reader, self._rows = reader, rows
        if changed_kind:
            self._backend = self._make_backend()
        self._backend.move(reader, unmoved)
        return True

    def videos(self) -> list[VideoRow]:
        """Every file of the index by uri, with its status and how many snippets are there so far."""
        return list(self._rows)

    def find(self, name: str) -> VideoRow:
        """The one video that `name` names.

        Args:
            name: its uri or path, the end of its path (`season1/part2.mp4`), its base name with or without the
                extension, or at least four characters from the start of its id.
        Raises:
            InputError: no video has that name (similar names are suggested), or several have it.
        """
        return find_video(self._rows, name, self.path)

    def ask(
        self,
        question: str,
        video: str | None = None,
        from_s: float | None = None,
        to_s: float | None = None,
        choices: Sequence[str] | None = None,
        votes: int = 1,
        temperature: float = 0.8,
        seed: int = 0,
        limit: int | None = None,
        look_closer: int | None = None,
    ) -> list[VideoAnswer]:
        """Answer a question about one video, or about each video of the index.

        Args:
            question: in plain words.
            video: which one (see `find`); None asks about every video that has something indexed in the span.
            from_s, to_s: seconds of the video that may be looked at; None leaves that end open.
            choices: the answer is the likeliest of these.
            votes: with more than 1, so many answers are sampled at `temperature` from `seed`, and the commonest wins.
            limit: how many tokens an answer may have (public models only; 256 by default).
            look_closer: read the video coarsely first, one token a step, then only the so many snippets that the
                question needs most, in full (public models only): for videos whose tokens are more than the model
                reads well or quickly.
        Returns:
            One answer a video, in the order of `videos()`.
        Raises:
            InputError: an argument cannot be used, no video or several have that name, or nothing of it (or of the
                span) is indexed.
            IndexMismatchError: the model is not the one that wrote the index.
        """
        asked = Asked(
            question=question.strip(),
            from_s=from_s,
            to_s=to_s,
            choices=None if choices is None else tuple(choice.strip() for choice in choices),
            votes=votes,
            temperature=temperature,
            seed=seed,
            limit=limit,
            look_closer=look_closer,
        )
        if video is not None:
            row, mask_T = self._one(video, asked)
            return [self._answer(row, asked, mask_T)]
        rows = self.to_ask()
        if not rows:
            raise InputError(f"{self.path}: holds nothing to ask about yet")
        # One video after the other: what was computed of it for its span is still there for its answer.
        answers = [self._answer(row, asked, mask_T) for row in rows if (mask_T := self._in_span(row, asked)).any()]
        if not answers:
            raise InputError(f"{self.path}: no video reaches into {asked.span}")
        return answers

    def stream(
        self,
        question: str,
        video: str,
        from_s: float | None = None,
        to_s: float | None = None,
        limit: int | None = None,
        look_closer: int | None = None,
    ) -> StreamedAnswer:
        """The likeliest answer about one video, in pieces as they are decoded.

        LongTake's own models answer in one piece. The arguments are those of `ask`, and so is what is raised: about
        the question itself, with the first piece.
        """
        asked = Asked(question=question.strip(), from_s=from_s, to_s=to_s, limit=limit, look_closer=look_closer)
        row, mask_T = self._one(video, asked)

        def pieces() -> Generator[str, None, VideoAnswer]:
            with _about(asked):
                return (yield from self._backend.stream(row, asked, mask_T))

        return StreamedAnswer(row.uri, pieces())

    def load(self) -> None:
        """Load the model's weights now; otherwise the first question waits for them.

        Raises:
            InputError: they cannot be loaded.
            IndexMismatchError: the model is not the one that wrote the index.
        """
        self._backend.load()

    def to_ask(self) -> list[VideoRow]:
        """The videos that have something to ask about, by uri; copies of one file under several names count once."""
        by_id = {row.video_id: row for row in reversed(self._rows) if row.snippets > 0}
        return sorted(by_id.values(), key=lambda row: row.uri)

    @property
    def cached_bytes(self) -> int:
        """The size of what is kept for later questions."""
        return self._backend.cached_bytes

    def _one(self, video: str, asked: Asked) -> tuple[VideoRow, NDArray[np.bool_]]:
        """A video by name, and which of its snippets lie in the span."""
        row = self.find(video)
        if row.snippets == 0:
            raise InputError(f"{row.uri}: nothing of it is indexed (status: {row.status})")
        mask_T = self._in_span(row, asked)
        if not mask_T.any():
            so_far = " so far" if row.status == "indexing" else ""
            stop_s = self._backend.windows(row).stop_s
            raise InputError(
                f"{row.uri}: nothing in {asked.span} is indexed{so_far}; it is indexed up to {stop_s:.1f} s"
            )
        return row, mask_T

    def _in_span(self, row: VideoRow, asked: Asked) -> NDArray[np.bool_]:
        windows = self._backend.windows(row)
        return snippets_in_span(windows.start_ns_T, windows.stop_ns_T, asked.from_s, asked.to_s)

    def _answer(self, row: VideoRow, asked: Asked, mask_T: NDArray[np.bool_]) -> VideoAnswer:
        with _about(asked):
            return self._backend.answer(row, asked, mask_T)


@contextmanager
def _about(asked: Asked) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        # What can still be wrong is the question itself: it is too long for the model, say.
        raise InputError(f"{asked.question[:40]!r}: {error}") from error


def open_index(path: str | os.PathLike[str], *, model: str | None = None) -> Index:
    """Open an index for asking; see `Index`.

    Raises:
        InputError: there is no index at `path`.
        IndexMismatchError: another format version wrote it, or another kind of model than `model`.
    """
    return Index(os.fspath(path), model=model)
