"""Log-mel spectrograms of a continuous 16 kHz stream, and their cut into one snippet's frames.

Shapes: S samples, N mel frames, M mels, A the config's frames a snippet.
"""

from __future__ import annotations

import functools

import torch
import torchaudio
from torch import Tensor

from longtake.operators.config import AudioConfig

# Power below this counts as silence: -100 dB, under the quantisation noise of 16-bit sound.
FLOOR = 1e-10


@functools.lru_cache(maxsize=8)
def _transform(sample_rate_hz: int, fft: int, hop: int, mels: int) -> torchaudio.transforms.MelSpectrogram:
    return torchaudio.transforms.MelSpectrogram(
        sample_rate=sample_rate_hz,
        n_fft=fft,
        hop_length=hop,
        n_mels=mels,
        power=2.0,
        center=True,
        pad_mode="constant",
        mel_scale="slaney",
        norm="slaney",
    )


def log_mel(wave_S: Tensor, config: AudioConfig) -> Tensor:
    """The log-mel spectrogram of a waveform; frame k is centred at sample k * hop (zeros beyond the ends).

    Args:
        wave_S: float32, mono, `config.sample_rate_hz`; [..., S].
    Returns:
        float32 [..., S // hop + 1, M], about zero mean and unit spread for ordinary sound: silence is -2.
    """
    transform = _transform(config.sample_rate_hz, config.fft, config.hop, config.mels).to(wave_S.device)
    power = transform(wave_S.float()).transpose(-1, -2)
    # log10 spans -10 (floor) to about 0: bring it to -2 ... 2.
    scaled: Tensor = (power.clamp_min(FLOOR).log10() + 5.0) / 2.5
    return scaled


def frame_centres_ns(first: int, count: int, config: AudioConfig) -> Tensor:
    """Centre times, in integer nanoseconds, of mel frames `first` ... `first + count - 1`; int64 [count]."""
    k = torch.arange(first, first + count, dtype=torch.int64)
    return k * config.hop * 1_000_000_000 // config.sample_rate_hz


def resample_frames(
    mel_NM: Tensor, centres_ns_N: Tensor, start_ns: int, stop_ns: int, frames: int
) -> tuple[Tensor, Tensor]:
    """Area-resample the mel frames whose centre lies in [start_ns, stop_ns) to a fixed number of frames.

    Args:
        mel_NM: float32, consecutive mel frames that cover the window as far as there is sound.
        centres_ns_N: int64, their centres, evenly spaced.
        start_ns, stop_ns: the window.
        frames: A.
    Returns:
        float32 [A, M], zero where there is no sound, and bool [A], True where there is.
    """
    inside_N = (centres_ns_N >= start_ns) & (centres_ns_N < stop_ns)
    mel_NM, centres_N = mel_NM[inside_N], centres_ns_N[inside_N].double()
    out_AM = mel_NM.new_zeros(frames, mel_NM.shape[-1])
    mask_A = torch.zeros(frames, dtype=torch.bool, device=mel_NM.device)
    if len(mel_NM) == 0:
        return out_AM, mask_A
    half = (centres_N[1] - centres_N[0]) / 2 if len(centres_N) > 1 else torch.tensor((stop_ns - start_ns) / 2.0)
    edges = torch.linspace(float(start_ns), float(stop_ns), frames + 1, dtype=torch.float64)
    low_A, high_A = edges[:-1, None], edges[1:, None]
    # Each mel frame stands for the hop around its centre: its weight in a cell is their overlap.
    overlap_AN = (torch.minimum(high_A, centres_N + half) - torch.maximum(low_A, centres_N - half)).clamp_min(0)
    total_A = overlap_AN.sum(1)
    mask_A = total_A > 0
    weights_AN = overlap_AN / total_A.clamp_min(1.0)[:, None]
    out_AM = weights_AN.to(mel_NM.dtype) @ mel_NM
    return out_AM, mask_A
