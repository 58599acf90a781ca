"""What public sound encoders hear: three kinds of spectrogram, each batched, on the sound's own device.

A front takes waves that are silent (zero) behind each row's own length. Numbers are those of the checkpoint's
preprocessor file; the operations and their precision are those of transformers' feature extractors.

Shapes: S snippets, P samples, A mel frames, M mels, K copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from longtake.errors import CheckpointError
from longtake.operators.hub.mel_front import FLOOR, RANGE, MelFront
from longtake.operators.hub.preprocessor import read_preprocessor


@lru_cache(maxsize=16)
def filters_on(front: WhisperFront | KaldiFront | ClapFront, device: torch.device) -> Tensor:
    """A front's filter bank [frequencies, M] on a device, made once."""
    return front.filters().to(device)


def read_extractor(folder: Path, name: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """What a directory says of its feature extractor, over the defaults of that class.

    Raises:
        CheckpointError: no file, or another extractor.
    """
    given = read_preprocessor(folder)
    given = given | dict(given.get("feature_extractor") or {})
    named = given.get("feature_extractor_type", name)
    if named != name:
        raise CheckpointError(f"{folder}: sound is prepared by {named}; supported is {name}")
    return defaults | given


@dataclass(frozen=True, kw_only=True)
class WhisperFront:
    """Log-mel of a wave that silence makes `samples` long, nothing lower than 8 below each row's loudest."""

    front: MelFront
    samples: int

    @staticmethod
    def read(folder: Path, mels: int, frames: int) -> WhisperFront:
        """`mels` and `frames` are what the model reads.

        Raises:
            CheckpointError: no file, another extractor, or one that contradicts the model.
        """
        given = read_extractor(folder, "WhisperFeatureExtractor", {"chunk_length": 30})
        front = MelFront.read(folder, mels)
        samples = int(given["chunk_length"]) * front.rate_hz
        if samples // front.hop != frames:
            raise CheckpointError(f"{folder}: sound is prepared in {samples // front.hop} frames; wanted {frames}")
        return WhisperFront(front=front, samples=samples)

    @property
    def rate_hz(self) -> int:
        """Samples a second that are wanted."""
        return self.front.rate_hz

    def filters(self) -> Tensor:
        """The mel filter bank, float32."""
        return self.front.filters()

    def __call__(self, wave_SP: Tensor, length_S: Tensor) -> Tensor:
        """float32 [S, M, A]."""
        front = self.front
        wave_SP = pad(wave_SP, (0, self.samples - wave_SP.shape[1]))
        window = torch.hann_window(front.fft, device=wave_SP.device)
        spectrum = torch.stft(wave_SP, front.fft, front.hop, window=window, return_complex=True)
        # The last frame lies behind the end.
        power = (spectrum[..., :-1].abs() ** 2).contiguous()
        mel_SMA = (filters_on(self, wave_SP.device).T @ power).clamp_min(FLOOR).log10()
        peak_S11 = mel_SMA.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(mel_SMA, peak_S11 - RANGE) + 4.0) / 4.0


