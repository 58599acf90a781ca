"""A segment's wanted pictures, decoded at the model's size: decord where it is exact, PyAV everywhere else.

Both readers scale with the same filter straight to the target size (FFmpeg's bilinear, which averages over the whole
footprint of a target pixel when it makes a picture smaller), so that only wanted pictures are ever converted and the
route cannot be told from the result. Where another filter is wanted, decord is not: it has no other.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from dataclasses import replace
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from longtake.pipeline.media.geometry import Filter, PictureFormat, Placement, fit, stretch
from longtake.pipeline.media.segment import CodedPicture, Damage, Pictures, Reader, Route, Segment, one_line

# Time between the frames of a segment's data, in its own milliseconds (the true times travel beside the data).
TICK_MS = 40
# decord is bit-exact with PyAV on these, in 8 bits and closed groups of pictures.
DECORD_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "mpeg4"})
# Exact, but decord takes some 1.4 times PyAV's time on these (720p, `longtake bench index`): not worth it.
DECORD_SLOW = frozenset({"vp8"})
_FILTERS = {"bilinear": Interpolation.BILINEAR, "bicubic": Interpolation.BICUBIC}
DECORD_FORMATS = frozenset({"yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p"})


def choose_route(
    codec: str, pixel_format: str, closed_gop: bool, intact: bool, filter: Filter = "bilinear"
) -> tuple[Route, str]:
    """THE rule that decides who decodes a segment, and its reason in words. `Reader` "auto" follows it.

    decord decodes 8-bit, closed groups of pictures of the codecs on which it was found bit-exact and not slower than
    PyAV, and nothing else; and PyAV decodes again whatever decord fails on or counts differently (`decode_segment`).
    """
    if not decord_is_here():
        return "pyav", "decord is not installed"
    if filter != "bilinear":
        return "pyav", f"decord does not scale {filter}"
    if codec not in DECORD_CODECS:
        return "pyav", f"decord is not exact on {codec}"
    if codec in DECORD_SLOW:
        return "pyav", f"decord is slower on {codec}"
    if pixel_format not in DECORD_FORMATS:
        return "pyav", f"decord is not exact on {pixel_format}"
    if not closed_gop:
        return "pyav", "an open group of pictures"
    if not intact:
        return "pyav", "damaged, hidden or unordered packets"
    return "decord", f"8-bit {codec} in closed groups of pictures"


def decord_is_here() -> bool:
    """Whether decord can be imported (it has wheels for Linux x86-64 and Windows only)."""
    try:
        _decord()
    except (ImportError, OSError):
        return False
    return True


def decode_segment(segment: Segment, *, reader: Reader = "auto", threads: int = 1) -> Pictures:
    """Decode a segment's samples.

    Args:
        segment: from `demux`; a sample shows the frame whose presentation interval covers its time.
        reader: "auto" follows the segment's route, with PyAV after decord's failure; the others force one.
        threads: decoding threads.
    Returns:
        Pictures with uint8 [len(segment.sample_ns), H, W, 3] of the segment's form. What cannot be decoded is masked
        and recorded in `damage`; no exception is raised for a segment's content.
    """
    route = segment.route if reader == "auto" else reader
    if route == "decord":
        try:
            return _decode_decord(segment, threads)
        except _DecordFailed as error:
            if reader == "decord":
                return nothing(segment, "decord", error)
    return _decode_pyav(segment, threads)


def nothing(segment: Segment, route: Route, error: Exception) -> Pictures:
    """The result of a segment of which no picture could be had: all masked, with the reason."""
    count = len(segment.sample_ns)
    damage = Damage(
        stage="decode",
        start_ns=segment.start_ns,
        stop_ns=segment.stop_ns,
        error=type(error).__name__.lstrip("_"),
        message=f"{route}: {error}",
    )
    return Pictures(
        first_sample=segment.first_sample,
        frames_NHWC=np.zeros((count, segment.form.height, segment.form.width, 3), dtype=np.uint8),
        mask_N=np.zeros(count, dtype=np.bool_),
        start_ns=segment.start_ns,
        stop_ns=segment.stop_ns,
        route=route,
        damage=(damage,),
    )


class _DecordFailed(Exception):
    """decord could not give the segment's pictures."""


def _decord() -> Any:
    # How often a reader asks for its last frames before it gives up (decord's own default is 10,240, about a second):
    # on a busy machine it must not give up a segment that another run would have read.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "32768")
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord


def placement_of(picture: CodedPicture, form: PictureFormat) -> Placement:
    """Where a video's pictures land in the model's picture."""
    if form.fit == "stretch":
        return stretch(picture.rotation, form)
    fitted = fit(picture.width, picture.height, picture.sample_aspect, picture.rotation, form.height, form.width)
    return replace(fitted, filter=form.filter)


