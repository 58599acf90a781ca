"""Who works for a job, and what becomes of the work when a worker is lost.

Any worker may be lost at any time, with whatever it held. A decoder's segment is tried once more and then given up;
everything else has one remedy: the video goes on from its last commit, in a fresh run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from longtake import errors
from longtake.errors import LongTakeError
from longtake.pipeline.indexing import actors
from longtake.pipeline.indexing.actors import Call, Outcome
from longtake.pipeline.indexing.state import Ending, Job, Role, Run, Slot
from longtake.pipeline.media.model_input import ModelInput
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.segment import Reader
from longtake.pipeline.table.metadata import IndexMetadata
from longtake.pipeline.table.writer import NOTHING_WRITTEN

# How often a worker may be lost over the same thing.
VIDEO_LOSSES = 2
ENCODER_LOSSES = 3
TRANSPORT_LOSSES = 5
SLOT_LOSSES = 6
START_HANGS = 2


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What an engine is made of.

    `encode_stage` is the encoders' "module:Class". `device` is "cpu" or "cuda"; lanes are counted for each encoder.
    """

    index_uri: str
    metadata: IndexMetadata
    model: str
    encode_stage: str
    model_input: ModelInput
    sampling: Sampling
    reader: Reader
    device: str
    demuxers: int
    decoders: int
    encoders: int
    lanes: int
    encoder_threads: int
    budget_bytes: int
    commit_s: float
    commit_bytes: int
    demux_deadline_s: float
    decode_deadline_s: float
    encode_deadline_s: float
    # On a cluster that others use too, workers ask for the cores that they keep busy.
    cpus_a_decoder: float

    def __post_init__(self) -> None:
        counts = (self.demuxers, self.decoders, self.encoders, self.lanes, self.encoder_threads, self.budget_bytes)
        if min(counts) < 1 or self.commit_s < 0:
            raise ValueError(f"{self}: every count must be at least 1")


