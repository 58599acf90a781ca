"""The numbers of Whisper's log-mel front end, from a model directory, and its spectrogram.

Shapes: S samples, N mel frames, M mels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longtake.errors import CheckpointError
from longtake.operators.hub.preprocessor import read_preprocessor

# Power below this counts as silence, as in Whisper.
FLOOR = 1e-10


# What lies this far (in log10 of power) below the loudest is raised to it.
RANGE = 8.0


@dataclass(frozen=True, kw_only=True)
class MelFront:
    """The numbers of the front end, from the model directory."""

    mels: int
    rate_hz: int = 16_000
    fft: int = 400
    hop: int = 160

    @staticmethod
    def read(path: Path, mels: int) -> MelFront:
        """From a directory's preprocessor files; `mels` is the model's own number.

        Raises:
            CheckpointError: no file, or it disagrees with the model.
        """
        given = read_preprocessor(path)
        given = given | dict(given.get("feature_extractor") or {})
        if int(given.get("feature_size", mels)) != mels:
            raise CheckpointError(f"{path}: the preprocessor's feature_size is {given['feature_size']}, wanted {mels}")
        sizes: dict[str, Any] = {"rate_hz": "sampling_rate", "fft": "n_fft", "hop": "hop_length"}
        return MelFront(mels=mels, **{ours: int(given[theirs]) for ours, theirs in sizes.items() if theirs in given})

    @property
    def frames_hz(self) -> float:
        """Mel frames a second."""
        return self.rate_hz / self.hop

    def filters(self) -> Tensor:
        """The mel filter bank, float32 [fft // 2 + 1, M]."""
        from transformers.audio_utils import mel_filter_bank

        bank = mel_filter_bank(
            num_frequency_bins=1 + self.fft // 2, num_mel_filters=self.mels, min_frequency=0.0,
            max_frequency=8000.0, sampling_rate=self.rate_hz, norm="slaney", mel_scale="slaney",
        )  # fmt: skip
        return torch.from_numpy(bank).float()

    def power(self, wave: Tensor, filters: Tensor) -> Tensor:
        """log10 of mel power of frames that start at sample 0, hop, ... of an already padded wave; [N, M]."""
        window = torch.hann_window(self.fft, device=wave.device)
        spectrum = torch.stft(wave, self.fft, self.hop, window=window, center=False, return_complex=True)
        mel_MN = filters.T.to(wave.device) @ (spectrum.abs() ** 2).contiguous()
        return mel_MN.clamp_min(FLOOR).log10().T
