"""What asking an index takes and gives, whichever kind of model answers.

A backend answers about one video of an index: `answer_native` with LongTake's own models, `answer_vlm` with a public
vision-language model.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longtake.errors import InputError
from longtake.operators.model.answering import Answer
from longtake.pipeline.answering.byte_cache import Kept
from longtake.pipeline.answering.moments import Moment, find_moments
from longtake.pipeline.table.schema import IndexReader, VideoRow

# Snippets' windows are small, 16 bytes each: this much holds those of four million, and more are read again.
WINDOWS_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class VideoAnswer:
    """The answer to one question about one video.

    `probability` is the model's own, 0 to 1. `moments` are where the answer looked, strongest first; none means that
    it looked at nothing in the video. `seen_until_s` is the end of the last snippet that the index holds; while
    `still_indexing`, what comes after it has not been seen. `votes` counts the sampled answers when votes were asked
    for. `unknown_words` are the words of the question and the choices that the model's vocabulary lacks: it has
    not understood them. `notes` are sentences about what makes the answer less sure.
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
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question as it was asked, with its arguments checked; see `Index.ask` for what they mean."""

    question: str
    from_s: float | None = None
    to_s: float | None = None
    choices: tuple[str, ...] | None = None
    votes: int = 1
    temperature: float = 0.8
    seed: int = 0
    limit: int | None = None
    look_closer: int | None = None

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
        if self.limit is not None and self.limit < 1:
            raise InputError(f"an answer takes at least 1 token, so the limit cannot be {self.limit}")
        if self.look_closer is not None and self.look_closer < 1:
            raise InputError(f"at least 1 snippet can be looked at closer, not {self.look_closer}")

    @property
    def span(self) -> str:
        """The span in words."""
        return f"{self.from_s or 0.0:g} s to {'the end' if self.to_s is None else f'{self.to_s:g} s'}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """When the snippets that the index holds of a video begin and end, int64 [T] each, in time order."""

    start_ns_T: NDArray[np.int64]
    stop_ns_T: NDArray[np.int64]

    @property
    def stop_s(self) -> float:
        """The end of the last one; 0 where there is none."""
        return int(self.stop_ns_T[-1]) / 1e9 if len(self.stop_ns_T) else 0.0

    @property
    def size_bytes(self) -> int:
        """What they take."""
        return self.start_ns_T.nbytes + self.stop_ns_T.nbytes


def video_answer(
    row: VideoRow,
    asked: Asked,
    windows: Windows,
    answer: Answer,
    looked_T: NDArray[np.bool_],
    notes: tuple[str, ...] = (),
) -> VideoAnswer:
    """A model's answer about a video, with its moments among the snippets that it could look at, `looked_T` bool."""
    weights_T = answer.weights_T.detach().cpu().float().numpy()
    return VideoAnswer(
        video=row.uri,
        video_id=row.video_id,
        question=asked.question,
        answer=answer.text,
        probability=answer.probability,
        moments=find_moments(weights_T[looked_T], windows.start_ns_T[looked_T], windows.stop_ns_T[looked_T]),
        seen_until_s=windows.stop_s,
        still_indexing=row.status == "indexing",
        from_s=asked.from_s,
        to_s=asked.to_s,
        votes=answer.votes,
        unknown_words=answer.unknown_words,
        notes=notes,
    )


class Backend(ABC):
    """Answers about the videos of one index version with one model, whose weights are loaded when they are needed.

    Args:
        path: the index, for messages.
        model: what to answer with; None for what the index was written with.
        cache_bytes: how much memory may be taken by what is kept of earlier questions.
    """

    def __init__(self, reader: IndexReader, path: str, model: str | None, cache_bytes: int) -> None:
        self.reader, self.path, self.cache_bytes = reader, path, cache_bytes
        self._model = model
        self._windows: Kept[str, Windows] = Kept(WINDOWS_BYTES)

    @property
    def model(self) -> str:
        """The name or path of the model."""
        return self._model or self.reader.model

    @property
    @abstractmethod
    def cached_bytes(self) -> int:
        """How much memory is taken by what is kept of earlier questions."""

    def move(self, reader: IndexReader, unmoved: set[str]) -> None:
        """Go on with another version of the index; what is kept of the videos `unmoved` (by id) stays good.

        Raises:
            IndexMismatchError: the loaded model did not write it.
        """
        self._windows.drop(lambda video_id: video_id not in unmoved)
        self.reader = reader

    @abstractmethod
    def load(self) -> object:
        """Load the model's weights, once.

        Raises:
            InputError: they cannot be loaded.
            IndexMismatchError: they did not write the index.
        """

    def windows(self, row: VideoRow) -> Windows:
        """The snippets that there are of a video at this version. Neither the model nor a token is read for it."""
        found = self._windows.get(row.video_id)
        if found is not None:
            return found
        start_ns_T, stop_ns_T = self.reader.windows(row.video_id)
        return self._windows.put(row.video_id, Windows(start_ns_T=start_ns_T, stop_ns_T=stop_ns_T))

    @abstractmethod
    def answer(self, row: VideoRow, asked: Asked, mask_T: NDArray[np.bool_]) -> VideoAnswer:
        """Answer about the snippets of `mask_T`, of which there is at least one.

        Raises:
            ValueError: the question cannot be used.
            InputError: the model cannot be loaded, or does not do what was asked for.
            IndexMismatchError: the model did not write the index.
        """

    @abstractmethod
    def stream(self, row: VideoRow, asked: Asked, mask_T: NDArray[np.bool_]) -> Generator[str, None, VideoAnswer]:
        """The same, the answer's text in pieces as they are decoded. Raises with the first piece."""


class StreamedAnswer(Iterator[str]):
    """The pieces of one answer as they are decoded; made by `Index.stream`. Nothing runs before the first one.

    `video` is the uri of the video that is asked. Asking for a piece raises what `Index.ask` raises.
    """

    def __init__(self, video: str, pieces: Generator[str, None, VideoAnswer]) -> None:
        self.video = video
        self._pieces = pieces
        self._answer: VideoAnswer | None = None

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as stop:
            if self._answer is None:
                self._answer = stop.value
            raise

    @property
    def answer(self) -> VideoAnswer:
        """The whole answer. Its text is the pieces together, without blanks at both ends.

        Raises:
            ValueError: there are pieces left.
        """
        if self._answer is None:
            raise ValueError("the answer is not finished: there are pieces left")
        return self._answer

    def finish(self) -> VideoAnswer:
        """Decode the rest and return the whole answer."""
        for _ in self:
            pass
        return self.answer
