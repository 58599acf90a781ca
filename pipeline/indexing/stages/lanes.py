"""What every encode stage has in common: lanes, each following one video, and rows that wait for the next flush.

A lane joins pictures and sound to snippets. What becomes of a snippet is the stage's own business: it gives rows to
`keep`, with what its next snippet needs. Rows become part of the index only when the committer commits them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from longtake.pipeline.indexing.messages import Fed, LaneState, LaneWork
from longtake.pipeline.media.assemble import Assembler
from longtake.pipeline.media.model_input import ModelInput
from longtake.pipeline.media.segment import Damage, End, Pictures
from longtake.pipeline.media.snippet import Snippet
from longtake.pipeline.table.metadata import IndexMetadata
from longtake.pipeline.table.vlm_columns import Places
from longtake.pipeline.table.writer import SnippetRow, Written, write_snippets


@dataclass(eq=False, kw_only=True)
class Lane:
    """One video under way."""

    work: LaneWork
    assembler: Assembler
    # Parcels taken so far: the number of the one that has to come next.
    parcels: int = 0
    waiting: deque[Snippet] = field(default_factory=deque)
    damage: list[Damage] = field(default_factory=list)
    end_ns: int | None = None
    error: str = ""
    message: str = ""
    encoded: int = 0
    frames: int = 0
    reached_ns: int = 0

    @property
    def active(self) -> bool:
        """Whether snippets of this lane are still to come or to be encoded."""
        return not self.error and (self.end_ns is None or bool(self.waiting))


class LaneStage(ABC):
    """One encoder with `lanes` lanes. Deriving classes load the model, and `step` it."""

    def __init__(self, lanes: int, model_input: ModelInput, index_uri: str, metadata: IndexMetadata) -> None:
        self._input = model_input
        self._index_uri, self._metadata = index_uri, metadata
        self.lanes: list[Lane | None] = [None] * lanes
        self._rows: dict[str, list[SnippetRow]] = {}
        # The last snippet of each video under way that was written, or that the index held before.
        self._after: dict[str, int] = {}
        self._memories: dict[str, bytes] = {}
        self._row_bytes = 0

    @abstractmethod
    def step(self, ready: list[tuple[int, Lane, Snippet]]) -> None:
        """Encode one snippet of each of these lanes, and `keep` what comes of it."""

    def begin(self, lane: int, work: LaneWork) -> None:
        """Give a lane to a video."""
        self._after[work.video_id] = work.first - 1
        self.lanes[lane] = Lane(
            work=work,
            assembler=Assembler(self._input, work.plan, work.form, has_sound=work.has_sound, first=work.first),
        )

    def feed(self, where: list[tuple[int, int, int]], drain: bool, *parcels: Any) -> Fed:
        """Take parcels, encode what is whole, and tell how the lanes stand.

        Args:
            where: lane, run and number of each parcel. One for a lane that meanwhile follows another run is left out,
                and so is one that does not follow the last: a call whose parcels were lost on the way never came, and
                what comes after it waits for the run to be started again.
            drain: encode what there is, even while other lanes have nothing to encode beside it.
            parcels: for each of `where`, the items of a demux parcel, then its segment's `Pictures` or None.
        """
        for place, (number, run, parcel) in enumerate(where):
            lane = self.lanes[number]
            if lane is not None and lane.work.run == run and lane.parcels == parcel and not lane.error:
                lane.parcels += 1
                self._take(lane, parcels[2 * place], parcels[2 * place + 1])
        self._encode(drain)
        return self._report()

    def drop(self, lane: int, run: int) -> None:
        """Take a lane from a run that is to be started again, with the rows that no flush has written."""
        held = self.lanes[lane]
        if held is not None and held.work.run == run:
            self._forget(held.work.video_id)
            self.lanes[lane] = None

    def flush(self) -> Written:
        """Write every row that is kept into storage, each video's last one with its memory."""
        rows: list[SnippetRow] = []
        for video_id, kept in self._rows.items():
            kept[-1] = replace(kept[-1], memory=self._memories[video_id])
            rows += kept
        written = write_snippets(self._index_uri, self._metadata, rows, self._after)
        under_way = {lane.work.video_id for lane in self.lanes if lane is not None}
        self._after = {name: last for name, last in self._after.items() if name in under_way}
        self._after.update({name: span.last for name, span in written.spans.items() if name in under_way})
        self._rows, self._memories, self._row_bytes = {}, {}, 0
        return written

    def keep(
        self, lane: Lane, snippet: Snippet, tokens: np.ndarray, memory: bytes, places: Places | None = None
    ) -> None:
        """Keep an encoded snippet until the next flush; `memory` is what its successor needs of it."""
        pictures, video_id = int(snippet.frame_mask_F.sum()), lane.work.video_id
        row = SnippetRow(
            video_id=video_id,
            snippet=snippet.index,
            start_ns=snippet.start_ns,
            stop_ns=snippet.stop_ns,
            pictures=pictures,
            tokens=tokens,
            text=snippet.text,
            places=places,
        )
        self._rows.setdefault(video_id, []).append(row)
        self._memories[video_id] = memory
        self._row_bytes += row.tokens.nbytes
        lane.encoded += 1
        lane.frames += pictures
        lane.reached_ns = snippet.stop_ns

    def _take(self, lane: Lane, items: list[Any], pictures: Pictures | None) -> None:
        # One video's trouble must not end the other lanes': it is reported, and the lane rests.
        try:
            for item in [*items, *([pictures] if pictures is not None else [])]:
                for made in lane.assembler.push(item):
                    if isinstance(made, Snippet):
                        lane.waiting.append(made)
                    else:
                        lane.damage.append(made)
                if isinstance(item, End):
                    lane.end_ns = item.end_ns
        except Exception as error:
            lane.error, lane.message = type(error).__name__, str(error)
            lane.waiting.clear()

    def _encode(self, drain: bool) -> None:
        while True:
            active = [lane for lane in self.lanes if lane is not None and lane.active]
            ready = [
                (number, lane)
                for number, lane in enumerate(self.lanes)
                if lane is not None and lane.waiting and not lane.error
            ]
            if not ready or (not drain and len(ready) < len(active)):
                return
            self.step([(number, lane, lane.waiting.popleft()) for number, lane in ready])

    def _report(self) -> Fed:
        states: list[LaneState] = []
        for number, lane in enumerate(self.lanes):
            if lane is None:
                continue
            states.append(
                LaneState(
                    run=lane.work.run,
                    waiting=len(lane.waiting),
                    encoded=lane.encoded,
                    frames=lane.frames,
                    reached_ns=lane.reached_ns,
                    damage=tuple(lane.damage),
                    end_ns=None if lane.active else lane.end_ns,
                    error=lane.error,
                    message=lane.message,
                )
            )
            lane.encoded = lane.frames = 0
            lane.damage = []
            if not lane.active:
                self.lanes[number] = None
        return Fed(lanes=tuple(states), row_bytes=self._row_bytes)

    def _forget(self, video_id: str) -> None:
        self._row_bytes -= sum(row.tokens.nbytes for row in self._rows.pop(video_id, []))
        self._memories.pop(video_id, None)
