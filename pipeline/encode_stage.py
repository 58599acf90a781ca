"""The encode stage: decoded parcels in, rows of tokens written into the index's storage out.

Each lane follows one video. It joins pictures and sound to snippets, carries the combiner's memory, and keeps the rows
until the next `flush` writes them. Rows become part of the index only when the committer commits them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from longtake.operators.checkpoint import load_model
from longtake.operators.config import ModelConfig
from longtake.operators.snippet_encoder import SnippetEncoder
from longtake.pipeline.committer import SnippetRow, Written, write_snippets
from longtake.pipeline.index_metadata import IndexMetadata
from longtake.pipeline.media.assemble import Assembler
from longtake.pipeline.media.intake import ConfigIntake
from longtake.pipeline.media.segment import Damage, End, Pictures
from longtake.pipeline.media.snippet import Snippet
from longtake.pipeline.parcel import Fed, LaneState, LaneWork


@dataclass(eq=False, kw_only=True)
class _Lane:
    """One video under way. `memory_KD` is the combiner's memory after the last encoded snippet."""

    run: int
    video_id: str
    assembler: Assembler
    memory_KD: torch.Tensor
    # Parcels taken so far: the number of the one that has to come next.
    parcels: int = 0
    waiting: deque[Snippet] = field(default_factory=deque)
    damage: list[Damage] = field(default_factory=list)
    end_ns: int | None = None
    error: str = ""
    message: str = ""
    encoded: int = 0
    frames: int = 0
    reached_ns: int = 0

    @property
    def active(self) -> bool:
        """Whether snippets of this lane are still to come or to be encoded."""
        return not self.error and (self.end_ns is None or bool(self.waiting))


