"""Asking an index: the public Python face, `longtake.open_index(path).ask("...")`.

A video's latents do not depend on the question, so they are computed once and kept: every further question about that
video costs only the decoding of its answer. A question about a span masks what the text decoder may look at; the
latents are always the whole video's.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longtake.operators.answering import Answerer
from longtake.operators.checkpoint import load_model
from longtake.operators.errors import InputError
from longtake.pipeline.moments import Moment, find_moments, snippets_in_span
from longtake.pipeline.tables import IndexReader, VideoRow

DEFAULT_CACHE_BYTES = 512 << 20
SHORTEST_ID_PREFIX = 4


@dataclass(frozen=True, kw_only=True)
class VideoAnswer:
    """The answer to one question about one video.

    `probability` is the model's own, 0 to 1. `moments` are where the answer looked, strongest first; none means that
    it looked at nothing in the video. `seen_until_s` is the end of the last snippet that the index holds; while
    `still_indexing`, what comes after it has not been seen. `votes` counts the sampled answers when votes were asked
    for. `unknown_words` are the words of the question and the choices that the model's vocabulary lacks: it has
    not understood them.
    """

    video: str
    video_id: str
    question: str
    answer: str
    probability: float
    moments: tuple[Moment, ...]
    seen_until_s: float
    still_indexing: bool
    from_s: float | None
    to_s: float | None
    votes: dict[str, int] | None
    unknown_words: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A question as it was asked, with its arguments checked."""

    question: str
    from_s: float | None
    to_s: float | None
    choices: tuple[str, ...] | None
    votes: int
    temperature: float
    seed: int

    def __post_init__(self) -> None:
        if not self.question:
            raise InputError("the question is empty")
        for name, value in (("from", self.from_s), ("to", self.to_s)):
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"the span's {name!r} must be a number of seconds from 0 on, not {value}")
        start_s = self.from_s or 0.0
        if self.to_s is not None and self.to_s <= start_s:
            raise InputError(f"the span stops at {self.to_s:g} s, which is not after its start at {start_s:g} s")
        if self.choices is not None:
            if len(self.choices) < 2 or not all(self.choices) or len(set(self.choices)) < len(self.choices):
                raise InputError(f"choices must be at least two different words, not {', '.join(self.choices)!r}")
            if self.votes > 1:
                raise InputError("choices and votes exclude each other: choices are scored, not sampled")
        if self.votes < 1:
            raise InputError(f"votes must be at least 1, not {self.votes}")
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"the temperature must be above 0, not {self.temperature}")

    @property
    def span(self) -> str:
        """The span in words."""
        return f"{self.from_s or 0.0:g} s to {'the end' if self.to_s is None else f'{self.to_s:g} s'}"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Watched:
    """A video as the decoder sees it: latents [T, m, D] and the snippets' windows."""

    latents_TmD: torch.Tensor
    start_ns_T: NDArray[np.int64]
    stop_ns_T: NDArray[np.int64]

    @property
    def size_bytes(self) -> int:
        return self.latents_TmD.nelement() * self.latents_TmD.element_size()

    @property
    def stop_s(self) -> float:
        return int(self.stop_ns_T[-1]) / 1e9 if len(self.stop_ns_T) else 0.0