def _wanted(segment: Segment) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions, among the shown frames, of the frames that the samples show: unique ones, and each sample's."""
    shown = [max(0, bisect_right(segment.pts_ns, t) - 1) for t in segment.sample_ns]
    unique, inverse = np.unique(np.asarray(shown, dtype=np.int64), return_inverse=True)
    return unique, inverse


def _decode_decord(segment: Segment, threads: int) -> Pictures:
    placement = placement_of(segment.picture, segment.form)
    unique, inverse = _wanted(segment)
    decord = _decord()
    try:
        video = decord.VideoReader(
            io.BytesIO(segment.data),
            ctx=decord.cpu(0),
            width=placement.width,
            height=placement.height,
            num_threads=threads,
        )
        if len(video) != segment.packets:
            raise _DecordFailed(f"it counts {len(video)} frames where the file has {segment.packets}")
        scaled = video.get_batch([segment.ranks[k] for k in unique]).asnumpy()
    except (RuntimeError, decord.DECORDError) as error:
        raise _DecordFailed(one_line(str(error))) from error
    placed = placement.place(scaled)
    return Pictures(
        first_sample=segment.first_sample,
        frames_NHWC=placed if len(unique) == len(inverse) else placed[inverse],
        mask_N=np.ones(len(inverse), dtype=np.bool_),
        start_ns=segment.start_ns,
        stop_ns=segment.stop_ns,
        route="decord",
    )


def _decode_pyav(segment: Segment, threads: int) -> Pictures:
    placement = placement_of(segment.picture, segment.form)
    unique, inverse = _wanted(segment)
    scaler = Scaler(placement)
    wanted = {segment.ranks[k]: row for row, k in enumerate(unique)}
    last_wanted = segment.ranks[unique[-1]] if len(unique) else -1
    scaled = np.zeros((len(unique), placement.height, placement.width, 3), dtype=np.uint8)
    got = np.zeros(len(unique), dtype=np.bool_)
    decoded: set[int] = set()
    errors: list[Exception] = []
    highest = -1
    try:
        # The codec's parameters are complete in the header: nothing needs to be decoded to find them.
        options = {"probesize": "32", "analyzeduration": "0"}
        with av.open(io.BytesIO(segment.data), format="matroska", container_options=options) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = threads
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError as error:
                    errors.append(error)
                    continue
                for frame in frames:
                    if frame.pts is None:
                        continue
                    rank = round(frame.pts * frame.time_base * 1000 / TICK_MS) - 1
                    decoded.add(rank)
                    highest = max(highest, rank)
                    row = wanted.get(rank)
                    if row is not None:
                        scaled[row] = scaler.scale(frame)
                        got[row] = True
                if highest >= last_wanted:
                    break
    except av.error.FFmpegError as error:
        errors.append(error)
    missing = [k for k, rank in enumerate(segment.ranks) if rank <= max(last_wanted, highest) and rank not in decoded]
    return Pictures(
        first_sample=segment.first_sample,
        frames_NHWC=placement.place(scaled)[inverse],
        mask_N=got[inverse],
        start_ns=segment.start_ns,
        stop_ns=segment.stop_ns,
        route="pyav",
        damage=tuple(_holes(segment, missing, errors)),
    )


def _holes(segment: Segment, missing: list[int], errors: list[Exception]) -> list[Damage]:
    """One record for each run of shown frames that did not come out of the decoder."""
    reason = errors[0] if errors else None
    holes: list[Damage] = []
    edges = (*segment.pts_ns, segment.stop_ns)
    start = 0
    while start < len(missing):
        stop = start
        while stop + 1 < len(missing) and missing[stop + 1] == missing[stop] + 1:
            stop += 1
        lost = stop - start + 1
        why = f" ({one_line(str(reason))})" if reason is not None else ""
        holes.append(
            Damage(
                stage="decode",
                start_ns=edges[missing[start]],
                stop_ns=edges[missing[stop] + 1],
                error=type(reason).__name__ if reason is not None else "MissingFrames",
                message=f"{lost} frame{'' if lost == 1 else 's'} could not be decoded{why}",
            )
        )
        start = stop + 1
    return holes


class Scaler:
    """Decoded frames to small RGB arrays, with one scaling context for all of them."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._reformatter = VideoReformatter()

    def scale(self, frame: Any) -> NDArray[np.uint8]:
        """uint8 [placement.height, placement.width, 3], as coded (not yet turned or padded)."""
        small = self._reformatter.reformat(
            frame,
            width=self._placement.width,
            height=self._placement.height,
            format="rgb24",
            interpolation=_FILTERS[self._placement.filter],
            threads=1,
        )
        array: Any = small.to_ndarray()
        return np.asarray(array, dtype=np.uint8)
