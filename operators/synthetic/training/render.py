"""Made videos as tensors: pictures with the wear of real files, and log-mel sound.

Shapes: T snippets, F pictures, H rows, W columns, A mel frames, M mels (for a public sound encoder A are samples and M
is 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from longtake.operators.model.config import AudioConfig, ModelConfig
from longtake.operators.model.log_mel import frame_centres_ns, log_mel, resample_frames
from longtake.operators.synthetic.questions import Timeline
from longtake.operators.synthetic.script import BEAT_S
from longtake.operators.synthetic.worlds import BUILT_IN, World
from longtake.operators.training.batch_tensors import Clips

NS = 1_000_000_000


def render_clips(
    scripts: Sequence[Timeline], config: ModelConfig, rng: np.random.Generator | None, world: World[Any] = BUILT_IN
) -> Clips:
    """Pictures and log-mel of whole scripts, one snippet a beat; `rng` adds the wear of real files, None adds none."""
    frames, mels, masks = [], [], []
    for script in scripts:
        frames.append(_pictures(script, config, rng, world))
        mel_TAM, mask_TA = _mel(script, config, rng, world)
        mels.append(mel_TAM)
        masks.append(mask_TA)
    frames_SFHWC = torch.cat(frames)
    return Clips(
        frames_SFHWC=frames_SFHWC,
        frame_mask_SF=torch.ones(frames_SFHWC.shape[:2], dtype=torch.bool),
        mel_SAM=torch.cat(mels),
        mel_mask_SA=torch.cat(masks),
    )


def _pictures(script: Timeline, config: ModelConfig, rng: np.random.Generator | None, world: World[Any]) -> Tensor:
    """The pictures of a script's beats, uint8 [T, F, H, W, 3]."""
    video = config.video
    step = BEAT_S / video.frames
    times = [(n + 0.5) * step for n in range(script.beats * video.frames)]
    height, width = video.height, video.width
    if rng is not None and rng.random() < 0.3:
        # Files of another aspect are letterboxed.
        if rng.random() < 0.5:
            height = int(height * rng.uniform(0.7, 1.0))
        else:
            width = int(width * rng.uniform(0.7, 1.0))
    pictures_NHWC = world.pictures(script, times, height, width)
    if rng is not None:
        pictures_NHWC = _wear(pictures_NHWC, rng)
    top, left = (video.height - height) // 2, (video.width - width) // 2
    padded = F.pad(pictures_NHWC, (0, 0, left, video.width - width - left, top, video.height - height - top))
    return rearrange(padded, "(t f) h w c -> t f h w c", f=video.frames)


def _wear(pictures_NHWC: Tensor, rng: np.random.Generator) -> Tensor:
    """What cameras, codecs and scalers do: blur, softer colour, noise, another brightness and contrast."""
    x = pictures_NHWC.float()
    if rng.random() < 0.4:
        x = torch.lerp(x, _blur(x), float(rng.uniform(0.2, 1.0)))
    if rng.random() < 0.3:
        grey = x.mean(-1, keepdim=True)
        x = grey + _blur(x - grey) * float(rng.uniform(0.8, 1.1))
    if rng.random() < 0.5:
        x = x * float(rng.uniform(0.8, 1.2)) + float(rng.uniform(-15, 15))
    if rng.random() < 0.3:
        # A few fields of noise taken in turn cost a fraction of fresh noise for each picture.
        fields = torch.from_numpy(rng.standard_normal((8, *x.shape[1:]), dtype=np.float32))
        x = x + fields[torch.arange(len(x)) % 8] * float(rng.uniform(1, 8))
    return x.clamp_(0, 255).round_().to(torch.uint8)


def _blur(x_NHWC: Tensor) -> Tensor:
    """A 1-2-1 blur along rows and columns; the outermost pixels stay."""
    for axis in (1, 2):
        size = x_NHWC.shape[axis] - 2
        inner = (x_NHWC.narrow(axis, 0, size) + x_NHWC.narrow(axis, 2, size)).add_(
            x_NHWC.narrow(axis, 1, size), alpha=2
        )
        blurred = x_NHWC.clone()
        blurred.narrow(axis, 1, size).copy_(inner.mul_(0.25))
        x_NHWC = blurred
    return x_NHWC


def _mel(
    script: Timeline, config: ModelConfig, rng: np.random.Generator | None, world: World[Any]
) -> tuple[Tensor, Tensor]:
    """What the model hears of a script's beats, log-mel or waves [T, A, M], and its mask [T, A]."""
    audio = config.audio
    wave = torch.from_numpy(world.sound(script))
    if rng is not None:
        if rng.random() < 0.05:
            # A silent file.
            shape = (script.beats, audio.frames)
            return torch.zeros(*shape, audio.mels), torch.zeros(shape, dtype=torch.bool)
        wave = wave * float(10 ** rng.uniform(-0.6, 0.2))
    if audio.pretrained is not None:
        return _waves(wave, script.beats, audio)
    mel_NM = log_mel(wave, audio)
    centres_N = frame_centres_ns(0, len(mel_NM), audio)
    per_beat = round(BEAT_S * audio.sample_rate_hz / audio.hop)
    beats = []
    for beat in range(script.beats):
        part = slice(beat * per_beat, (beat + 1) * per_beat)
        start = round(beat * BEAT_S * NS)
        beats.append(resample_frames(mel_NM[part], centres_N[part], start, start + round(BEAT_S * NS), audio.frames))
    return torch.stack([mel for mel, _ in beats]), torch.stack([mask for _, mask in beats])


def _waves(wave_S: Tensor, beats: int, audio: AudioConfig) -> tuple[Tensor, Tensor]:
    """The wave of each beat, [T, A, 1], behind its end zeros that the mask leaves out."""
    wave_TS = wave_S.view(beats, round(BEAT_S * audio.sample_rate_hz))
    samples = min(wave_TS.shape[1], audio.frames)
    wave_TAM = torch.zeros(beats, audio.frames, 1)
    wave_TAM[:, :samples, 0] = wave_TS[:, :samples]
    return wave_TAM, (torch.arange(audio.frames) < samples).repeat(beats, 1)
