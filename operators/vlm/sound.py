"""Log-mel sound as Whisper's front end makes it, but from a stream: what Qwen2.5-Omni's audio tower reads.

The stock extractor sees a whole clip: it pads it with silence to 300 s, cuts what is longer, and raises everything to
the clip's loudest mel value minus 8. Here the spectrogram runs on through a stream of any length, and the loudest
value is a number that the caller keeps (`peak`), so that a snippet's features are those of the whole.

Shapes: S samples, N mel frames, M mels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from longtake.operators.hub.mel_front import RANGE, MelFront


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
