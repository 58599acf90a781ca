"""One pass over a file, with flat memory: compressed segments cut at key frames, continuous sound, subtitles.

Only what the plan wants is handed on: a segment without a wanted sample is not even remuxed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import av

from longtake.operators.errors import MediaError
from longtake.pipeline.media.clock import PictureClock
from longtake.pipeline.media.decode import TICK_MS, choose_route
from longtake.pipeline.media.long_group import LongGroup
from longtake.pipeline.media.plan import SECOND_NS, Plan
from longtake.pipeline.media.probe import MediaInfo, open_media, to_ns
from longtake.pipeline.media.segment import Cue, Damage, End, Pictures, Reader, Segment, SoundChunk
from longtake.pipeline.media.sound import SoundReader
from longtake.pipeline.media.subtitles import read_cues

Item: TypeAlias = Segment | Pictures | SoundChunk | Cue | Damage | End

# A segment ends at the first key frame after this long, or this many bytes.
SEGMENT_NS = 4 * SECOND_NS
SEGMENT_BYTES = 8 << 20
# A group of pictures beyond either of these is decoded on the way instead of being collected.
LONG_GROUP_NS = 10 * SECOND_NS
LONG_GROUP_BYTES = 32 << 20
# Sound (or a subtitle) that lies further behind the pictures in the file than this is not waited for.
INTERLEAVE_NS = 10 * SECOND_NS
# How many errors in a row, while reading the container, mean that nothing more can be read.
READ_ERRORS = 64


@dataclass(slots=True)
class _Coded:
    """One video packet that waits. `pts` counts from the first picture; hidden ones are decoded and not shown."""

    packet: Any
    pts: int
    size: int
    hidden: bool


class _VideoReader:
    """Video packets in, `Segment`s (or a long group's `Pictures`) out."""

    def __init__(
        self,
        info: MediaInfo,
        stream: Any,
        plan: Plan,
        height: int,
        width: int,
        first: int,
        reader: Reader,
        threads: int,
    ) -> None:
        self._info, self._stream, self._plan = info, stream, plan
        self._height, self._width, self._threads = height, width, threads
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
        self.clock = PictureClock(info.video)
        self._start_ns = 0

    def read(self, packet: Any) -> Iterator[Segment | Pictures | Damage]:
        """Take one packet of the stream, in decoding order."""
        if packet.pts is None:
            return
        coded = _Coded(packet, packet.pts - self._info.video.start_pts, packet.size, bool(packet.is_discard))
        if not self._seen_key:
            if not packet.is_keyframe:
                return
            self._seen_key = True
        if not coded.hidden:
            if coded.pts < 0:
                # Shown before the first key frame: what it needs is not in the file.
                return
            self.clock.note(coded.pts, packet.duration)
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

    def finish(self) -> Iterator[Segment | Pictures | Damage]:
        """The last segment; nothing may follow."""
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
        span_ns = self._ns(coded.pts) - self._start_ns
        return span_ns >= SEGMENT_NS or self._bytes >= SEGMENT_BYTES

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
        if span_ns > LONG_GROUP_NS or self._bytes > LONG_GROUP_BYTES:
            yield from self._start_long_group()

    def _start_long_group(self) -> Iterator[Pictures | Damage]:
        """Decode on the way from here on: everything collected so far, then each packet as it comes."""
        self._long = LongGroup(
            self._info,
            self._stream,
            self._plan,
            self._height,
            self._width,
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
            segment = self._segment(tail, stop_ns)
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
        order = sorted(range(len(coded)), key=lambda i: coded[i].pts)
        rank_of = [0] * len(coded)
        for rank, i in enumerate(order):
            rank_of[i] = rank
        shown = [i for i in order if not hidden[i]]
        if not shown:
            return None
        times = [self._ns(coded[i].pts) for i in shown]
        unordered = len(set(times)) < len(times)
        corrupt = any(c.packet.is_corrupt for c in coded)
        closed = not self._open_gop and not tail
        video = self._info.video
        route, reason = choose_route(video.codec, video.pixel_format, closed, not (corrupt or unordered or any(hidden)))
        return Segment(
            index=self._index,
            data=remux(self._stream, [c.packet for c in coded], rank_of),
            pts_ns=tuple(times),
            ranks=tuple(rank_of[i] for i in shown),
            packets=len(coded),
            start_ns=self._start_ns,
            stop_ns=stop_ns,
            first_sample=samples.start,
            sample_ns=tuple(self._plan.sample_ns(k) for k in samples),
            picture=video.picture,
            closed_gop=closed,
            route=route,
            reason=reason,
        )


def remux(stream: Any, packets: list[Any], rank_of: list[int]) -> bytes:
    """Packets, in decoding order, as Matroska in memory; frame of rank r gets the timestamp (r + 1) ticks.

    Regular timestamps keep decord from stumbling over odd time bases and let a frame be known by its rank.
    """
    out = io.BytesIO()
    delay = max(i - rank for i, rank in enumerate(rank_of))
    # `opaque` keeps codecs that can be decoded here but not encoded, such as AV1.
    with av.open(out, "w", format="matroska", container_options={"avoid_negative_ts": "disabled"}) as container:
        target = container.add_stream_from_template(stream, opaque=True)
        base = Fraction(1, 1000)
        for i, packet in enumerate(packets):
            packet.stream = target
            packet.time_base = base
            packet.pts = (rank_of[i] + 1) * TICK_MS
            packet.dts = max(0, i - delay + 1) * TICK_MS
            packet.duration = TICK_MS
            container.mux_one(packet)
    return out.getvalue()


def demux(
    info: MediaInfo,
    plan: Plan,
    height: int,
    width: int,
    *,
    first: int = 0,
    reader: Reader = "auto",
    threads: int = 1,
) -> Iterator[Item]:
    """Read a file once, from its start, and hand on what the plan wants of it.

    Args:
        info: from `probe`.
        plan: from `make_plan`.
        height, width: the model's picture (for groups of pictures too long to be collected, decoded here).
        first: the first snippet that is wanted; the sound is handed on from the start all the same.
        reader: "decord" turns groups too long for it into damage; the segments' own route is decided by the one rule.
        threads: decoding threads for such groups.
    Yields:
        Segments in order, sound in order, subtitles, damage, and one `End` as the last item. They are to be given to
        an `Assembler` in this order, each Segment as the Pictures that `decode_segment` makes of it.
    Raises:
        MediaError: the file can no longer be opened, or has no picture.
    """
    try:
        container = open_media(info.path)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{info.path}: it could be probed but not opened again ({error})") from error
    with container:
        video_stream = container.streams[info.video.index]
        zero_s = info.video.start_pts * info.video.time_base
        video = _VideoReader(info, video_stream, plan, height, width, first, reader, threads)
        streams = [video_stream]
        sound = None
        if info.audio is not None:
            sound = SoundReader(container.streams[info.audio.index], zero_s)
            streams.append(container.streams[info.audio.index])
        text_index = info.subtitles[0] if info.subtitles else None
        if text_index is not None:
            streams.append(container.streams[text_index])
        packets = container.demux(streams)
        errors = 0
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.error.FFmpegError as error:
                errors += 1
                at_ns = video.clock.reached_ns
                if errors == 1:
                    yield Damage(
                        stage="demux",
                        start_ns=at_ns,
                        stop_ns=max(at_ns + 1, info.duration_ns or 0),
                        error=type(error).__name__,
                        message=f"the container is damaged ({error})",
                    )
                if errors >= READ_ERRORS:
                    break
                packets = container.demux(streams)
                continue
            index = packet.stream_index
            if index == info.video.index:
                if packet.size:
                    yield from video.read(packet)
                    if sound is not None:
                        yield from sound.silence_until(video.clock.reached_ns - INTERLEAVE_NS)
            elif sound is not None and info.audio is not None and index == info.audio.index:
                yield from sound.read(packet)
            elif index == text_index:
                yield from read_cues(packet, zero_s)
        if sound is not None:
            yield from sound.finish()
        yield from video.finish()
        if video.clock.end_ns <= 0:
            raise MediaError(f"{info.path}: no picture could be read")
        yield End(end_ns=video.clock.end_ns)


def measure_end_ns(info: MediaInfo, *, at_least_ns: int | None = None) -> int:
    """Where the last picture's time is over, by reading the packets (nothing is decoded).

    `at_least_ns` stops the reading there: the result is then only known to be at least that.

    Raises:
        MediaError: the file can no longer be opened, or has no picture.
    """
    try:
        container = open_media(info.path)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{info.path}: it could be probed but not opened again ({error})") from error
    with container:
        stream = container.streams[info.video.index]
        clock = PictureClock(info.video)
        seen_key = False
        try:
            for packet in container.demux(stream):
                if packet.size == 0 or packet.pts is None:
                    continue
                seen_key = seen_key or packet.is_keyframe
                pts = packet.pts - info.video.start_pts
                if seen_key and pts >= 0 and not packet.is_discard:
                    clock.note(pts, packet.duration)
                if at_least_ns is not None and clock.reached_ns >= at_least_ns:
                    break
        except av.error.FFmpegError:
            # Damage: as far as the packets went.
            pass
    if clock.end_ns <= 0:
        raise MediaError(f"{info.path}: no picture could be read")
    return clock.end_ns
