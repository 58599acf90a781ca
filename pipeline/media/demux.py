"""One pass over a file, with flat memory: compressed segments cut at key frames, continuous sound, subtitles.

Only what the plan wants is handed on: a segment without a wanted sample is not even remuxed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import av

from longtake.errors import MediaError
from longtake.pipeline.media.clock import PictureClock
from longtake.pipeline.media.cut import SegmentCutter, is_hidden
from longtake.pipeline.media.geometry import PictureFormat
from longtake.pipeline.media.plan import SECOND_NS, Plan, Sampling, plan_budget, plan_rate
from longtake.pipeline.media.probe import MediaInfo, open_media
from longtake.pipeline.media.segment import Cue, Damage, End, Pictures, Reader, Segment, SoundChunk, one_line
from longtake.pipeline.media.sound.reader import SoundReader
from longtake.pipeline.media.subtitles import read_cues

Item: TypeAlias = Segment | Pictures | SoundChunk | Cue | Damage | End

# Sound (or a subtitle) that lies further behind the pictures in the file than this is not waited for.
INTERLEAVE_NS = 10 * SECOND_NS
# A file that ends this long before its stated length was cut off.
MISSING_NS = SECOND_NS
# How many errors, while reading the container, mean that nothing more can be read.
READ_ERRORS = 64


def demux(
    info: MediaInfo,
    plan: Plan,
    form: PictureFormat,
    *,
    first: int = 0,
    reader: Reader = "auto",
    threads: int = 1,
) -> Iterator[Item]:
    """Read a file once, from its start, and hand on what the plan wants of it.

    Args:
        info: from `probe`.
        plan: from `make_plan`.
        form: what the pictures are to become.
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
        video = SegmentCutter(info, video_stream, plan, form, first, reader, threads)
        streams = [video_stream]
        sound = None
        if info.audio is not None:
            sound = SoundReader(container.streams[info.audio.index], info.video.start_ns)
            streams.append(container.streams[info.audio.index])
        text_index = info.subtitles[0] if info.subtitles else None
        if text_index is not None:
            streams.append(container.streams[text_index])
        packets = container.demux(streams)
        # A packet's own time base is a fresh fraction at every look.
        ticks = {stream.index: (stream.time_base.numerator, stream.time_base.denominator) for stream in streams}
        errors, reached_ns = 0, 0
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
                        message=f"the container is damaged ({one_line(str(error))})",
                    )
                if errors >= READ_ERRORS:
                    break
                packets = container.demux(streams)
                continue
            index = packet.stream_index
            if packet.size and packet.pts is not None:
                tick, ticks_a_second = ticks[index]
                reached_ns = max(reached_ns, (packet.pts + (packet.duration or 0)) * tick * SECOND_NS // ticks_a_second)
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
        missing_ns = (container.duration or 0) * 1000 - reached_ns
        if missing_ns > MISSING_NS and errors == 0:
            yield Damage(
                stage="demux",
                start_ns=video.clock.end_ns,
                stop_ns=video.clock.end_ns + missing_ns,
                error="Truncated",
                message=f"the file ends {missing_ns / SECOND_NS:.1f} s before the length that it states",
            )
        if video.clock.end_ns <= 0:
            raise MediaError(f"{info.path}: no picture could be read")
        yield End(end_ns=video.clock.end_ns)


def make_plan(info: MediaInfo, sampling: Sampling, snippet_frames: int) -> Plan:
    """The plan of one video: deterministic for the same file, sampling and F.

    A fixed rate needs no length, except that a video shorter than half a period gets its one sample in its middle.
    A frame budget is spread over the length that the packets tell (read, not decoded): what containers state may be
    missing, be the sound's, or be wrong.

    Raises:
        MediaError: the file cannot be read, or is too short for the budget.
    """
    if sampling.rate_hz is not None:
        plan = plan_rate(sampling.rate_hz, snippet_frames)
        first_ns = plan.sample_ns(0)
        if info.duration_ns is not None and info.duration_ns > 2 * first_ns + SECOND_NS:
            return plan
        end_ns = measure_end_ns(info, at_least_ns=first_ns)
        return plan if end_ns > first_ns else plan_budget(1, end_ns, snippet_frames)
    frames = sampling.frames or 1
    end_ns = measure_end_ns(info)
    if end_ns < 2 * frames:
        raise MediaError(f"{info.path}: {end_ns} ns of video are too short for {frames} frames")
    return plan_budget(frames, end_ns, snippet_frames)


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
                if seen_key and pts >= 0 and not is_hidden(packet, info.video.codec):
                    clock.note(pts, packet.duration)
                if at_least_ns is not None and clock.reached_ns >= at_least_ns:
                    break
        except av.error.FFmpegError:
            # Damage: as far as the packets went.
            pass
    if clock.end_ns <= 0:
        raise MediaError(f"{info.path}: no picture could be read")
    return clock.end_ns
