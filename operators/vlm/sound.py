"""Log-mel sound as Whisper's front end makes it, but from a stream: what Qwen2.5-Omni's audio tower reads.

The stock extractor sees a whole clip: it pads it with silence to 300 s, cuts what is longer, and raises everything to
the clip's loudest mel value minus 8. Here the spectrogram runs on through a stream of any length, and the loudest
value is a number that the caller keeps (`peak`), so that a snippet's features are those of the whole.

Shapes: S samples, N mel frames, M mels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from longtake.operators.errors import CheckpointError
from longtake.operators.vlm.pictures import read_preprocessor

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


@dataclass(kw_only=True)
class MelStream:
    """Mel frames of a stream that arrives in pieces: the same frames as of the whole, whatever the pieces.

    Frame k is centred at sample k * hop. Before the start the wave is mirrored, after the end there is silence, as in
    the stock extractor (which pads every clip with zeros).
    """

    front: MelFront
    peak: float = -10.0
    _kept: Tensor | None = field(default=None, init=False)
    _head: list[Tensor] = field(default_factory=list, init=False)
    _filters: Tensor | None = field(default=None, init=False)
    _samples: int = field(default=0, init=False)
    _frames: int = field(default=0, init=False)

    def push(self, wave_S: Tensor, *, last: bool = False) -> Tensor:
        """The frames that are complete with this piece, float32 [N, M], log10 of power, not yet raised to the peak.

        `last` ends the stream: ceil(S / hop) frames have come then. `peak` follows the loudest value so far.
        """
        half = self.front.fft // 2
        self._samples += len(wave_S)
        if self._filters is None:
            self._filters = self.front.filters()
        if self._kept is None:
            # Mirroring needs a few samples: wait until they are here.
            self._head.append(wave_S.float())
            start_S = torch.cat(self._head)
            if len(start_S) <= half and not last:
                return start_S.new_zeros(0, self.front.mels)
            if len(start_S) <= half:
                start_S = pad(start_S, (0, half + 1 - len(start_S)))
            self._kept, self._head = torch.cat([start_S[1 : half + 1].flip(0), start_S]), []
        else:
            self._kept = torch.cat([self._kept, wave_S.float()])
        if last:
            self._kept = pad(self._kept, (0, self.front.fft))
        count = max(0, (len(self._kept) - self.front.fft) // self.front.hop + 1)
        if count == 0:
            return self._kept.new_zeros(0, self.front.mels)
        mel_NM = self.front.power(self._kept[: (count - 1) * self.front.hop + self.front.fft], self._filters)
        self._kept = self._kept[count * self.front.hop :]
        # The last frames lie past the end: they are no one's, but the stock extractor's peak counts them.
        self.peak = max(self.peak, float(mel_NM.max()))
        wanted = -(-self._samples // self.front.hop) - self._frames if last else count
        self._frames += min(count, wanted)
        return mel_NM[:wanted]


def whole_mel(wave_S: Tensor, front: MelFront) -> tuple[Tensor, float]:
    """All frames of a wave, float32 [ceil(S / hop), M], and its peak."""
    stream = MelStream(front=front)
    mel_NM = stream.push(wave_S, last=True)
    return mel_NM, stream.peak


def raise_to_peak(mel_NM: Tensor, peak: float) -> Tensor:
    """The tower's input: nothing lower than `peak` - 8, then about -1 ... 1."""
    return (mel_NM.clamp_min(peak - RANGE) + 4.0) / 4.0