class Index:
    """An index opened at one version. Made by `longtake.open_index`; to be used from one thread at a time.

    Everything read and answered is of the version that was opened, whatever is written meanwhile; `refresh` moves on
    to the newest one. The model's weights are loaded with the first question.
    """

    def __init__(self, path: str, *, model: str | None = None, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        """Open the index at `path`, a directory or any URI that Lance opens.

        Args:
            path: where `longtake index --into` wrote.
            model: a checkpoint directory or a preset's name; by default what the index was written with.
            cache_bytes: how much memory the latents of earlier questions may take; at least one video's are kept.
        Raises:
            InputError: there is no index at `path`.
            IndexMismatchError: another format version wrote it.
        """
        self.path = path
        self._model = model
        self._cache_bytes = cache_bytes
        self._watched: OrderedDict[tuple[str, int], _Watched] = OrderedDict()
        self._answerer: Answerer | None = None
        self._fingerprint = ""
        self._reader = IndexReader.open(path)
        self._rows = self._reader.videos()

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
        kept = [(video_id, watched) for (video_id, _), watched in self._watched.items() if video_id in unmoved]
        # A commit of one video must not cost the latents of all others: rows that did not change keep theirs.
        self._watched = OrderedDict(((video_id, reader.version), watched) for video_id, watched in kept)
        self._reader, self._rows = reader, rows
        if self._answerer is not None:
            reader.metadata.require_model(self._fingerprint, self._model or reader.model, self.path)
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
        given = name.strip()
        if not given:
            raise InputError("a video's name must not be empty")
        whole = os.path.normpath(Path(given).expanduser().absolute())
        ending = f"/{PurePath(given)}"
        candidates = (
            [row for row in self._rows if row.uri in (given, whole)],
            [row for row in self._rows if row.uri.endswith(ending)],
            [row for row in self._rows if PurePath(row.uri).stem == given],
            [row for row in self._rows if len(given) >= SHORTEST_ID_PREFIX and row.video_id.startswith(given)],
        )
        for found in candidates:
            # Copies of one file under several names are one video.
            if len({row.video_id or row.uri for row in found}) == 1:
                return found[0]
            if found:
                listed = ", ".join(f"{row.uri} ({row.video_id[:8] or 'no id'})" for row in found[:4])
                more = f" and {len(found) - 4} more" if len(found) > 4 else ""
                raise InputError(f"{given!r} names {len(found)} videos: {listed}{more}; give the path or the id")
        raise InputError(f"{self.path}: no video {given!r}{self._suggest(given)}")

    def _suggest(self, name: str) -> str:
        names = sorted({PurePath(row.uri).name for row in self._rows})
        if not names:
            return "; the index holds no video yet"
        # People leave the extension away.
        by_spelling = {PurePath(full).stem.lower(): full for full in names} | {full.lower(): full for full in names}
        spelled = difflib.get_close_matches(PurePath(name).name.lower(), by_spelling, n=3, cutoff=0.5)
        close = dict.fromkeys(by_spelling[spelling] for spelling in spelled)
        if close:
            return f"; did you mean {' or '.join(close)}?"
        return f"; it holds {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")

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
    ) -> list[VideoAnswer]:
        """Answer a question about one video, or about each video of the index.

        Args:
            question: in plain words.
            video: which one (see `find`); None asks about every video that has something indexed in the span.
            from_s, to_s: seconds of the video that may be looked at; None leaves that end open.
            choices: the answer is the likeliest of these.
            votes: with more than 1, so many answers are sampled at `temperature` from `seed`, and the commonest wins.
        Returns:
            One answer a video, in the order of `videos()`.
        Raises:
            InputError: an argument cannot be used, no video or several have that name, or nothing of it (or of the
                span) is indexed.
            IndexMismatchError: the model is not the one that wrote the index.
        """
        asked = _Asked(
            question=question.strip(),
            from_s=from_s,
            to_s=to_s,
            choices=None if choices is None else tuple(choice.strip() for choice in choices),
            votes=votes,
            temperature=temperature,
            seed=seed,
        )
        if video is not None:
            row = self.find(video)
            if row.snippets == 0:
                raise InputError(f"{row.uri}: nothing of it is indexed (status: {row.status})")
            answer = self._answer(row, asked)
            if answer is None:
                raise InputError(f"{row.uri}: {self._why_not(row, asked)}")
            return [answer]
        # Copies of one file under several names are asked once.
        by_id = {row.video_id: row for row in reversed(self._rows) if row.snippets > 0}
        if not by_id:
            raise InputError(f"{self.path}: holds nothing to ask about yet")
        rows = sorted(by_id.values(), key=lambda row: row.uri)
        answers = [answer for answer in (self._answer(row, asked) for row in rows) if answer is not None]
        if not answers:
            raise InputError(f"{self.path}: no video reaches into {asked.span}")
        return answers

    def _why_not(self, row: VideoRow, asked: _Asked) -> str:
        so_far = " so far" if row.status == "indexing" else ""
        return f"nothing in {asked.span} is indexed{so_far}; it is indexed up to {self._watch(row).stop_s:.1f} s"

    def _answer(self, row: VideoRow, asked: _Asked) -> VideoAnswer | None:
        """The answer about one video; None when nothing of it lies in the span."""
        watched = self._watch(row)
        mask_T = snippets_in_span(watched.start_ns_T, watched.stop_ns_T, asked.from_s, asked.to_s)
        if not mask_T.any():
            return None
        answerer = self._load()
        try:
            given = answerer.answer(
                watched.latents_TmD,
                asked.question,
                span_mask_T=None if mask_T.all() else torch.from_numpy(mask_T),
                choices=asked.choices,
                votes=asked.votes,
                temperature=asked.temperature,
                seed=asked.seed,
            )
        except ValueError as error:
            # What can still be wrong is the question itself: it is too long for the model.
            raise InputError(f"{asked.question[:40]!r}: {error}") from error
        unknown = [*given.unknown_words]
        for choice in asked.choices or ():
            unknown += answerer.loaded.tokenizer.unknown_words(choice)
        weights_T = given.weights_T.detach().cpu().float().numpy()
        return VideoAnswer(
            video=row.uri,
            video_id=row.video_id,
            question=asked.question,
            answer=given.text,
            probability=given.probability,
            moments=find_moments(weights_T[mask_T], watched.start_ns_T[mask_T], watched.stop_ns_T[mask_T]),
            seen_until_s=watched.stop_s,
            still_indexing=row.status == "indexing",
            from_s=asked.from_s,
            to_s=asked.to_s,
            votes=given.votes,
            unknown_words=tuple(dict.fromkeys(unknown)),
        )

    def _watch(self, row: VideoRow) -> _Watched:
        """The video's latents at this version: from the cache, else computed and kept there."""
        key = (row.video_id, self.version)
        watched = self._watched.get(key)
        if watched is not None:
            self._watched.move_to_end(key)
            return watched
        answerer = self._load()
        tokens_TmD, start_ns_T, stop_ns_T, _ = self._reader.tokens(row.video_id)
        watched = _Watched(
            latents_TmD=answerer.latents(torch.from_numpy(np.array(tokens_TmD))),
            start_ns_T=start_ns_T.astype(np.int64),
            stop_ns_T=stop_ns_T.astype(np.int64),
        )
        self._watched[key] = watched
        while len(self._watched) > 1 and self.cached_bytes > self._cache_bytes:
            self._watched.popitem(last=False)
        return watched

    @property
    def cached_bytes(self) -> int:
        """The size of the latents that are kept for later questions."""
        return sum(watched.size_bytes for watched in self._watched.values())

    def _load(self) -> Answerer:
        if self._answerer is None:
            name = self._model or self._reader.model
            loaded = load_model(name)
            self._reader.metadata.require_model(loaded.fingerprint, name, self.path)
            self._fingerprint = loaded.fingerprint
            self._answerer = Answerer(loaded)
        return self._answerer


def open_index(path: str | os.PathLike[str], *, model: str | None = None) -> Index:
    """Open an index for asking; see `Index`.

    Raises:
        InputError: there is no index at `path`.
        IndexMismatchError: another format version wrote it.
    """
    return Index(os.fspath(path), model=model)