@dataclass(frozen=True, kw_only=True)
class KaldiFront:
    """Kaldi's filter bank (AST), frames of 25 ms every 10 ms that lie wholly in the sound, normalised."""

    rate_hz: int
    mels: int
    frames: int
    mean: float
    std: float

    @staticmethod
    def read(folder: Path, mels: int, frames: int) -> KaldiFront:
        """`mels` and `frames` are what the model reads.

        Raises:
            CheckpointError: no file, another extractor, or one that contradicts the model.
        """
        defaults = {
            "sampling_rate": 16_000, "num_mel_bins": 128, "max_length": 1024, "do_normalize": True,
            "mean": -4.2677393, "std": 4.5689974,
        }  # fmt: skip
        given = read_extractor(folder, "ASTFeatureExtractor", defaults)
        for name, wanted in (("num_mel_bins", mels), ("max_length", frames)):
            if int(given[name]) != wanted:
                raise CheckpointError(f"{folder}: the preprocessor's {name} is {given[name]}, the model's {wanted}")
        normalised = given["do_normalize"]
        return KaldiFront(
            rate_hz=int(given["sampling_rate"]),
            mels=mels,
            frames=frames,
            mean=float(given["mean"]) if normalised else 0.0,
            std=float(given["std"]) if normalised else 0.5,
        )

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return self.rate_hz // 100

    @property
    def window(self) -> int:
        """Samples of a frame."""
        return self.rate_hz // 40

    @property
    def width(self) -> int:
        """Samples of a frame with the zeros behind it, a power of two."""
        return 1 << (self.window - 1).bit_length()

    def filters(self) -> Tensor:
        """The mel filter bank from 20 Hz on, float32; of the highest frequency there is none."""
        from torchaudio.compliance.kaldi import get_mel_banks

        bank_MW: Tensor = get_mel_banks(self.mels, self.width, self.rate_hz, 20.0, 0.0, 100.0, -500.0, 1.0)[0]
        return pad(bank_MW, (0, 1)).T

    @property
    def samples(self) -> int:
        """The longest wave of which no frame is lost."""
        return (self.frames - 1) * self.hop + self.window

    def count(self, length_S: Tensor) -> Tensor:
        """Frames of sounds that are so many samples long."""
        return ((length_S - self.window) // self.hop + 1).clamp(0, self.frames)

    def __call__(self, wave_SP: Tensor, length_S: Tensor) -> Tensor:
        """float32 [S, A, M]."""
        wave_SP = pad(wave_SP, (0, max(0, self.samples - wave_SP.shape[1])))
        frames_SAW = wave_SP.unfold(1, self.window, self.hop)[:, : self.frames]
        frames_SAW = frames_SAW - frames_SAW.mean(dim=-1, keepdim=True)
        frames_SAW = frames_SAW - 0.97 * torch.cat([frames_SAW[..., :1], frames_SAW[..., :-1]], dim=-1)
        frames_SAW = frames_SAW * torch.hann_window(self.window, periodic=False, device=wave_SP.device)
        power = torch.fft.rfft(pad(frames_SAW, (0, self.width - self.window))).abs().pow(2.0)
        mel_SAM = (power @ filters_on(self, wave_SP.device)).clamp_min(torch.finfo(torch.float32).eps).log()
        heard_SA = torch.arange(self.frames, device=wave_SP.device) < self.count(length_S)[:, None]
        # Behind the end there are zeros, not silence, and they are normalised as the rest.
        return (torch.where(heard_SA[..., None], mel_SAM, 0.0) - self.mean) / (self.std * 2)


@dataclass(frozen=True, kw_only=True)
class ClapFront:
    """Decibels of mel power of a wave that is repeated until it is `samples` long; `copies` of it for fusion models."""

    rate_hz: int
    samples: int
    fft: int
    hop: int
    mels: int
    low_hz: float
    high_hz: float
    copies: int
    padding: str

    @staticmethod
    def read(folder: Path, mels: int) -> ClapFront:
        """`mels` is what the model reads.

        Raises:
            CheckpointError: no file, another extractor, or one that contradicts the model.
        """
        defaults = {
            "sampling_rate": 48_000, "max_length_s": 10, "fft_window_size": 1024, "hop_length": 480,
            "feature_size": 64, "frequency_min": 0, "frequency_max": 14_000, "truncation": "fusion",
            "padding": "repeatpad",
        }  # fmt: skip
        given = read_extractor(folder, "ClapFeatureExtractor", defaults)
        if int(given["feature_size"]) != mels:
            raise CheckpointError(
                f"{folder}: the preprocessor's feature_size is {given['feature_size']}, wanted {mels}"
            )
        if given["padding"] not in ("repeatpad", "repeat", "pad"):
            raise CheckpointError(f"{folder}: the preprocessor's padding {given['padding']} is not supported")
        return ClapFront(
            rate_hz=int(given["sampling_rate"]),
            samples=int(given["max_length_s"] * given["sampling_rate"]),
            fft=int(given["fft_window_size"]),
            hop=int(given["hop_length"]),
            mels=mels,
            low_hz=float(given["frequency_min"]),
            high_hz=float(given["frequency_max"]),
            copies=4 if given["truncation"] == "fusion" else 1,
            padding=str(given["padding"]),
        )

    def filters(self) -> Tensor:
        """The mel filter bank, float64 [fft // 2 + 1, M]: that of torchaudio for fusion models, else librosa's."""
        from transformers.audio_utils import mel_filter_bank

        how = {"norm": None, "mel_scale": "htk"} if self.copies > 1 else {"norm": "slaney", "mel_scale": "slaney"}
        bank = mel_filter_bank(
            num_frequency_bins=self.fft // 2 + 1, num_mel_filters=self.mels, min_frequency=self.low_hz,
            max_frequency=self.high_hz, sampling_rate=self.rate_hz, **how,
        )  # fmt: skip
        return torch.from_numpy(bank)

    def repeated(self, wave_SP: Tensor, length_S: Tensor) -> Tensor:
        """Each row's sound as often as the padding says, then silence; [S, samples]."""
        place_P = torch.arange(self.samples, device=wave_SP.device)
        length_S1 = length_S[:, None].clamp_min(1)
        times_S1 = self.samples // length_S1
        if self.padding == "pad":
            times_S1 = torch.ones_like(times_S1)
        elif self.padding == "repeat":
            times_S1 = times_S1 + 1
        made_SP = wave_SP.gather(1, place_P % length_S1)
        return torch.where(place_P < length_S1 * times_S1, made_SP, 0.0)

    def __call__(self, wave_SP: Tensor, length_S: Tensor) -> Tensor:
        """float32 [S, K, A, M]."""
        # The stock extractor computes in double precision, but keeps the spectrum in single.
        wave_SP = self.repeated(wave_SP, length_S).double()
        half = self.fft // 2
        frames_SAW = pad(wave_SP[:, None], (half, half), mode="reflect")[:, 0].unfold(1, self.fft, self.hop)
        window = torch.hann_window(self.fft, dtype=torch.float64, device=wave_SP.device)
        power = torch.fft.rfft(frames_SAW * window).to(torch.complex64).to(torch.complex128).abs() ** 2
        decibels: Tensor = 10.0 * (power @ filters_on(self, wave_SP.device)).clamp_min(FLOOR).log10()
        return decibels.float()[:, None].expand(-1, self.copies, -1, -1)
