"""A group of pictures too long to be collected: decoded through PyAV as its packets come, with flat memory."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.media.decode import Scaler, placement_of
from longtake.pipeline.media.geometry import PictureFormat
from longtake.pipeline.media.plan import Plan
from longtake.pipeline.media.probe import MediaInfo, to_ns
from longtake.pipeline.media.segment import Damage, Pictures, one_line

# Pictures are handed on in batches of at most this many, and of about so many bytes.
BATCH, BATCH_BYTES = 64, 16 << 20


class LongGroup:
    """Packets in, `Pictures` out. The same rule as for a segment: a sample shows the frame whose interval covers it,
    intervals being those of the packets, so that a frame that does not come out of the decoder leaves a hole."""

    def __init__(
        self,
        info: MediaInfo,
        stream: Any,
        plan: Plan,
        form: PictureFormat,
        *,
        start_ns: int,
        first_sample: int,
        refused: bool,
        threads: int,
    ) -> None:
        """`refused`: decord was forced, which cannot do this: everything is recorded as damage."""
        self._video, self._plan, self._refused = info.video, plan, refused
        self._placement = placement_of(info.video.picture, form)
        self._scaler = Scaler(self._placement)
        self._context = stream.codec_context
        if not refused:
            # Open already where an earlier long group of the same file was decoded.
            if not self._context.is_open:
                self._context.thread_count = threads
            self._context.flush_buffers()
        self._start_ns = self._done_ns = start_ns
        self._next_sample = max(first_sample, plan.first_sample_at(start_ns))
        # Presentation times of the shown packets that were fed, from the held frame's on.
        self._times: list[int] = []
        self._hidden: set[int] = set()
        self._held: tuple[int, Any] | None = None
        self._most = max(1, min(BATCH, BATCH_BYTES // form.size_bytes))
        self._rows: list[NDArray[np.uint8] | None] = []
        self._first_row = self._next_sample
        self._error: Exception | None = None

    def feed(self, packet: Any, pts: int, hidden: bool) -> Iterator[Pictures]:
        """Take the next packet in decoding order; `pts` counts from the first picture."""
        if hidden:
            self._hidden.add(pts)
        else:
            insort(self._times, self._ns(pts))
        if not self._refused:
            yield from self._decode(packet)

    def finish(self, stop_ns: int) -> Iterator[Pictures | Damage]:
        """Everything up to `stop_ns`, where the group's last picture's time is over."""
        if self._refused:
            yield Damage(
                stage="decode",
                start_ns=self._start_ns,
                stop_ns=stop_ns,
                error="LongGroup",
                message="decord was asked for and cannot read a group of pictures this long (use the reader pyav)",
            )
        else:
            yield from self._decode(None)
            self._context.flush_buffers()
        yield from self._show_until(stop_ns)
        yield from self._batch(stop_ns)

    def _ns(self, pts: int) -> int:
        return to_ns(pts, self._video.time_base)

    def _decode(self, packet: Any) -> Iterator[Pictures]:
        try:
            frames = self._context.decode(packet)
        except av.error.FFmpegError as error:
            self._error = error
            return
        for frame in frames:
            if frame.pts is None:
                continue
            pts = frame.pts - self._video.start_pts
            if pts in self._hidden:
                self._hidden.discard(pts)
                continue
            start_ns = self._ns(pts)
            yield from self._show_until(start_ns)
            self._held = (start_ns, frame)

    def _show_until(self, stop_ns: int) -> Iterator[Pictures]:
        """Fill the samples before `stop_ns` with the held frame, as far as its interval goes; the rest is a hole."""
        samples = self._plan.samples_in(self._done_ns, stop_ns)
        if self._held is not None:
            start_ns, frame = self._held
            after = bisect_right(self._times, start_ns)
            until_ns = min(stop_ns, self._times[after]) if after < len(self._times) else stop_ns
            picture = None
            for sample in samples:
                if sample < self._next_sample:
                    continue
                if self._plan.sample_ns(sample) >= until_ns:
                    break
                if picture is None:
                    picture = self._scaler.scale(frame)
                yield from self._row(picture)
            del self._times[: bisect_right(self._times, start_ns)]
        while self._next_sample < samples.stop:
            yield from self._row(None)
        self._done_ns = max(self._done_ns, stop_ns)

    def _row(self, picture: NDArray[np.uint8] | None) -> Iterator[Pictures]:
        self._rows.append(picture)
        self._next_sample += 1
        if len(self._rows) >= self._most:
            yield from self._batch(self._plan.sample_ns(self._next_sample - 1) + 1)

    def _batch(self, stop_ns: int) -> Iterator[Pictures]:
        rows, self._rows = self._rows, []
        if not rows and stop_ns <= self._start_ns:
            return
        shape = (self._placement.height, self._placement.width, 3)
        scaled = np.zeros((len(rows), *shape), dtype=np.uint8)
        for i, row in enumerate(rows):
            if row is not None:
                scaled[i] = row
        mask = np.array([row is not None for row in rows], dtype=np.bool_)
        damage: tuple[Damage, ...] = ()
        if not self._refused and not mask.all():
            lost = [self._first_row + i for i in np.flatnonzero(~mask)]
            damage = (
                Damage(
                    stage="decode",
                    start_ns=self._plan.sample_ns(int(lost[0])),
                    stop_ns=self._plan.sample_ns(int(lost[-1])) + 1,
                    error=type(self._error).__name__ if self._error is not None else "MissingFrames",
                    message=f"{len(lost)} wanted frames could not be decoded"
                    + (f" ({one_line(str(self._error))})" if self._error is not None else ""),
                ),
            )
        yield Pictures(
            first_sample=self._first_row,
            frames_NHWC=self._placement.place(scaled),
            mask_N=mask,
            start_ns=self._start_ns,
            stop_ns=stop_ns,
            route="pyav",
            damage=damage,
        )
        self._first_row = self._next_sample
        self._start_ns = stop_ns
