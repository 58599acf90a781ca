"""A strip of small pictures from a video, as JPEG: for people to look at, never for the model.

Wanted moments are read in one pass. Where the next one lies far ahead, the file is sought to the key frame before it,
so that a strip of a film of two hours costs some dozens of groups of pictures and not the whole film.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
from PIL import Image

from longtake.errors import MediaError
from longtake.pipeline.media.decode import Scaler
from longtake.pipeline.media.geometry import fit
from longtake.pipeline.media.probe import MediaInfo, open_media

# Decoding so far ahead costs less than seeking.
SEEK_BEYOND_NS = 12_000_000_000
# A damaged stretch is given up after so many packets that give no picture.
MOST_SILENT_PACKETS = 600
JPEG_QUALITY = 82


def read_strip(info: MediaInfo, times_ns: Sequence[int], height: int) -> list[bytes | None]:
    """The pictures that are shown at some moments, as JPEG files of `height` pixels in the displayed aspect.

    Args:
        info: from `probe`.
        times_ns: ascending, on the video's clock (its first picture is at 0).
        height: of each picture; the width follows from the video's shape.
    Returns:
        One JPEG for each time, or None where no picture could be had.
    Raises:
        MediaError: the file can no longer be opened.
    """
    video = info.video
    width = max(1, round(height * video.width / video.height))
    scaler_placement = fit(video.coded_width, video.coded_height, video.sample_aspect, video.rotation, height, width)
    scaler = Scaler(scaler_placement)
    strip: list[bytes | None] = []
    try:
        with open_media(info.path) as container:
            stream = container.streams[video.index]
            stream.codec_context.thread_count = 1
            frames = _Frames(container, stream, video.start_pts, video.time_base)
            for time_ns in times_ns:
                frame = frames.shown_at(time_ns)
                picture = None
                if frame is not None:
                    placed = scaler_placement.place(scaler.scale(frame)[None])[0]
                    picture = _jpeg(placed)
                strip.append(picture)
    except (av.error.FFmpegError, OSError) as error:
        if not strip:
            raise MediaError(f"{info.path}: cannot be read for its strip of pictures ({error})") from error
    return strip + [None] * (len(times_ns) - len(strip))


class _Frames:
    """The frames of a stream, by when they are shown."""

    def __init__(self, container: Any, stream: Any, start_pts: int, time_base: Fraction) -> None:
        self._container, self._stream = container, stream
        self._start_pts, self._time_base = start_pts, time_base
        self._decoded = self._decode()
        self._shown: Any | None = None
        self._next: Any | None = next(self._decoded, None)

    def shown_at(self, time_ns: int) -> Any | None:
        """The last frame that begins at or before a moment; moments must not go back. None where there is none."""
        reached_ns = self._time_ns(self._next) if self._next is not None else None
        if reached_ns is not None and time_ns - reached_ns > SEEK_BEYOND_NS:
            self._seek(time_ns)
        while self._next is not None and self._time_ns(self._next) <= time_ns:
            self._shown, self._next = self._next, next(self._decoded, None)
        return self._shown

    def _seek(self, time_ns: int) -> None:
        """Go to the key frame before a moment, or stay where the container cannot."""
        target = self._start_pts + int(Fraction(time_ns, 1_000_000_000) / self._time_base)
        try:
            self._container.seek(target, backward=True, stream=self._stream)
        except av.error.FFmpegError:
            return
        self._stream.codec_context.flush_buffers()
        self._decoded = self._decode()
        sought = next(self._decoded, None)
        # Nothing behind a seek: what is there stays shown.
        if sought is not None:
            self._shown, self._next = None, sought

    def _decode(self) -> Iterator[Any]:
        silent = 0
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                frames = []
            silent = 0 if frames else silent + 1
            if silent > MOST_SILENT_PACKETS:
                return
            yield from (frame for frame in frames if frame.pts is not None)

    def _time_ns(self, frame: Any) -> int:
        return int((frame.pts - self._start_pts) * self._time_base * 1_000_000_000)


def _jpeg(picture: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return file.getvalue()
