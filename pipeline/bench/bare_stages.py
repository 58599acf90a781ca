"""The work that indexing cannot do without, each part alone in one process and one thread: what a job is held against.

Bare decoding is one pass over the file that decodes every picture, scales the sampled ones to the model's size, and
decodes the sound to 16 kHz. Bare encoding computes the log-mel frames of that sound, and runs the encoder on the
same snippets, which wait in memory. CPU seconds are of the loops only: no imports, no weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.audio.resampler import AudioResampler

from longtake.operators.model.checkpoint import LoadedModel
from longtake.operators.model.log_mel import log_mel
from longtake.operators.model.snippet_encoder import SnippetEncoder
from longtake.pipeline.media.decode import Scaler, placement_of
from longtake.pipeline.media.geometry import PictureFormat
from longtake.pipeline.media.model_input import NativeInput
from longtake.pipeline.media.plan import Plan, Sampling
from longtake.pipeline.media.probe import MediaInfo, open_media, probe
from longtake.pipeline.media.snippet import Snippet
from longtake.pipeline.media.snippets import make_plan, read_snippets

# Sound is turned into frames in parts of this length, so that memory stays flat.
MEL_PART_S = 30


@dataclass(frozen=True, kw_only=True)
class BareCost:
    """CPU seconds of each part alone, and how much it did. `frames` are the sampled pictures."""

    pictures_s: float
    sound_s: float
    log_mel_s: float
    encode_s: float
    decoded: int
    frames: int
    snippets: int

    @property
    def total_s(self) -> float:
        """All parts together."""
        return self.pictures_s + self.sound_s + self.log_mel_s + self.encode_s

    def __add__(self, other: BareCost) -> BareCost:
        return BareCost(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def measure_bare(path: Path, loaded: LoadedModel, sampling: Sampling) -> BareCost:
    """Decode and encode one video, part after part.

    Raises:
        MediaError: the file cannot be read.
    """
    torch.set_num_threads(1)
    info = probe(path)
    plan = make_plan(info, sampling, loaded.config.video.frames)
    began = time.process_time()
    decoded = _decode_pictures(info, plan, NativeInput(config=loaded.config).form)
    pictures_s = time.process_time() - began
    began = time.process_time()
    waves = list(_decode_sound(info, loaded.config.audio.sample_rate_hz)) if info.audio is not None else []
    sound_s = time.process_time() - began
    log_mel_s = _spectrograms(waves, loaded)
    encode_s, frames, snippets = _encode(info, loaded, sampling)
    return BareCost(
        pictures_s=pictures_s,
        sound_s=sound_s,
        log_mel_s=log_mel_s,
        encode_s=encode_s,
        decoded=decoded,
        frames=frames,
        snippets=snippets,
    )


def _decode_pictures(info: MediaInfo, plan: Plan, form: PictureFormat) -> int:
    """Every picture decoded, the sampled ones scaled and let go; how many were decoded."""
    scaler = Scaler(placement_of(info.video.picture, form))
    decoded = 0
    sample = 0
    held: Any | None = None
    for frame in _frames(info):
        decoded += 1
        time_ns = int((frame.pts - info.video.start_pts) * info.video.time_base * 1_000_000_000)
        # The picture before this one is shown until now. Several samples of one picture cost one scaling.
        if held is not None and plan.sample_ns(sample) < time_ns:
            scaler.scale(held)
            while plan.sample_ns(sample) < time_ns:
                sample += 1
        held = frame
    if held is not None:
        scaler.scale(held)
    return decoded


def _frames(info: MediaInfo) -> Iterator[Any]:
    with open_media(info.path) as container:
        stream = container.streams[info.video.index]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                yield from (frame for frame in packet.decode() if frame.pts is not None)
            except av.error.FFmpegError:
                continue


def _decode_sound(info: MediaInfo, rate_hz: int) -> Iterator[np.ndarray]:
    """The sound as float32 mono at the model's rate."""
    assert info.audio is not None
    resampler = AudioResampler(format="flt", layout="mono", rate=rate_hz)
    with open_media(info.path) as container:
        for packet in container.demux(container.streams[info.audio.index]):
            try:
                for frame in packet.decode():
                    for part in resampler.resample(frame):
                        yield part.to_ndarray()[0]
            except av.error.FFmpegError:
                continue


def _spectrograms(waves: list[np.ndarray], loaded: LoadedModel) -> float:
    """CPU seconds of the log-mel frames of a whole sound; 0 where a public encoder hears the wave itself."""
    if not waves or loaded.config.audio.pretrained is not None:
        return 0.0
    wave_S = torch.from_numpy(np.concatenate(waves))
    began = time.process_time()
    with torch.inference_mode():
        for part_S in wave_S.split(MEL_PART_S * loaded.config.audio.sample_rate_hz):
            log_mel(part_S, loaded.config.audio)
    return time.process_time() - began


def _encode(info: MediaInfo, loaded: LoadedModel, sampling: Sampling) -> tuple[float, int, int]:
    """CPU seconds of encoding the video's snippets, with how many pictures and snippets they are."""
    encoder = SnippetEncoder(loaded.model, lanes=1)
    memory = encoder.initial_memory()[None]
    cost_s, frames, snippets = 0.0, 0, 0
    for item in read_snippets(info, loaded.config, sampling):
        if not isinstance(item, Snippet):
            continue
        # Reading is another part's cost: only the encoder is on the clock.
        began = time.process_time()
        _, memory = encode_snippet(encoder, item, memory)
        if snippets:
            cost_s += time.process_time() - began
        frames += int(item.frame_mask_F.sum())
        snippets += 1
    # The first step also sets up kernels and buffers; it counts as an average one.
    return cost_s * (snippets / max(1, snippets - 1)), frames, snippets


def encode_snippet(
    encoder: SnippetEncoder, snippet: Snippet, memory_1KD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of an encoder of one lane: tokens [m, D] and the memory [1, K, D] after it."""
    tokens_1mD, memory_1KD = encoder.step(
        torch.from_numpy(snippet.frames_FHWC)[None],
        torch.from_numpy(snippet.frame_mask_F)[None],
        torch.from_numpy(snippet.sound_AM)[None],
        torch.from_numpy(snippet.mel_mask_A)[None],
        torch.tensor([snippet.start_ns / 1e9]),
        memory_1KD,
    )
    return tokens_1mD[0], memory_1KD
