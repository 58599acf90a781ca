"""Open a media file safely, and say what is in it. Nothing else in LongTake opens a file that was not probed.

Containers come from an allow-list and the only protocol is `file`: a playlist, whatever its name ends in, is refused
before the library reads a line of it, so it can never make anything open another file.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from longtake.errors import MediaError
from longtake.pipeline.media.geometry import displayed_size
from longtake.pipeline.media.plan import SECOND_NS
from longtake.pipeline.media.segment import CodedPicture

# FFmpeg's names of the demuxers that may be used: MP4/MOV/3GP, Matroska/WebM, MPEG streams, FLV, Ogg. AVI is not among
# them: it does not tell when a picture is shown, only when it is decoded.
CONTAINERS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "mpegts", "mpeg", "flv", "ogg")
# Subtitles that are text; the others are pictures of text.
TEXT_SUBTITLES = frozenset({"mov_text", "subrip", "srt", "ass", "ssa", "webvtt", "text"})
# How many packets past the first key frame are looked at to find the first picture's time.
START_PACKETS = 64


@dataclass(frozen=True, kw_only=True)
class VideoStream:
    """The video stream that is read. Sizes are pixels; `width` x `height` is what a viewer sees (pixels made square,
    then turned `rotation` degrees clockwise); `start_ns` is the first picture's time on the container's clock."""

    index: int
    codec: str
    pixel_format: str
    coded_width: int
    coded_height: int
    width: int
    height: int
    rotation: int
    sample_aspect: Fraction
    start_ns: int
    start_pts: int
    average_rate_hz: float | None
    time_base: Fraction

    @property
    def picture(self) -> CodedPicture:
        """The shape of the decoded pictures."""
        return CodedPicture(
            width=self.coded_width,
            height=self.coded_height,
            sample_aspect=self.sample_aspect,
            rotation=self.rotation,
        )


@dataclass(frozen=True, kw_only=True)
class AudioStream:
    """The audio stream that is read."""

    index: int
    codec: str
    sample_rate_hz: int
    channels: int


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """What a file holds. `duration_ns` is what the container states (None: nothing), which may be wrong."""

    path: str
    container: str
    size_bytes: int
    duration_ns: int | None
    video: VideoStream
    audio: AudioStream | None
    subtitles: tuple[int, ...]
    title: str


def open_media(path: str) -> Any:
    """Open a probed file for reading, with the allow-list of containers and the `file` protocol only.

    Raises:
        av.error.FFmpegError: the file changed since it was probed.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
    # An absolute path after an explicit protocol: a name such as "concat:a|b" stays a name.
    return av.open("file:" + str(Path(path).absolute()), container_options=options, metadata_errors="replace")


def probe(path: str | Path) -> MediaInfo:
    """Look into a media file: its streams, times, shape and title.

    Raises:
        MediaError: the file is missing, a directory, not a regular file, unreadable, empty, a playlist, not media,
            in a container that is not allowed, without a video stream, or without a picture.
    """
    name = os.fspath(path)
    size_bytes = _check_file(name)
    try:
        container = open_media(name)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise MediaError(f"{name}: {_why_not_media(name)} ({_reason(error)})") from error
    with container:
        video = _best_video(container)
        if video is None:
            kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
            raise MediaError(f"{name}: no video stream (the file holds {', '.join(kinds)})")
        if video.codec_context is None:
            raise MediaError(f"{name}: its video has a codec that cannot be decoded here")
        audio = _best_audio(container, video)
        start_pts, frame = _first_picture(container, video, name)
        context = video.codec_context
        rotation = (-frame.rotation) % 360 if frame is not None else 0
        rotation = 90 * round(rotation / 90) % 360
        width = frame.width if frame is not None else context.width
        height = frame.height if frame is not None else context.height
        if width < 1 or height < 1:
            raise MediaError(f"{name}: its video states no picture size")
        aspect = Fraction(video.sample_aspect_ratio or context.sample_aspect_ratio or 1)
        # Absurd ratios are mistakes of the muxer, not of the lens.
        if not Fraction(1, 10) <= aspect <= 10:
            aspect = Fraction(1)
        shown_width, shown_height = displayed_size(width, height, aspect, rotation)
        rate = video.average_rate
        return MediaInfo(
            path=name,
            container=container.format.name,
            size_bytes=size_bytes,
            duration_ns=_stated_duration(container, video),
            video=VideoStream(
                index=video.index,
                codec=context.codec.canonical_name,
                pixel_format=(frame.format.name if frame is not None else context.pix_fmt) or "unknown",
                coded_width=width,
                coded_height=height,
                width=shown_width,
                height=shown_height,
                rotation=rotation,
                sample_aspect=aspect,
                start_ns=to_ns(start_pts, video.time_base),
                start_pts=start_pts,
                average_rate_hz=float(rate) if rate else None,
                time_base=video.time_base,
            ),
            audio=None
            if audio is None
            else AudioStream(
                index=audio.index,
                codec=audio.codec_context.codec.canonical_name,
                sample_rate_hz=audio.codec_context.sample_rate,
                channels=audio.codec_context.layout.nb_channels,
            ),
            subtitles=tuple(
                stream.index
                for stream in container.streams.subtitles
                if stream.codec_context is not None and stream.codec_context.name in TEXT_SUBTITLES
            ),
            title=str(container.metadata.get("title", "") or Path(name).stem),
        )


