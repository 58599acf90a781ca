"""Video packets cut to segments at key frames, each remuxed in memory with the exact times of its frames."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from longtake.pipeline.media.clock import PictureClock
from longtake.pipeline.media.decode import TICK_MS, choose_route
from longtake.pipeline.media.geometry import PictureFormat
from longtake.pipeline.media.long_group import LongGroup
from longtake.pipeline.media.plan import SECOND_NS, Plan
from longtake.pipeline.media.probe import MediaInfo, to_ns
from longtake.pipeline.media.segment import Damage, Pictures, Reader, Segment, one_line

# A segment ends at the first key frame after this long, once it is worth a decoder's call: by the pixels to decode, by
# the pictures wanted, or by the bytes that these will hold. At this many bytes, or after a while, it ends all the same.
SEGMENT_NS = 4 * SECOND_NS
WORTH_PIXELS = 64_000_000
WORTH_PICTURES = 192
WORTH_PICTURE_BYTES = 8 << 20
SEGMENT_MOST_NS = 32 * SECOND_NS
SEGMENT_BYTES = 8 << 20
# A group of pictures beyond either of these is decoded on the way instead of being collected, one decoder's work for
# the whole file. x264's default of 250 pictures, at 24 a second 10.4 s, is not beyond.
LONG_GROUP_NS = 16 * SECOND_NS
LONG_GROUP_BYTES = 32 << 20


@dataclass(slots=True)
class _Coded:
    """One video packet that waits. `pts` counts from the first picture; hidden ones are decoded and not shown."""

    packet: Any
    pts: int
    size: int
    hidden: bool


class SegmentCutter:
    """Video packets in, `Segment`s (or a long group's `Pictures`) out."""

    def __init__(
        self,
        info: MediaInfo,
        stream: Any,
        plan: Plan,
        form: PictureFormat,
        first: int,
        reader: Reader,
        threads: int,
    ) -> None:
        self._info, self._stream, self._plan = info, stream, plan
        self._form, self._threads = form, threads
        self._reader = reader
        self._first_sample = first * plan.snippet_frames
        self._index = 0
        # The segment being collected, in decoding order; `_next` is the key frame that ends it, once it was met, with
        # the frames that are decoded after that key frame and shown before it.
        self._packets: list[_Coded] = []
        self._bytes = 0
        self._open_gop = False
        self._next: list[_Coded] = []
        self._long: LongGroup | None = None
        self._seen_key = False
        self._key_pts = 0
        self._decoded_pts = 0
        self._going_back = False
        self.clock = PictureClock(info.video)
        self._start_ns = 0
        self._can_remux = can_remux(stream)

    def read(self, packet: Any) -> Iterator[Segment | Pictures | Damage]:
        """Take one packet of the stream, in decoding order."""
        if packet.pts is None:
            # The second half of a picture, or one that says nothing of its time: needed, and not shown on its own.
            pts, hidden = self._decoded_pts, True
        else:
            pts, hidden = packet.pts - self._info.video.start_pts, is_hidden(packet, self._info.video.codec)
        coded = _Coded(packet, pts, packet.size, hidden)
        if not self._seen_key:
            if not packet.is_keyframe:
                return
            self._seen_key = True
        if not hidden and pts < 0:
            # Shown before the first key frame: what it needs is not in the file.
            return
        if packet.is_keyframe and not hidden:
            yield from self._check_order(pts)
        if self._going_back:
            return
        self._decoded_pts = pts
        if not hidden:
            self.clock.note(pts, packet.duration)
        if self._next:
            key = self._next[0]
            if not packet.is_keyframe and coded.pts < key.pts:
                # Shown before the key frame that it follows: it needs the group before as well.
                self._next.append(coded)
                return
            yield from self._cut(key.pts)
        if packet.is_keyframe and self._is_long_enough(coded):
            self._next = [coded]
            return
        yield from self._append(coded)

    def _check_order(self, key_pts: int) -> Iterator[Damage]:
        """A key frame is shown after all that was met before it. Where it is not, time went back (recordings joined
        without care): what follows is left out until the pictures are past the point that was reached."""
        goes_back = self.clock.last_pts >= key_pts
        if self._going_back and not goes_back:
            yield self._time_went_back(self._ns(key_pts))
        self._going_back = goes_back

    def _time_went_back(self, until_ns: int) -> Damage:
        at_ns = self.clock.reached_ns
        return Damage(
            stage="demux",
            start_ns=at_ns,
            stop_ns=max(until_ns, at_ns + 1),
            error="TimeGoesBack",
            message=f"timestamps go back at {at_ns / SECOND_NS:.3f} s; what would be shown twice is left out",
        )

    def finish(self) -> Iterator[Segment | Pictures | Damage]:
        """The last segment; nothing may follow."""
        if self._going_back:
            yield self._time_went_back(0)
        if self._next:
            yield from self._cut(self._next[0].pts)
        yield from self._cut(None)

    def _ns(self, pts: int) -> int:
        return to_ns(pts, self._info.video.time_base)

    def _is_long_enough(self, coded: _Coded) -> bool:
        if self._long is not None:
            return True
        if not self._packets:
            return False
        until_ns = self._ns(coded.pts)
        span_ns = until_ns - self._start_ns
        if span_ns >= SEGMENT_MOST_NS or self._bytes >= SEGMENT_BYTES:
            return True
        return span_ns >= SEGMENT_NS and self._is_worth_a_call(until_ns)

    def _is_worth_a_call(self, until_ns: int) -> bool:
        picture = self._info.video.picture
        wanted = len(self._plan.samples_in(self._start_ns, until_ns))
        # Where samples are rare, what lies between them must not be decoded along with them.
        if not wanted or not self._plan.samples_in(until_ns, until_ns + SEGMENT_NS):
            return True
        return (
            len(self._packets) * picture.width * picture.height >= WORTH_PIXELS
            or wanted >= WORTH_PICTURES
            or wanted * self._form.size_bytes >= WORTH_PICTURE_BYTES
        )

    def _append(self, coded: _Coded) -> Iterator[Pictures | Damage]:
        if self._long is not None:
            yield from self._long.feed(coded.packet, coded.pts, coded.hidden)
            return
        if coded.packet.is_keyframe:
            self._key_pts = coded.pts
        elif coded.pts < self._key_pts:
            self._open_gop = True
        self._packets.append(coded)
        self._bytes += coded.size
        span_ns = self._ns(coded.pts) - self._ns(self._key_pts)
        if span_ns > LONG_GROUP_NS or self._bytes > LONG_GROUP_BYTES or not self._can_remux:
            yield from self._start_long_group()

    def _start_long_group(self) -> Iterator[Pictures | Damage]:
        """Decode on the way from here on: everything collected so far, then each packet as it comes."""
        self._long = LongGroup(
            self._info,
            self._stream,
            self._plan,
            self._form,
            start_ns=self._start_ns,
            first_sample=self._first_sample,
            refused=self._reader == "decord",
            threads=self._threads,
        )
        packets, self._packets, self._bytes = self._packets, [], 0
        for coded in packets:
            yield from self._long.feed(coded.packet, coded.pts, coded.hidden)

    def _cut(self, next_pts: int | None) -> Iterator[Segment | Pictures | Damage]:
        """End the segment before the key frame at `next_pts` (None: at the video's end)."""
        following, self._next = self._next, []
        stop_ns = self.clock.end_ns if next_pts is None else self._ns(next_pts)
        leading = [coded for coded in following[1:] if not coded.hidden]
        if self._long is not None:
            for position, coded in enumerate(following if leading else []):
                yield from self._long.feed(coded.packet, coded.pts, coded.hidden or position == 0)
            yield from self._long.finish(stop_ns)
            self._long = None
        elif self._packets:
            tail = following if leading else []
            try:
                segment = self._segment(tail, stop_ns)
            except av.error.FFmpegError as error:
                yield Damage(
                    stage="demux",
                    start_ns=self._start_ns,
                    stop_ns=max(stop_ns, self._start_ns + 1),
                    error=type(error).__name__,
                    message=f"a segment's packets are damaged ({one_line(str(error))})",
                )
                segment = None
            if segment is not None:
                yield segment
        self._index += 1
        self._packets, self._bytes, self._open_gop = [], 0, False
        self._start_ns = stop_ns
        if following:
            yield from self._append(following[0])

    def _segment(self, tail: list[_Coded], stop_ns: int) -> Segment | None:
        """The collected packets as a segment, or None where no sample falls into it."""
        samples = self._plan.samples_in(self._start_ns, stop_ns)
        samples = range(max(samples.start, self._first_sample), samples.stop)
        if len(samples) == 0 or stop_ns <= self._start_ns:
            return None
        coded = self._packets + tail
        # The key frame that opens the tail is shown by the next segment.
        hidden = [c.hidden or (bool(tail) and c is tail[0]) for c in coded]
        order = sorted(range(len(coded)), key=lambda i: (coded[i].pts, i))
        rank_of = [0] * len(coded)
        for rank, i in enumerate(order):
            rank_of[i] = rank
        shown = [i for i in order if not hidden[i]]
        if not shown:
            return None
        times = [self._ns(coded[i].pts) for i in shown]
        unordered = len(set(times)) < len(times)
        data, refused = remux(self._stream, [c.packet for c in coded], rank_of)
        corrupt = refused > 0 or any(c.packet.is_corrupt for c in coded)
        closed = not self._open_gop and not tail
        video, intact = self._info.video, not (corrupt or unordered or any(hidden))
        route, reason = choose_route(video.codec, video.pixel_format, closed, intact, self._form.filter)
        return Segment(
            index=self._index,
            data=data,
            pts_ns=tuple(times),
            ranks=tuple(rank_of[i] for i in shown),
            packets=len(coded),
            start_ns=self._start_ns,
            stop_ns=stop_ns,
            first_sample=samples.start,
            sample_ns=tuple(self._plan.sample_ns(k) for k in samples),
            picture=video.picture,
            form=self._form,
            closed_gop=closed,
            route=route,
            reason=reason,
        )


def is_hidden(packet: Any, codec: str) -> bool:
    """Whether a packet is decoded and not shown: an edit list says so, or it is a VP8 frame that only serves others."""
    return bool(packet.is_discard) or (
        codec == "vp8" and packet.size > 0 and not bytes(memoryview(packet)[:1])[0] >> 4 & 1
    )


def can_remux(stream: Any) -> bool:
    """Whether Matroska can hold a stream of this codec; what it cannot hold is decoded on the way."""
    with av.open(io.BytesIO(), "w", format="matroska") as container:
        try:
            container.add_stream_from_template(stream, opaque=True)
        except (ValueError, av.error.FFmpegError):
            return False
    return True


def remux(stream: Any, packets: list[Any], rank_of: list[int]) -> tuple[bytes, int]:
    """Packets, in decoding order, as Matroska in memory; the frame of rank r gets the timestamp (r + 1) ticks.

    Regular timestamps keep decord from stumbling over odd time bases and let a frame be known by its rank.

    Returns:
        The file, and how many packets were refused because their content is damaged.
    Raises:
        av.error.FFmpegError: the stream's own description is damaged.
    """
    out = io.BytesIO()
    refused = 0
    base = Fraction(1, 1000)
    delay = max(i - rank for i, rank in enumerate(rank_of))
    # `opaque` keeps codecs that can be decoded here but not encoded, such as AV1.
    with av.open(out, "w", format="matroska", container_options={"avoid_negative_ts": "disabled"}) as container:
        target = container.add_stream_from_template(stream, opaque=True)
        container.start_encoding()
        for i, packet in enumerate(packets):
            # The key frame behind an open group opens the next segment too: it must be as it was.
            kept = packet.stream, packet.time_base, packet.pts, packet.dts, packet.duration
            packet.stream = target
            packet.time_base = base
            packet.pts = (rank_of[i] + 1) * TICK_MS
            packet.dts = max(0, i - delay + 1) * TICK_MS
            packet.duration = TICK_MS
            try:
                container.mux_one(packet)
            except av.error.FFmpegError:
                refused += 1
            packet.stream, packet.time_base, packet.pts, packet.dts, packet.duration = kept
    return out.getvalue(), refused