class EncodeStage:
    """One encoder with `lanes` lanes; a step always runs all of them, the idle ones padded.

    Args:
        model: a checkpoint's directory or shipped name.
        threads: of PyTorch on the CPU. Results are the same from run to run only for the same number.
    Raises:
        CheckpointError: the model cannot be loaded.
        RuntimeError: it is not the model that the index is to be written with.
    """

    def __init__(
        self, model: str, lanes: int, device: str, threads: int, index_uri: str, metadata: IndexMetadata
    ) -> None:
        torch.set_num_threads(threads)
        loaded = load_model(model)
        if loaded.fingerprint != metadata.fingerprint:
            raise RuntimeError(f"{model} is {loaded.fingerprint} here, not {metadata.fingerprint}")
        # Only what turns snippets into tokens is used here, and need not lie on the device.
        del loaded.model.text_decoder, loaded.model.latent_model
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        self._encoder = SnippetEncoder(loaded.model, lanes=lanes, device=device, dtype=dtype)
        self._config: ModelConfig = loaded.config
        self._index_uri, self._metadata = index_uri, metadata
        self._initial_KD = self._encoder.initial_memory()
        self._lanes: list[_Lane | None] = [None] * lanes
        self._rows: dict[str, list[SnippetRow]] = {}
        # The last snippet of each video under way that was written, or that the index held before.
        self._after: dict[str, int] = {}
        self._memories: dict[str, torch.Tensor] = {}
        self._row_bytes = 0

    def begin(self, lane: int, work: LaneWork) -> None:
        """Give a lane to a video; `work.memory` is the combiner's memory.

        Raises:
            ValueError: the memory is not of this model's shape.
        """
        memory_KD = self._initial_KD.clone()
        if work.memory is not None:
            carried = np.frombuffer(work.memory, np.float32).copy()
            memory_KD = torch.from_numpy(carried).reshape(self._initial_KD.shape)
        self._after[work.video_id] = work.first - 1
        self._lanes[lane] = _Lane(
            run=work.run,
            video_id=work.video_id,
            assembler=Assembler(
                ConfigIntake(config=self._config), work.plan, work.form, has_sound=work.has_sound, first=work.first
            ),
            memory_KD=memory_KD,
        )

    def feed(self, where: list[tuple[int, int, int]], drain: bool, *parcels: Any) -> Fed:
        """Take parcels, encode what is whole, and tell how the lanes stand.

        Args:
            where: lane, run and number of each parcel. One for a lane that meanwhile follows another run is left out,
                and so is one that does not follow the last: a call whose parcels were lost on the way never came, and
                what comes after it waits for the run to be started again.
            drain: encode what there is, even while other lanes have nothing to encode beside it.
            parcels: for each of `where`, the items of a demux parcel, then its segment's `Pictures` or None.
        """
        for place, (number, run, parcel) in enumerate(where):
            lane = self._lanes[number]
            if lane is not None and lane.run == run and lane.parcels == parcel and not lane.error:
                lane.parcels += 1
                self._take(lane, parcels[2 * place], parcels[2 * place + 1])
        self._encode(drain)
        return self._report()

    def drop(self, lane: int, run: int) -> None:
        """Take a lane from a run that is to be started again, with the rows that no flush has written."""
        held = self._lanes[lane]
        if held is not None and held.run == run:
            self._forget(held.video_id)
            self._lanes[lane] = None

    def flush(self) -> Written:
        """Write every row that is kept into storage, each video's last one with its memory."""
        rows: list[SnippetRow] = []
        for video_id, kept in self._rows.items():
            memory = self._memories[video_id].contiguous().numpy().tobytes()
            last = kept[-1]
            kept[-1] = SnippetRow(**{**vars(last), "memory": memory})
            rows += kept
        written = write_snippets(self._index_uri, self._metadata, rows, self._after)
        under_way = {lane.video_id for lane in self._lanes if lane is not None}
        self._after = {name: last for name, last in self._after.items() if name in under_way}
        self._after.update({name: span.last for name, span in written.spans.items() if name in under_way})
        self._rows, self._memories, self._row_bytes = {}, {}, 0
        return written

    def _take(self, lane: _Lane, items: list[Any], pictures: Pictures | None) -> None:
        # One video's trouble must not end the other lanes': it is reported, and the lane rests.
        try:
            for item in [*items, *([pictures] if pictures is not None else [])]:
                for made in lane.assembler.push(item):
                    if isinstance(made, Snippet):
                        lane.waiting.append(made)
                    else:
                        lane.damage.append(made)
                if isinstance(item, End):
                    lane.end_ns = item.end_ns
        except Exception as error:
            lane.error, lane.message = type(error).__name__, str(error)
            lane.waiting.clear()

    def _encode(self, drain: bool) -> None:
        while True:
            active = [lane for lane in self._lanes if lane is not None and lane.active]
            ready = [lane for lane in active if lane.waiting]
            if not ready or (not drain and len(ready) < len(active)):
                return
            self._step()

    def _step(self) -> None:
        video, audio = self._config.video, self._config.audio
        lanes = len(self._lanes)
        frames = torch.zeros((lanes, video.frames, video.height, video.width, 3), dtype=torch.uint8)
        frame_mask = torch.zeros((lanes, video.frames), dtype=torch.bool)
        mel = torch.zeros((lanes, audio.frames, audio.mels))
        mel_mask = torch.zeros((lanes, audio.frames), dtype=torch.bool)
        start_s = torch.zeros(lanes)
        memory = torch.stack([self._initial_KD if lane is None else lane.memory_KD for lane in self._lanes])
        stepped: list[tuple[int, _Lane, Snippet]] = []
        for number, lane in enumerate(self._lanes):
            if lane is None or not lane.waiting or lane.error:
                continue
            snippet = lane.waiting.popleft()
            frames[number] = torch.from_numpy(snippet.frames_FHWC)
            frame_mask[number] = torch.from_numpy(snippet.frame_mask_F)
            mel[number] = torch.from_numpy(snippet.log_mel_AM)
            mel_mask[number] = torch.from_numpy(snippet.mel_mask_A)
            start_s[number] = snippet.start_ns / 1e9
            stepped.append((number, lane, snippet))
        tokens, memory = self._encoder.step(frames, frame_mask, mel, mel_mask, start_s, memory)
        for number, lane, snippet in stepped:
            lane.memory_KD = memory[number].clone()
            pictures = int(snippet.frame_mask_F.sum())
            row = SnippetRow(
                video_id=lane.video_id,
                snippet=snippet.index,
                start_ns=snippet.start_ns,
                stop_ns=snippet.stop_ns,
                pictures=pictures,
                tokens=tokens[number].numpy().copy(),
                text=snippet.text,
            )
            self._rows.setdefault(lane.video_id, []).append(row)
            self._memories[lane.video_id] = lane.memory_KD
            self._row_bytes += row.tokens.nbytes
            lane.encoded += 1
            lane.frames += pictures
            lane.reached_ns = snippet.stop_ns

    def _report(self) -> Fed:
        states: list[LaneState] = []
        for number, lane in enumerate(self._lanes):
            if lane is None:
                continue
            states.append(
                LaneState(
                    run=lane.run,
                    waiting=len(lane.waiting),
                    encoded=lane.encoded,
                    frames=lane.frames,
                    reached_ns=lane.reached_ns,
                    damage=tuple(lane.damage),
                    end_ns=None if lane.active else lane.end_ns,
                    error=lane.error,
                    message=lane.message,
                )
            )
            lane.encoded = lane.frames = 0
            lane.damage = []
            if not lane.active:
                self._lanes[number] = None
        return Fed(lanes=tuple(states), row_bytes=self._row_bytes)

    def _forget(self, video_id: str) -> None:
        self._row_bytes -= sum(row.tokens.nbytes for row in self._rows.pop(video_id, []))
        self._memories.pop(video_id, None)
