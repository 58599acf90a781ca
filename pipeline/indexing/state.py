"""What the engine knows of the work under way: videos, their runs, parcels between stages, and the workers' slots."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, Protocol

from longtake.pipeline.indexing.actors import Payload, Worker
from longtake.pipeline.indexing.messages import Looked, ParcelNote
from longtake.pipeline.media.geometry import PictureFormat
from longtake.pipeline.media.plan import Plan
from longtake.pipeline.media.probe import MediaInfo
from longtake.pipeline.media.segment import Damage
from longtake.pipeline.table.writer import Written

Role = Literal["demux", "decode", "encode"]


@dataclass(eq=False, kw_only=True)
class Video:
    """A file of the job. `video_id` and what follows it are known once it was looked at.

    `losses` counts, by stage, how often a worker was lost over it since its last commit; `broken` counts it for each of
    its segments, by their start, and is never forgotten.
    """

    uri: str
    known_hash: str = ""
    size_bytes: int = 0
    video_id: str = ""
    info: MediaInfo | None = None
    plan: Plan | None = None
    form: PictureFormat | None = None
    sound_peak: float | None = None
    losses: dict[str, int] = field(default_factory=dict)
    broken: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where to go on with a video: the first snippet that is wanted, and the combiner's memory before it."""

    first: int
    memory: bytes | None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a video's run ended: `end_ns` where the video is over, or the trouble that ended it before."""

    video: Video
    end_ns: int | None = None
    stage: str = ""
    error: str = ""
    message: str = ""


class Job(Protocol):
    """What the engine works for: it decides what is to be done, and keeps what was."""

    def next_video(self) -> Video | None:
        """The next file, or None when all were handed out."""

    def looked(self, video: Video, looked: Looked) -> bool:
        """Take note of what a file is. False: there is nothing to do for it."""

    def start(self, video: Video) -> Start:
        """Where the committed rows of a video leave off."""

    def damaged(self, video: Video, damage: tuple[Damage, ...]) -> None:
        """Take note of damage; to be recorded with the next commit."""

    def encoded(self, video: Video, snippets: int, frames: int, reached_ns: int) -> None:
        """Take note of progress, not yet committed."""

    def commit(self, written: Written, endings: list[Ending]) -> None:
        """Commit rows; and then these videos have ended."""


@dataclass(eq=False, kw_only=True)
class Parcel:
    """One piece of a run on its way from the demuxer to the encoder."""

    note: ParcelNote
    items: Payload
    segment: Payload
    pictures: Payload = None
    decoding: bool = False
    ready: bool = False

    @property
    def size_bytes(self) -> int:
        """What it holds, or will hold, in memory."""
        compressed = 0 if self.ready else self.note.segment_bytes
        return self.note.item_bytes + compressed + self.note.picture_bytes


@dataclass(eq=False, kw_only=True)
class Run:
    """One attempt at a video, from where the last one left off.

    state: look (unknown file), start (its demux is to be begun), read (under way), read_out (all of it is read),
    leaving (no more work goes into it; what it has encoded is still to be committed), gone.
    """

    number: int
    video: Video
    demuxer: Slot
    state: Literal["look", "start", "read", "read_out", "leaving", "gone"] = "look"
    start: Start | None = None
    asked: bool = False
    parcels: deque[Parcel] = field(default_factory=deque)
    encoder: Slot | None = None
    lane: int = -1
    # Parcels given to the encoder, how much of them is inside its calls, and snippets that wait in its lane.
    fed: int = 0
    fed_bytes: int = 0
    waiting: int = 0
    # Why it leaves: None to be started again.
    ending: Ending | None = None

    @property
    def size_bytes(self) -> int:
        """What its parcels hold in memory, waiting snippets left out."""
        return self.fed_bytes + sum(parcel.size_bytes for parcel in self.parcels)

    @property
    def ahead(self) -> int:
        """How far it is supplied: the parcels and snippets that are ready for the encoder."""
        return self.waiting + sum(1 for parcel in self.parcels if parcel.ready)


@dataclass(eq=False, kw_only=True)
class Slot:
    """A place for one worker of a role. A worker that is lost is replaced in its slot."""

    role: Role
    number: int
    worker: Worker | None = None
    # Workers lost since this slot last gave a result, and those lost before they were ready.
    losses: int = 0
    starts_lost: int = 0
    calls: int = 0
    # Encoders only.
    lanes: list[Run | None] = field(default_factory=list)
    ended: list[Ending] = field(default_factory=list)
    flushing: bool = False
    dirty: bool = False
    row_bytes: int = 0
    flushed_at: float = 0.0
    fed_at: float = 0.0

    @property
    def free_lane(self) -> int:
        """A lane without a run, or -1."""
        return next((number for number, run in enumerate(self.lanes) if run is None), -1)
