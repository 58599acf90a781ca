"""Log-mel spectrograms of a continuous 16 kHz stream, and their cut into one snippet's frames.

Shapes: S samples, N mel frames, M mels, A the config's frames a snippet.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longtake.operators.model.config import AudioConfig

if TYPE_CHECKING:
    from torchaudio.transforms import MelSpectrogram

# Power below this counts as silence: -100 dB, under the quantisation noise of 16-bit sound.
FLOOR = 1e-10


@functools.lru_cache(maxsize=8)
def _transform(sample_rate_hz: int, fft: int, hop: int, mels: int) -> MelSpectrogram:
    # Here, for the network itself is used where there is no torchaudio.
    from torchaudio.transforms import MelSpectrogram

    return MelSpectrogram(
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
        centres_ns_N: int64, their centres, evenly spaced (to a nanosecond).
        start_ns, stop_ns: the window.
        frames: A.
    Returns:
        float32 [A, M], zero where there is no sound, and bool [A], True where there is.
    """
    low, high = torch.searchsorted(centres_ns_N, torch.tensor([start_ns, stop_ns])).tolist()
    if low == high:
        return mel_NM.new_zeros(frames, mel_NM.shape[-1]), torch.zeros(frames, dtype=torch.bool)
    first_ns = int(centres_ns_N[low])
    hop_ns = int(centres_ns_N[low + 1]) - first_ns if high - low > 1 else stop_ns - start_ns
    weights_AN, mask_A = _area_weights(first_ns - start_ns, hop_ns, high - low, stop_ns - start_ns, frames)
    return weights_AN.to(mel_NM) @ mel_NM[low:high], mask_A.clone()


@functools.lru_cache(maxsize=64)
def _area_weights(first_ns: int, hop_ns: int, count: int, length_ns: int, frames: int) -> tuple[Tensor, Tensor]:
    """Each mel frame's share of each cell of a window, float32 [A, N], and which cells have any, bool [A].

    The windows of a video mostly lie alike on its mel frames, so few of these are made. `first_ns` is the first mel
    frame's centre after the window's start.
    """
    centres_N = first_ns + hop_ns * torch.arange(count, dtype=torch.float64)
    edges = torch.linspace(0.0, float(length_ns), frames + 1, dtype=torch.float64)
    low_A1, high_A1 = edges[:-1, None], edges[1:, None]
    # Each mel frame stands for the hop around its centre: its weight in a cell is their overlap.
    overlap_AN = torch.minimum(high_A1, centres_N + hop_ns / 2) - torch.maximum(low_A1, centres_N - hop_ns / 2)
    overlap_AN = overlap_AN.clamp_min(0)
    total_A = overlap_AN.sum(1)
    return (overlap_AN / total_A.clamp_min(1.0)[:, None]).float(), total_A > 0
