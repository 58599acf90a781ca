"""The encode stage of LongTake's own models: decoded parcels in, rows of tokens in the index's storage out."""

from __future__ import annotations

import numpy as np
import torch

from longtake.operators.model.checkpoint import load_model
from longtake.operators.model.snippet_encoder import SnippetEncoder
from longtake.pipeline.indexing.messages import LaneWork
from longtake.pipeline.indexing.stages.lanes import Lane, LaneStage
from longtake.pipeline.media.model_input import NativeInput
from longtake.pipeline.media.snippet import Snippet
from longtake.pipeline.table.metadata import IndexMetadata


class EncodeStage(LaneStage):
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
        self._config = loaded.config
        super().__init__(lanes, NativeInput(config=loaded.config), index_uri, metadata)
        self._initial_KD = self._encoder.initial_memory()
        # The combiner's memory of each lane, after its last encoded snippet.
        self._memory_KD = [self._initial_KD] * lanes

    def begin(self, lane: int, work: LaneWork) -> None:
        """Give a lane to a video; `work.memory` is the combiner's memory.

        Raises:
            ValueError: the memory is not of this model's shape.
        """
        memory_KD = self._initial_KD.clone()
        if work.memory is not None:
            carried = np.frombuffer(work.memory, np.float32).copy()
            memory_KD = torch.from_numpy(carried).reshape(self._initial_KD.shape)
        super().begin(lane, work)
        self._memory_KD[lane] = memory_KD

    def step(self, ready: list[tuple[int, Lane, Snippet]]) -> None:
        """Encode one snippet of each of these lanes, in one batch with the idle ones."""
        video, audio = self._config.video, self._config.audio
        lanes = len(self.lanes)
        frames = torch.zeros((lanes, video.frames, video.height, video.width, 3), dtype=torch.uint8)
        frame_mask = torch.zeros((lanes, video.frames), dtype=torch.bool)
        mel = torch.zeros((lanes, audio.frames, audio.mels))
        mel_mask = torch.zeros((lanes, audio.frames), dtype=torch.bool)
        start_s = torch.zeros(lanes)
        carried = [self._initial_KD if lane is None else self._memory_KD[n] for n, lane in enumerate(self.lanes)]
        for number, _, snippet in ready:
            frames[number] = torch.from_numpy(snippet.frames_FHWC)
            frame_mask[number] = torch.from_numpy(snippet.frame_mask_F)
            mel[number] = torch.from_numpy(snippet.sound_AM)
            mel_mask[number] = torch.from_numpy(snippet.mel_mask_A)
            start_s[number] = snippet.start_ns / 1e9
        tokens, memory = self._encoder.step(frames, frame_mask, mel, mel_mask, start_s, torch.stack(carried))
        for number, lane, snippet in ready:
            self._memory_KD[number] = memory[number].clone()
            self.keep(lane, snippet, tokens[number].numpy().copy(), self._memory_KD[number].numpy().tobytes())