class Workforce:
    """The slots, the calls under way and the runs, and their repair. `Engine` gives them work."""

    def __init__(self, job: Job, settings: EngineSettings) -> None:
        self._job, self._settings = job, settings
        self._calls: list[Call] = []
        self._runs: list[Run] = []
        self._next_run = 0
        self._all_out = False
        self._interrupts = 0
        roles: list[tuple[Role, int]] = [
            ("encode", settings.encoders),
            ("demux", settings.demuxers),
            ("decode", settings.decoders),
        ]
        self._slots = [Slot(role=role, number=number) for role, count in roles for number in range(count)]
        for slot in self._slots:
            if slot.role == "encode":
                slot.lanes = [None] * settings.lanes

    def _of(self, role: Role) -> list[Slot]:
        """The slots of a role whose workers are ready."""
        return [slot for slot in self._slots if slot.role == role and slot.worker is not None]

    def _start(self, slot: Slot) -> None:
        settings = self._settings
        if slot.role == "encode":
            stage = settings.encode_stage
            threads = settings.encoder_threads
            arguments: tuple[Any, ...] = (
                *(settings.model, settings.lanes, settings.device, threads),
                *(settings.index_uri, settings.metadata),
            )
        elif slot.role == "demux":
            stage, threads = "longtake.pipeline.indexing.stages.demux:DemuxStage", 1
            arguments = (settings.model_input, settings.sampling, settings.reader)
        else:
            stage, threads = "longtake.pipeline.indexing.stages.decode:DecodeStage", 1
            arguments = (settings.reader,)
        cpus = settings.cpus_a_decoder if slot.role == "decode" else 0.0
        gpus = 1.0 if slot.role == "encode" and settings.device != "cpu" else 0.0
        slot.worker = None
        ready = actors.start_worker(slot.role, slot.number, stage, arguments, threads=threads, cpus=cpus, gpus=gpus)
        ready.about = ("ready", slot)
        self._calls.append(ready)

    def _call(
        self, slot: Slot, method: str, *arguments: Any, about: tuple[Any, ...] = ("note",), more_s: float = 0.0
    ) -> None:
        assert slot.worker is not None
        deadlines = {
            "demux": self._settings.demux_deadline_s,
            "decode": self._settings.decode_deadline_s,
            "encode": self._settings.encode_deadline_s,
        }
        call = actors.call(
            slot.worker,
            method,
            *arguments,
            about=(about[0], slot, *about[1:]),
            deadline_s=deadlines[slot.role] + more_s,
            payloads={"read": 2, "decode": 1, "give_up": 1}.get(method, 0),
        )
        slot.calls += 1
        self._calls.append(call)

    def _settle_ready(self, call: Call, slot: Slot, outcome: Outcome) -> None:
        if outcome.kind == "done":
            slot.worker, slot.calls, slot.starts_lost = call.worker, 0, 0
            slot.flushed_at = slot.fed_at = time.monotonic()
            actors.admit(call.worker, outcome)
            return
        if outcome.kind == "error":
            # What a stage cannot be made of now, it cannot be made of later.
            known = getattr(errors, outcome.error, LongTakeError)
            raise known(outcome.message if known is not LongTakeError else f"{outcome.error}: {outcome.message}")
        actors.kill(call.worker)
        slot.starts_lost += 1
        if slot.starts_lost < (SLOT_LOSSES if outcome.kind == "died" else START_HANGS):
            self._start(slot)
        else:
            self._retire(slot, outcome)

    def _lose(self, slot: Slot, outcome: Outcome, kind: str, about: list[Any]) -> None:
        """A worker is gone, with everything it held and every call of it."""
        assert slot.worker is not None
        actors.kill(slot.worker)
        mine = [call for call in self._calls if call.about[1] is slot]
        self._calls = [call for call in self._calls if call.about[1] is not slot]
        slot.worker, slot.calls = None, 0
        slot.losses += 1
        if slot.losses >= SLOT_LOSSES:
            raise LongTakeError(
                f"{slot.losses} {slot.role} workers were lost one after another: {outcome.error}: {outcome.message}"
            )
        if slot.role == "decode":
            run, parcel = about
            parcel.decoding = False
            run.video.broken[parcel.note.start_ns] = run.video.broken.get(parcel.note.start_ns, 0) + 1
        elif slot.role == "demux":
            for held in [run for run in self._runs if run.demuxer is slot]:
                if held in about:
                    self._count_loss(held, "probe" if kind == "look" else "demux", outcome)
                held.asked = False
                if held.state != "look":
                    self._leave(held, None)
        else:
            self._lose_encoder(slot, outcome, [(kind, about), *((call.about[0], call.about[2:]) for call in mine)])
        self._start(slot)

    def _lose_encoder(self, slot: Slot, outcome: Outcome, calls: list[tuple[str, Any]]) -> None:
        endings = slot.ended + [ending for kind, about in calls if kind == "flush" for ending in about[0]]
        slot.ended, slot.flushing, slot.dirty, slot.row_bytes = [], False, False, 0
        runs = [run for run in slot.lanes if run is not None]
        for run in runs:
            if run.state == "read":
                self._stop_demux(run)
            self._count_loss(run, "encode", outcome, ENCODER_LOSSES)
            if run.ending is not None:
                self._job.commit(NOTHING_WRITTEN, [run.ending])
            self._restart(run)
        # Videos whose last rows were not committed yet: back to where their commits leave off.
        for ending in endings:
            if ending.error:
                self._job.commit(NOTHING_WRITTEN, [ending])
            else:
                self._runs.append(
                    Run(number=self._next_run, video=ending.video, demuxer=self._any_demuxer(), state="start")
                )
                self._next_run += 1

    def _count_loss(self, run: Run, stage: str, outcome: Outcome, most: int = VIDEO_LOSSES) -> None:
        """A worker was lost over this video; too often, and the video ends."""
        losses = run.video.losses
        losses[stage] = losses.get(stage, 0) + 1
        if losses[stage] >= most:
            self._leave(
                run,
                Ending(
                    video=run.video,
                    stage=stage,
                    error=outcome.error,
                    message=f"{losses[stage]} workers were lost over this video: {outcome.message}",
                ),
            )

    def _leave(self, run: Run, ending: Ending | None) -> None:
        """Take a run out of work: at once, or where an encoder holds rows of it, once these are committed."""
        if run.state in ("leaving", "gone"):
            run.ending = run.ending or ending
            return
        run.ending = ending
        if run.state == "read" and run.demuxer.worker is not None:
            self._stop_demux(run)
        run.state = "leaving"
        run.parcels.clear()
        if run.encoder is None:
            if ending is not None:
                self._job.commit(NOTHING_WRITTEN, [ending])
            self._restart(run)

    def _restart(self, run: Run) -> None:
        """Put a fresh run in the place of one that is over, unless its video has ended."""
        place = self._runs.index(run)
        self._forget(run)
        if run.ending is None:
            fresh = Run(number=self._next_run, video=run.video, demuxer=self._any_demuxer(), state="start")
            self._next_run += 1
            self._runs.insert(place, fresh)

    def _forget(self, run: Run) -> None:
        if run.encoder is not None:
            run.encoder.lanes[run.lane] = None
        run.state = "gone"
        run.parcels.clear()
        self._runs.remove(run)

    def _stop_demux(self, run: Run) -> None:
        if run.demuxer.worker is not None:
            self._call(run.demuxer, "stop", run.number)

    def _any_demuxer(self) -> Slot:
        demuxers = [slot for slot in self._slots if slot.role == "demux"]
        return min(demuxers, key=lambda slot: sum(1 for run in self._runs if run.demuxer is slot))

    def _retire(self, slot: Slot, outcome: Outcome) -> None:
        """Go on without a worker that cannot be started, for want of room on what is left of a cluster."""
        if not any(other.role == slot.role and other is not slot for other in self._slots):
            raise LongTakeError(f"no {slot.role} worker can be started: {outcome.error}: {outcome.message}")
        self._slots.remove(slot)
        for run in [run for run in self._runs if run.demuxer is slot]:
            run.demuxer = self._any_demuxer()
