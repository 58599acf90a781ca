"""The demux stage: looks at files, hashes them, and hands them on piece by piece, as fast as it is asked to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from longtake.errors import MediaError
from longtake.pipeline.indexing.messages import Looked, ParcelNote
from longtake.pipeline.media.demux import Item, demux, make_plan
from longtake.pipeline.media.geometry import PictureFormat
from longtake.pipeline.media.model_input import ModelInput
from longtake.pipeline.media.plan import Plan, Sampling
from longtake.pipeline.media.probe import MediaInfo, probe
from longtake.pipeline.media.segment import End, Pictures, Reader, Segment, SoundChunk
from longtake.pipeline.table.identity import content_hash, file_state

# Where samples are rare, sound alone fills a parcel: this much of it is about a minute.
PARCEL_BYTES = 4 << 20


class DemuxStage:
    """Any number of files at once, each known by the number of its run."""

    def __init__(self, model_input: ModelInput, sampling: Sampling, reader: Reader) -> None:
        self._input = model_input
        self._sampling = sampling
        self._reader: Reader = reader
        self._runs: dict[int, Iterator[Item]] = {}

    def look(self, uri: str, known_hash: str) -> Looked:
        """Identify and probe a file. `known_hash` is its content's where that is known, so that it is not read."""
        size_bytes = mtime_ns = 0
        content = known_hash
        try:
            # The state first: a file that changes while it is read is then noticed by the next job.
            state = file_state(uri)
            size_bytes, mtime_ns = state.size_bytes, state.mtime_ns
            content = content or content_hash(uri)
            info = probe(uri)
            plan = make_plan(info, self._sampling, self._input.frames)
            peak = self._input.sound_peak(info) if info.audio is not None else None
        except MediaError as error:
            return Looked(
                size_bytes=size_bytes,
                mtime_ns=mtime_ns,
                content_hash=content,
                error=type(error).__name__,
                message=str(error),
            )
        return Looked(
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            content_hash=content,
            info=info,
            plan=plan,
            form=self._input.picture_format(info),
            sound_peak=peak,
        )

    def start(self, run: int, info: MediaInfo, plan: Plan, form: PictureFormat, first: int) -> None:
        """Begin to read a file for its snippets from number `first` on."""
        heard = info if self._input.hears else dataclasses.replace(info, audio=None)
        self._runs[run] = demux(heard, plan, form, first=first, reader=self._reader)

    def read(self, run: int) -> tuple[ParcelNote, list[Item], Segment | None]:
        """The next parcel of a run: items in their order, and a segment that comes after them or None.

        Raises:
            MediaError: the file can no longer be read.
        """
        items: list[Item] = []
        item_bytes = 0
        segment: Segment | None = None
        last = False
        for item in self._runs[run]:
            if isinstance(item, Segment):
                segment = item
                break
            items.append(item)
            if isinstance(item, SoundChunk | Pictures):
                item_bytes += item.size_bytes
            last = isinstance(item, End)
            if last or isinstance(item, Pictures) or item_bytes >= PARCEL_BYTES:
                break
        if last:
            self.stop(run)
        note = ParcelNote(
            item_bytes=item_bytes,
            segment_bytes=segment.size_bytes if segment else 0,
            picture_bytes=len(segment.sample_ns) * segment.form.size_bytes if segment else 0,
            start_ns=segment.start_ns if segment else 0,
            stop_ns=segment.stop_ns if segment else 0,
            last=last,
        )
        return note, items, segment

    def stop(self, run: int) -> None:
        """Close a run's file."""
        self._runs.pop(run, None)
