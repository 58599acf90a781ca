"""Answers with LongTake's own models.

A video's latents do not depend on the question, so they are computed once and kept: every further question about that
video costs only the decoding of its answer. A question about a span masks what the text decoder may look at; the
latents are always the whole video's.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from longtake.errors import InputError
from longtake.operators.model.answering import Answerer
from longtake.operators.model.checkpoint import load_model
from longtake.pipeline.answering.byte_cache import Kept
from longtake.pipeline.answering.question import Asked, Backend, VideoAnswer, video_answer
from longtake.pipeline.table.schema import IndexReader, VideoRow


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """A video as the decoder sees it: latents [T, m, D]."""

    latents_TmD: torch.Tensor

    @property
    def size_bytes(self) -> int:
        """What the latents take."""
        return self.latents_TmD.nelement() * self.latents_TmD.element_size()


class NativeBackend(Backend):
    """Keeps latents by video."""

    def __init__(self, reader: IndexReader, path: str, model: str | None, cache_bytes: int) -> None:
        super().__init__(reader, path, model, cache_bytes)
        self._kept: Kept[str, Watched] = Kept(cache_bytes)
        self._answerer: Answerer | None = None

    @property
    def cached_bytes(self) -> int:
        return self._kept.size_bytes

    def move(self, reader: IndexReader, unmoved: set[str]) -> None:
        # A commit of one video must not cost the latents of all others: rows that did not change keep theirs.
        self._kept.drop(lambda video_id: video_id not in unmoved)
        super().move(reader, unmoved)
        if self._answerer is not None:
            reader.metadata.require_model(self._answerer.loaded.fingerprint, self.model, self.path)

    def watch(self, row: VideoRow) -> Watched:
        """The video's latents at this version: what was kept, else computed and kept."""
        found = self._kept.get(row.video_id)
        if found is not None:
            return found
        answerer = self.load()
        tokens_TmD, *_ = self.reader.tokens(row.video_id)
        latents_TmD = answerer.latents(torch.from_numpy(np.array(tokens_TmD)))
        return self._kept.put(row.video_id, Watched(latents_TmD=latents_TmD))

    def answer(self, row: VideoRow, asked: Asked, mask_T: NDArray[np.bool_]) -> VideoAnswer:
        for option, value in (("a limit", asked.limit), ("a closer look", asked.look_closer)):
            if value is not None:
                raise InputError(f"{option} is for public models (vlm:...), and {self.model} is LongTake's own")
        watched, answerer = self.watch(row), self.load()
        answer = answerer.answer(
            watched.latents_TmD,
            asked.question,
            span_mask_T=None if mask_T.all() else torch.from_numpy(mask_T),
            choices=asked.choices,
            votes=asked.votes,
            temperature=asked.temperature,
            seed=asked.seed,
        )
        unknown = [*answer.unknown_words]
        for choice in asked.choices or ():
            unknown += answerer.loaded.tokenizer.unknown_words(choice)
        answer = replace(answer, unknown_words=tuple(dict.fromkeys(unknown)))
        return video_answer(row, asked, self.windows(row), answer, mask_T)

    def stream(self, row: VideoRow, asked: Asked, mask_T: NDArray[np.bool_]) -> Generator[str, None, VideoAnswer]:
        # Answers are a word or two: one piece.
        answer = self.answer(row, asked, mask_T)
        yield answer.answer
        return answer

    def load(self) -> Answerer:
        if self._answerer is None:
            loaded = load_model(self.model, encoders=False)
            self.reader.metadata.require_model(loaded.fingerprint, self.model, self.path)
            self._answerer = Answerer(loaded)
        return self._answerer
