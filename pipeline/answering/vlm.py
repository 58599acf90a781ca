"""Answers with a public vision-language model over the tokens that an index holds.

The model reads a video's tokens once; its state after them is kept, and every further question about that video (or
that span of it) costs only the question and the answer. A closer look reads a coarse version of the video first, takes
the snippets that the question looks at, and answers from those in full, at the positions that they have in the video.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from longtake.operators.vlm import Decoding, Prefix, VideoTokens, VLMAnswerer, load_vlm, read_video
from longtake.operators.vlm.coarse import coarse
from longtake.operators.vlm.describe import describe_vlm
from longtake.pipeline.answering.byte_cache import Kept
from longtake.pipeline.answering.question import Asked, Backend, VideoAnswer, video_answer
from longtake.pipeline.table.metadata import vlm_path
from longtake.pipeline.table.schema import IndexReader, VideoRow

# Of what is drawn when votes are asked for.
SHARE = 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """A video's tokens as they were read from the index."""

    video: VideoTokens

    @property
    def size_bytes(self) -> int:
        """What they take, with the joined copy that `VideoTokens` makes."""
        return 2 * sum(one.tokens_ND.nbytes + one.places_N4.nbytes for one in self.video.snippets)


# A video's id, what of it is kept, and the mask of its snippets.
Key = tuple[str, str, bytes]


class VlmBackend(Backend):
    """Keeps the model's states after videos and spans, and the tokens that they were made from.

    The model runs in bfloat16 on a GPU where there is one, else in float32 on the CPU.
    """

    def __init__(self, reader: IndexReader, path: str, model: str | None, cache_bytes: int) -> None:
        super().__init__(reader, path, model, cache_bytes)
        self._kept: Kept[Key, Prefix | Stored] = Kept(cache_bytes)
        self._answerer: VLMAnswerer | None = None
        self._fingerprint = ""

    @property
    def cached_bytes(self) -> int:
        return self._kept.size_bytes

    @property
    def _runs(self) -> tuple[torch.dtype, str]:
        """In what the model computes, and where."""
        return (torch.bfloat16, "cuda") if torch.cuda.is_available() else (torch.float32, "cpu")

    def move(self, reader: IndexReader, unmoved: set[str]) -> None:
        self._kept.drop(lambda key: key[0] not in unmoved)
        super().move(reader, unmoved)
        if self._answerer is not None:
            reader.metadata.require_model(self._fingerprint, self.model, self.path)

    def answer(self, row: VideoRow, asked: Asked, mask_T: NDArray[np.bool_]) -> VideoAnswer:
        answerer, (prefix, looked_T) = self.load(), self._read(row, asked, mask_T)
        answer = answerer.answer(prefix, asked.question, _decoding(asked), choices=asked.choices, votes=asked.votes)
        return video_answer(row, asked, self.windows(row), answer, looked_T, self._notes(prefix))

    def stream(self, row: VideoRow, asked: Asked, mask_T: NDArray[np.bool_]) -> Generator[str, None, VideoAnswer]:
        answerer, (prefix, looked_T) = self.load(), self._read(row, asked, mask_T)
        # The index may be refreshed between two pieces; the answer stays one of the version that it began with.
        windows = self.windows(row)
        pieces = answerer.stream(prefix, asked.question, _decoding(asked))
        yield from pieces
        return video_answer(row, asked, windows, pieces.answer, looked_T, self._notes(prefix))

    def load(self) -> VLMAnswerer:
        if self._answerer is None:
            path = vlm_path(self.model)
            # The wrong model is refused before gigabytes of it are read.
            self._fingerprint = describe_vlm(path).fingerprint
            self.reader.metadata.require_model(self._fingerprint, self.model, self.path)
            self._answerer = VLMAnswerer(load_vlm(path, *self._runs))
        return self._answerer

    def prefix(self, row: VideoRow, mask_T: NDArray[np.bool_], *, first_look: bool = False) -> Prefix:
        """The model's state after the snippets of `mask_T`: what was kept, else computed and kept."""
        key = (row.video_id, "first look" if first_look else "prefix", mask_T.tobytes())
        found = self._kept.get(key)
        if isinstance(found, Prefix):
            return found
        video = self._stored(row)
        if first_look:
            video = coarse(video)
        keep_S = None if mask_T.all() else video.of_snippets(torch.from_numpy(mask_T))
        prefix = read_video(self.load().vlm, video, keep_S=keep_S)
        self._kept.put(key, prefix)
        return prefix

    def _read(self, row: VideoRow, asked: Asked, mask_T: NDArray[np.bool_]) -> tuple[Prefix, NDArray[np.bool_]]:
        """The state to answer from, and the snippets that are in it."""
        if asked.look_closer is None or int(mask_T.sum()) <= asked.look_closer:
            return self.prefix(row, mask_T), mask_T
        weights_T = self.load().evidence(self.prefix(row, mask_T, first_look=True), asked.question).numpy()
        order = np.argsort(-np.where(mask_T, weights_T, -1.0), kind="stable")
        looked_T = np.zeros_like(mask_T)
        looked_T[order[: asked.look_closer]] = True
        return self.prefix(row, looked_T), looked_T

    def _stored(self, row: VideoRow) -> VideoTokens:
        key = (row.video_id, "tokens", b"")
        found = self._kept.get(key)
        if isinstance(found, Stored):
            return found.video
        video, *_ = self.reader.video_tokens(row.video_id, dtype=self._runs[0])
        self._kept.put(key, Stored(video=video))
        return video

    def _notes(self, prefix: Prefix) -> tuple[str, ...]:
        trained, used = self.load().vlm.trained_positions, prefix.layout.next_position
        if used <= trained:
            return ()
        return (
            f"the video reaches to position {used} and the model was made for {trained}: what it says about the end may"
            " be wrong",
        )


def _decoding(asked: Asked) -> Decoding:
    limit = Decoding().limit if asked.limit is None else asked.limit
    if asked.votes == 1:
        return Decoding(limit=limit)
    return Decoding(limit=limit, temperature=asked.temperature, share=SHARE, seed=asked.seed)
