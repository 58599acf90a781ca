"""What passes between the stages of one video's reading. Everything here can be pickled."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.media.geometry import PictureFormat

Reader: TypeAlias = Literal["auto", "decord", "pyav"]
Route: TypeAlias = Literal["decord", "pyav"]


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A stretch of a video that could not be read, and why. Times are on the video's clock."""

    stage: str
    start_ns: int
    stop_ns: int
    error: str
    message: str


@dataclass(frozen=True, kw_only=True)
class CodedPicture:
    """The shape of a video's decoded pictures and what a viewer does to them. `rotation` is clockwise."""

    width: int
    height: int
    sample_aspect: Fraction
    rotation: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """A few seconds of compressed video that decode on their own: whole groups of pictures, as Matroska in memory.

    In `data`, the frame that is r-th in order of presentation has the timestamp `TICK_MS * (r + 1)` + a constant:
    the true times are `pts_ns`, exact. Frames that only serve to decode others are in `data` and not in `pts_ns`.
    """

    index: int
    data: bytes = field(repr=False)
    # Presentation times of the shown frames, ascending, and each one's rank among all `packets` frames of the data.
    pts_ns: tuple[int, ...] = field(repr=False)
    ranks: tuple[int, ...] = field(repr=False)
    packets: int
    # The segment shows [start_ns, stop_ns): stop_ns is the next segment's first picture, or the video's end.
    start_ns: int
    stop_ns: int
    # The wanted samples: the plan's numbers from `first_sample` on, at these times.
    first_sample: int
    sample_ns: tuple[int, ...] = field(repr=False)
    picture: CodedPicture
    # What the samples are to become.
    form: PictureFormat
    closed_gop: bool
    route: Route
    reason: str

    def __post_init__(self) -> None:
        if self.stop_ns <= self.start_ns or not self.pts_ns or len(self.pts_ns) != len(self.ranks):
            raise ValueError(f"segment {self.index} of [{self.start_ns}, {self.stop_ns}) ns, {len(self.pts_ns)} frames")
        if self.sample_ns and not self.start_ns <= self.sample_ns[0] <= self.sample_ns[-1] < self.stop_ns:
            raise ValueError(f"segment {self.index}: samples leave [{self.start_ns}, {self.stop_ns}) ns")

    @property
    def size_bytes(self) -> int:
        """Bytes that the segment holds in memory."""
        return len(self.data)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """The wanted pictures of one stretch [start_ns, stop_ns) of a video, in order, at the model's size.

    `frames_NHWC` is uint8 [N, height, width, 3]; `mask_N` is False where a picture could not be had.
    """

    first_sample: int
    frames_NHWC: NDArray[np.uint8]
    mask_N: NDArray[np.bool_]
    start_ns: int
    stop_ns: int
    route: Route
    damage: tuple[Damage, ...] = ()

    def __post_init__(self) -> None:
        if len(self.frames_NHWC) != len(self.mask_N):
            raise ValueError(f"{len(self.frames_NHWC)} pictures and {len(self.mask_N)} mask values")

    @property
    def size_bytes(self) -> int:
        """Bytes that the pictures hold in memory."""
        return int(self.frames_NHWC.nbytes)


@dataclass(frozen=True, kw_only=True, eq=False)
class SoundChunk:
    """Consecutive samples of the continuous sound; `wave_S` is float32 mono, or None where the file has no sound.

    Sample n of the continuous sound is at n / 16,000 s on the video's clock. Chunks follow each other without a gap.
    """

    first: int
    samples: int
    wave_S: NDArray[np.float32] | None

    def __post_init__(self) -> None:
        if self.samples < 1 or (self.wave_S is not None and self.wave_S.shape != (self.samples,)):
            raise ValueError(f"a chunk of {self.samples} samples at {self.first}")

    @property
    def size_bytes(self) -> int:
        """Bytes that the chunk holds in memory."""
        return 0 if self.wave_S is None else int(self.wave_S.nbytes)


@dataclass(frozen=True, kw_only=True)
class Cue:
    """One subtitle: its text, and when it is shown."""

    start_ns: int
    stop_ns: int
    text: str


@dataclass(frozen=True, kw_only=True)
class End:
    """The video ended: the last item of every demux. `end_ns` is where the last picture's time is over."""

    end_ns: int


def one_line(message: str) -> str:
    """The first line of a library's error message that says something, at most 300 characters."""
    line = next((part for part in message.strip().splitlines() if part.strip()), "no reason given")
    return line.strip()[:300]
