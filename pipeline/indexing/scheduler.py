"""Who does what when: files to demuxers, segments to decoders, parcels to lanes, rows to the committer.

One loop in the job's own process. It holds handles and notes, never pictures, and sleeps in `actors.wait`. Two rules:

- Memory is counted in bytes. A new parcel is asked for while the budget lasts; a run that has nothing under way may
  always ask for one, so that the oldest thing that a lane waits for is never held up by what younger ones hold.
- Rows are committed in the order in which their encoder wrote them, by this process alone.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from longtake.pipeline.indexing import actors
from longtake.pipeline.indexing.actors import Call, Outcome
from longtake.pipeline.indexing.messages import LaneWork
from longtake.pipeline.indexing.recovery import TRANSPORT_LOSSES, VIDEO_LOSSES, Workforce
from longtake.pipeline.indexing.state import Ending, Parcel, Run, Slot

# Calls of an encoder under way: the next one waits there when one ends.
ENCODER_CALLS = 2
# Parcels of one lane in one call, and whole snippets that may wait in a lane before it gets no more.
PARCELS_A_CALL = 8
WAITING_SNIPPETS = 32
# How long a lane with snippets waits for lanes without, before it is encoded beside padding.
PATIENCE_S = 1.0
# Storage slower than this is taken for one that hangs.
SLOWEST_BYTES_A_SECOND = 10e6
# The loop wakes at least this often, to notice an interrupt.
WAKE_S = 1.0


class Engine(Workforce):
    """Runs a job's videos through the stages. `run` returns when all of it is committed."""

    def run(self) -> None:
        """Work until every video has ended and every row is committed.

        Raises:
            KeyboardInterrupt: interrupted; every row that was encoded by then is committed.
            LongTakeError: the work cannot go on (and with its own class: the model cannot be loaded, and the like).
        """
        with self._interrupts_noted():
            try:
                for slot in self._slots:
                    self._start(slot)
                while not self._interrupts:
                    self._dispatch()
                    if self._is_finished():
                        return
                    for call in actors.wait(self._calls, self._pause_s()):
                        self._settle(call)
                self._commit_what_is_encoded()
                raise KeyboardInterrupt
            finally:
                for slot in self._slots:
                    if slot.worker is not None:
                        actors.kill(slot.worker)

    @contextmanager
    def _interrupts_noted(self) -> Iterator[None]:
        """Note SIGINT instead of breaking off anywhere: between a flush and its commit, rows would go missing."""

        def note(number: int, frame: Any) -> None:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    # Giving out work

    def _dispatch(self) -> None:
        self._admit_videos()
        self._give_lanes()
        self._feed_encoders()
        self._feed_decoders()
        self._feed_demuxers()
        self._flush_encoders()

    def _admit_videos(self) -> None:
        lanes = sum(len(slot.lanes) for slot in self._slots)
        # One more for each encoder is read ahead, so that a lane does not run dry between two videos.
        wanted = lanes + sum(1 for slot in self._slots if slot.role == "encode")
        demuxers = [slot for slot in self._slots if slot.role == "demux"]
        while not self._all_out and len(self._runs) < wanted:
            video = self._job.next_video()
            if video is None:
                self._all_out = True
                return
            least = min(demuxers, key=lambda slot: sum(1 for run in self._runs if run.demuxer is slot))
            self._runs.append(Run(number=self._next_run, video=video, demuxer=least))
            self._next_run += 1

    def _give_lanes(self) -> None:
        for run in self._runs:
            if run.encoder is not None or run.state not in ("read", "read_out"):
                continue
            free = [slot for slot in self._of("encode") if slot.free_lane >= 0]
            if not free:
                return
            slot = min(free, key=lambda slot: sum(1 for lane in slot.lanes if lane is not None))
            assert run.start is not None and run.video.info is not None and run.video.plan is not None
            assert run.video.form is not None
            run.encoder, run.lane = slot, slot.free_lane
            slot.lanes[run.lane] = run
            work = LaneWork(
                run=run.number,
                video_id=run.video.video_id,
                plan=run.video.plan,
                form=run.video.form,
                has_sound=run.video.info.audio is not None,
                sound_peak=run.video.sound_peak,
                first=run.start.first,
                memory=run.start.memory,
            )
            self._call(slot, "begin", run.lane, work)

    def _feed_encoders(self) -> None:
        for slot in self._of("encode"):
            if slot.calls >= ENCODER_CALLS:
                continue
            where: list[tuple[int, int, int]] = []
            parcels: list[Any] = []
            taken: list[tuple[Run, int]] = []
            for run in slot.lanes:
                if run is None or run.state == "leaving" or run.waiting > WAITING_SNIPPETS:
                    continue
                count = 0
                while run.parcels and run.parcels[0].ready and count < PARCELS_A_CALL:
                    parcel = run.parcels.popleft()
                    where.append((run.lane, run.number, run.fed))
                    run.fed += 1
                    parcels += [parcel.items, parcel.pictures]
                    run.fed_bytes += parcel.size_bytes
                    taken.append((run, parcel.size_bytes))
                    count += 1
            waiting = any(run is not None and run.waiting for run in slot.lanes)
            drain = waiting and not slot.calls and time.monotonic() - slot.fed_at > PATIENCE_S
            if where or drain:
                slot.fed_at = time.monotonic()
                self._call(slot, "feed", where, drain, *parcels, about=("feed", taken))

    def _feed_decoders(self) -> None:
        free = [slot for slot in self._of("decode") if not slot.calls]
        while free:
            wanting = [
                (run.encoder is None, run.ahead, run.number, run, parcel)
                for run in self._runs
                if run.state != "leaving"
                for parcel in run.parcels
                if not parcel.ready and not parcel.decoding
            ]
            if not wanting:
                return
            *_, run, parcel = min(wanting, key=lambda one: one[:3])
            parcel.decoding = True
            lost = run.video.broken.get(parcel.note.start_ns, 0)
            slot, about = free.pop(), ("decode", run, parcel)
            if lost < VIDEO_LOSSES:
                self._call(slot, "decode", parcel.segment, about=about)
            else:
                message = f"{lost} decoders were lost with this segment (killed, crashed or past the deadline)"
                self._call(slot, "give_up", parcel.segment, "DecoderLost", message, about=about)

    def _feed_demuxers(self) -> None:
        held = sum(run.size_bytes + run.waiting * self._snippet_bytes(run) for run in self._runs)
        for slot in self._of("demux"):
            if slot.calls:
                continue
            mine = [run for run in self._runs if run.demuxer is slot and not run.asked]
            reading = sorted((run for run in mine if run.state == "read"), key=lambda run: (run.ahead, run.number))
            for run in [run for run in mine if run.state in ("look", "start")] + reading:
                # A video read ahead, without a lane, leaves half of the budget to those that have one.
                budget = self._settings.budget_bytes // (1 if run.encoder is not None else 2)
                hungry = run.encoder is not None and not run.size_bytes and not run.waiting
                if run.state == "read" and not hungry and held >= budget:
                    continue
                run.asked = True
                if run.state == "look":
                    # All of the file may have to be read, to hash it.
                    reading_s = run.video.size_bytes / SLOWEST_BYTES_A_SECOND
                    about = ("look", run)
                    self._call(slot, "look", run.video.uri, run.video.known_hash, about=about, more_s=reading_s)
                elif run.state == "start":
                    run.start = self._job.start(run.video)
                    video, first = run.video, run.start.first
                    about = ("start", run)
                    self._call(slot, "start", run.number, video.info, video.plan, video.form, first, about=about)
                else:
                    self._call(slot, "read", run.number, about=("read", run))
                break

    def _flush_encoders(self) -> None:
        idle = self._all_out and not self._runs
        now = time.monotonic()
        for slot in self._of("encode"):
            leaving = any(run is not None and run.state == "leaving" for run in slot.lanes)
            if slot.flushing or not (slot.dirty or slot.ended or leaving):
                continue
            due = now - slot.flushed_at >= self._settings.commit_s
            if due or idle or leaving or slot.row_bytes >= self._settings.commit_bytes:
                self._flush(slot)

    def _flush(self, slot: Slot) -> None:
        ended, slot.ended = slot.ended, []
        left = [run for run in slot.lanes if run is not None and run.state == "leaving"]
        slot.flushing, slot.dirty, slot.row_bytes = True, False, 0
        self._call(slot, "flush", about=("flush", ended, left))
        for run in left:
            self._call(slot, "drop", run.lane, run.number)

    def _pause_s(self) -> float:
        """How long nothing but an answer can make work: until a commit is due, or a lane's patience is over."""
        now, pause = time.monotonic(), WAKE_S
        for slot in self._of("encode"):
            if (slot.dirty or slot.ended) and not slot.flushing:
                pause = min(pause, slot.flushed_at + self._settings.commit_s - now)
        return max(0.01, pause)

    def _snippet_bytes(self, run: Run) -> int:
        form = run.video.form
        return self._settings.model_input.snippet_bytes(form) if form is not None else 0

    def _is_finished(self) -> bool:
        encoders = [slot for slot in self._slots if slot.role == "encode"]
        return self._all_out and not self._runs and not any(slot.ended or slot.flushing for slot in encoders)

    # Taking results

    def _settle(self, call: Call) -> None:
        if call not in self._calls:
            # Its worker was lost a moment ago, and all of its calls with it.
            return
        self._calls.remove(call)
        outcome = call.outcome
        assert outcome is not None
        kind, slot, *about = call.about
        if kind == "ready":
            self._settle_ready(call, slot, outcome)
            return
        slot.calls -= 1
        if outcome.kind in ("died", "hung") or (outcome.kind == "error" and slot.role != "demux"):
            # A stage that raises what it should have dealt with is as unreliable as one that died.
            self._lose(slot, outcome, kind, about)
            return
        if outcome.kind == "lost":
            runs = [run for run, _ in about[0]] if kind == "feed" else [one for one in about if isinstance(one, Run)]
            for run in dict.fromkeys(runs):
                self._count_loss(run, "transport", outcome, TRANSPORT_LOSSES)
                self._leave(run, None)
            return
        if kind != "note":
            slot.losses = 0
            settle: dict[str, Any] = {
                "look": self._settle_look,
                "start": self._settle_start,
                "read": self._settle_read,
                "decode": self._settle_decode,
                "feed": self._settle_feed,
                "flush": self._settle_flush,
            }
            settle[kind](slot, outcome, *about)

    def _settle_look(self, slot: Slot, outcome: Outcome, run: Run) -> None:
        run.asked = False
        if outcome.kind == "error":
            self._leave(run, Ending(video=run.video, stage="probe", error=outcome.error, message=outcome.message))
        elif self._job.looked(run.video, outcome.value):
            run.state = "start"
        else:
            self._forget(run)

    def _settle_start(self, slot: Slot, outcome: Outcome, run: Run) -> None:
        run.asked = False
        if outcome.kind == "error":
            self._leave(run, Ending(video=run.video, stage="demux", error=outcome.error, message=outcome.message))
        elif run.state == "start":
            run.state = "read"

    def _settle_read(self, slot: Slot, outcome: Outcome, run: Run) -> None:
        run.asked = False
        if run.state != "read":
            return
        if outcome.kind == "error":
            ending = Ending(video=run.video, stage="demux", error=outcome.error, message=outcome.message)
            self._leave(run, ending)
            return
        note = outcome.value
        items, segment = outcome.payload
        run.parcels.append(Parcel(note=note, items=items, segment=segment, ready=not note.has_segment))
        if note.last:
            run.state = "read_out"

    def _settle_decode(self, slot: Slot, outcome: Outcome, run: Run, parcel: Parcel) -> None:
        parcel.pictures, parcel.segment, parcel.ready = outcome.payload[0], None, True

    def _settle_feed(self, slot: Slot, outcome: Outcome, taken: list[tuple[Run, int]]) -> None:
        for run, size_bytes in taken:
            run.fed_bytes -= size_bytes
        slot.row_bytes = outcome.value.row_bytes
        by_number = {run.number: run for run in slot.lanes if run is not None}
        for state in outcome.value.lanes:
            if state.run not in by_number:
                continue
            run = by_number[state.run]
            run.waiting = state.waiting
            if state.damage:
                self._job.damaged(run.video, state.damage)
            if state.encoded or state.damage:
                slot.dirty = True
                self._job.encoded(run.video, state.encoded, state.frames, state.reached_ns)
            if state.error or state.end_ns is not None:
                ending = Ending(
                    video=run.video,
                    end_ns=state.end_ns,
                    stage="assemble" if state.error else "",
                    error=state.error,
                    message=state.message,
                )
                slot.ended.append(ending)
                if run.state == "read":
                    self._stop_demux(run)
                self._forget(run)

    def _settle_flush(self, slot: Slot, outcome: Outcome, ended: list[Ending], left: list[Run]) -> None:
        slot.flushing, slot.flushed_at = False, time.monotonic()
        for run in self._runs:
            if run.video.video_id in outcome.value.spans:
                run.video.losses.clear()
        gone = [run for run in left if run.state == "leaving"]
        self._job.commit(outcome.value, ended + [run.ending for run in gone if run.ending is not None])
        for run in gone:
            self._restart(run)

    def _commit_what_is_encoded(self) -> None:
        """After an interrupt: every encoder writes its rows, and they are committed. No new work."""
        for slot in self._of("encode"):
            if not slot.flushing:
                self._flush(slot)
        while True:
            flushes = [call for call in self._calls if call.about[0] in ("flush", "feed")]
            if not any(call.about[0] == "flush" for call in flushes):
                return
            for call in actors.wait(flushes, WAKE_S):
                if call.outcome is not None and call.outcome.kind == "done":
                    self._settle(call)
                else:
                    self._calls.remove(call)
