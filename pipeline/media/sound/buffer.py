"""A few seconds of the continuous sound, kept until nobody needs them."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.media.segment import SoundChunk


class WaveBuffer:
    """`SoundChunk`s in, any stretch of samples out, as long as it was not forgotten."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[NDArray[np.float32] | None, int]] = deque()
        self._origin = 0
        self.stop = 0

    def push(self, chunk: SoundChunk) -> None:
        """Take the next chunk; `stop` is the sample after it.

        Raises:
            ValueError: the chunk does not follow the one before.
        """
        if chunk.first != self.stop:
            raise ValueError(f"sound of sample {chunk.first} follows sample {self.stop}")
        self._pieces.append((chunk.wave_S, chunk.samples))
        self.stop += chunk.samples

    def forget(self, before: int) -> None:
        """Let go of what lies before a sample."""
        while self._pieces and self._origin + self._pieces[0][1] <= before:
            self._origin += self._pieces.popleft()[1]

    def cut(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Samples [start, stop), float32, zeros where there are none, and which of them are sound."""
        wave, sound = np.zeros(stop - start, np.float32), np.zeros(stop - start, np.bool_)
        at = self._origin
        for piece, samples in self._pieces:
            low, high = max(at, start), min(at + samples, stop)
            if low < high and piece is not None:
                wave[low - start : high - start] = piece[low - at : high - at]
                sound[low - start : high - start] = True
            at += samples
        return wave, sound
