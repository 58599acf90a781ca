"""What travels between the stages, and the small notes that travel with it. All of it can be pickled."""

from __future__ import annotations

from dataclasses import dataclass

from longtake.pipeline.media.geometry import PictureFormat
from longtake.pipeline.media.plan import Plan
from longtake.pipeline.media.probe import MediaInfo
from longtake.pipeline.media.segment import Damage


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What a first look at a file found. `info`, `plan` and `form` are None where it cannot be indexed: `error`
    says why. `sound_peak` is the loudest value of its sound, where the model has to know it beforehand.

    `content_hash` is "" where not even its bytes could be read.
    """

    size_bytes: int
    mtime_ns: int
    content_hash: str
    info: MediaInfo | None = None
    plan: Plan | None = None
    form: PictureFormat | None = None
    sound_peak: float | None = None
    error: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class ParcelNote:
    """What one step of a file's demux gave: at most one segment to decode, and what came before it.

    `start_ns` and `stop_ns` are the segment's; `segment_bytes` is 0 where there is none. `picture_bytes` is what its
    pictures will hold. `last` says that the file has ended and nothing follows.
    """

    item_bytes: int
    segment_bytes: int
    picture_bytes: int
    start_ns: int
    stop_ns: int
    last: bool

    @property
    def has_segment(self) -> bool:
        """Whether a decoder has to see this parcel."""
        return self.segment_bytes > 0


@dataclass(frozen=True, kw_only=True)
class LaneWork:
    """What a lane of an encoder is given: a run of a video, whose snippets are wanted from `first` on.

    `memory` is what the encoder gave with the snippet before `first`, None at the video's start.
    """

    run: int
    video_id: str
    plan: Plan
    form: PictureFormat
    has_sound: bool
    sound_peak: float | None
    first: int
    memory: bytes | None


@dataclass(frozen=True, kw_only=True)
class LaneState:
    """How a lane stands after a call of the encoder.

    `waiting` snippets are whole and not yet encoded. `encoded`, `frames` and `reached_ns` tell what this call encoded:
    how many snippets, how many pictures in them, and where the last one stops. `end_ns` is set once all of the video is
    encoded. `error` says that the video cannot go on, and why.
    """

    run: int
    waiting: int
    encoded: int
    frames: int
    reached_ns: int
    damage: tuple[Damage, ...] = ()
    end_ns: int | None = None
    error: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Fed:
    """The encoder's answer: its lanes' states, and the bytes of encoded rows that no commit has taken yet."""

    lanes: tuple[LaneState, ...]
    row_bytes: int