def to_ns(ticks: int, time_base: Fraction) -> int:
    """A stream's timestamp in nanoseconds, rounded down: exact integer arithmetic."""
    return ticks * time_base.numerator * SECOND_NS // time_base.denominator


def _check_file(name: str) -> int:
    """The size of a regular, readable, non-empty file; MediaError for anything else."""
    try:
        status = Path(name).stat()
    except FileNotFoundError:
        raise MediaError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:
        raise MediaError(f"{name}: cannot be read ({_reason(error)})") from error
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"{name}: a directory, not a video file")
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{name}: not a regular file")
    if status.st_size == 0:
        raise MediaError(f"{name}: the file is empty")
    if not os.access(name, os.R_OK):
        raise MediaError(f"{name}: no permission to read it")
    return status.st_size


def _why_not_media(name: str) -> str:
    """Tell apart, by the first bytes, the reasons for which a file was not opened."""
    with Path(name).open("rb") as file:
        head = file.read(4096)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    playlist = (b"#EXTM3U", b"#EXT-X-", b"ffconcat version", b"[playlist]")
    if text.startswith(playlist) or b"<MPD" in text or b"<SmoothStreamingMedia" in text:
        return "a playlist, not a video: LongTake never follows what a file names"
    known = (b"RIFF", b"ID3", b"fLaC", b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"\x30\x26\xb2\x75")
    if head.startswith(known):
        return "its container is not one that LongTake reads (MP4, MOV, Matroska, WebM, MPEG, FLV, Ogg)"
    return "not a media file that can be read"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in errno.errorcode and error.strerror:
        return error.strerror
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _best_video(container: Any) -> Any:
    """The stream that FFmpeg finds best (several: the one with the most to show), pictures of covers left out."""
    streams = [s for s in container.streams.video if not _is_cover(s)]
    best = container.streams.best("video")
    if best is not None and not _is_cover(best):
        return best
    return streams[0] if streams else None


def _is_cover(stream: Any) -> bool:
    return "attached_pic" in str(stream.disposition).lower() or "timed_thumbnails" in str(stream.disposition).lower()


def _best_audio(container: Any, video: Any) -> Any:
    best = container.streams.best("audio", related=video)
    if best is None or best.codec_context is None or best.codec_context.sample_rate < 1:
        return None
    return best


def _stated_duration(container: Any, video: Any) -> int | None:
    """How long the container says that the video is, or the whole file where it says nothing of the video."""
    if video.duration is not None and video.duration > 0:
        return to_ns(video.duration, video.time_base)
    if container.duration is not None and container.duration > 0:
        return int(container.duration) * 1000
    return None


def _first_picture(container: Any, video: Any, name: str) -> tuple[int, Any]:
    """The timestamp of the first picture, and that picture decoded (None where it is damaged).

    Frames that are shown before the first key frame cannot be decoded, and those that an edit list hides are not
    shown: neither is the first picture.
    """
    video.codec_context.thread_count = 1
    key_pts: int | None = None
    starts: list[int] = []
    seen = 0
    frame = None
    try:
        for packet in container.demux(video):
            if packet.size == 0:
                break
            if key_pts is None and (not packet.is_keyframe or packet.pts is None):
                continue
            if key_pts is None:
                key_pts = packet.pts
            elif packet.is_keyframe and starts:
                break
            if packet.pts is not None and packet.pts >= key_pts and not packet.is_discard:
                starts.append(packet.pts)
            if frame is None:
                frame = next(iter(_decode(packet)), None)
            seen += 1
            if seen >= START_PACKETS and starts:
                break
    except av.error.FFmpegError:
        # Damage right at the start: what was seen before it must do.
        pass
    if not starts:
        raise MediaError(f"{name}: its video stream has no picture that can be decoded")
    return min(starts), frame


def _decode(packet: Any) -> list[Any]:
    try:
        return list(packet.decode())
    except av.error.FFmpegError:
        return []
