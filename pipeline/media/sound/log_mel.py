"""The log-mel spectrogram of a continuous sound, cut to the windows of its video's snippets."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray

from longtake.operators.model.config import AudioConfig
from longtake.operators.model.log_mel import frame_centres_ns, log_mel, resample_frames
from longtake.pipeline.media.plan import SECOND_NS
from longtake.pipeline.media.segment import SoundChunk
from longtake.pipeline.media.sound.buffer import WaveBuffer

# Mel frames are computed in blocks that begin at multiples of this, so that a resumed job computes the same blocks.
BLOCK = 1000


class MelStream:
    """`SoundChunk`s in, the log-mel frames of any coming window out. Keeps only what later windows still need."""

    def __init__(self, config: AudioConfig, *, first_ns: int = 0) -> None:
        """`first_ns`: no window before this will be asked for."""
        self._config = config
        self._pad = -(-config.fft // 2 // config.hop) + 1
        self._sound = WaveBuffer()
        self._ended = False
        self._next_block = _first_frame(first_ns, config) // BLOCK
        # Blocks of mel frames: number of the block, frames [BLOCK, M], and which of them have sound [BLOCK].
        self._blocks: deque[tuple[int, torch.Tensor, torch.Tensor]] = deque()

    def push(self, chunk: SoundChunk) -> None:
        """Take the next chunk.

        Raises:
            ValueError: the chunk does not follow the one before.
        """
        self._sound.push(chunk)
        self._compute()

    def end(self) -> None:
        """No chunk follows: from here on there is silence."""
        self._ended = True

    def covers(self, stop_ns: int) -> bool:
        """Whether a window that stops here can be cut out now."""
        return self._ended or self._next_block * BLOCK >= _first_frame(stop_ns, self._config)

    def window(self, start_ns: int, stop_ns: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """One window's spectrogram: float32 [A, M], zero where there is no sound, and bool [A].

        Windows must be asked for in order; the sound before `start_ns` is forgotten.
        """
        first, stop = _first_frame(start_ns, self._config), _first_frame(stop_ns, self._config)
        while self._ended and self._next_block * BLOCK < min(stop, self._sound.stop // self._config.hop + 1):
            self._block()
        while self._blocks and (self._blocks[0][0] + 1) * BLOCK <= first:
            self._blocks.popleft()
        inside = [block for block in self._blocks if block[0] * BLOCK < stop]
        frames, mels = self._config.frames, self._config.mels
        if not any(bool(block[2].any()) for block in inside):
            return np.zeros((frames, mels), np.float32), np.zeros(frames, np.bool_)
        mel_NM = torch.cat([block[1] for block in inside])
        sound_N = torch.cat([block[2] for block in inside])
        centres_N = frame_centres_ns(inside[0][0] * BLOCK, len(mel_NM), self._config)
        mel_AM, covered_A = resample_frames(mel_NM, centres_N, start_ns, stop_ns, frames)
        mask_A = covered_A
        # Where there is sound all over the window, in cells wider than mel frames, covered cells are full of it.
        first_block, after = inside[0][0] * BLOCK, (inside[-1][0] + 1) * BLOCK
        wide = (stop_ns - start_ns) * self._config.sample_rate_hz >= 2 * frames * self._config.hop * SECOND_NS
        if not (wide and first_block <= first and after >= stop and bool(sound_N.all())):
            share_A1, _ = resample_frames(sound_N.float()[:, None], centres_N, start_ns, stop_ns, frames)
            mask_A = covered_A & (share_A1[:, 0] >= 0.5)
        mel_AM = torch.where(mask_A[:, None], mel_AM, torch.zeros(()))
        return mel_AM.numpy(), mask_A.numpy()

    def _compute(self) -> None:
        hop = self._config.hop
        while ((self._next_block + 1) * BLOCK + self._pad) * hop <= self._sound.stop:
            self._block()
        # Forget the sound that no later block needs.
        self._sound.forget(max(0, self._next_block * BLOCK - self._pad) * hop)

    def _block(self) -> None:
        hop = self._config.hop
        first = self._next_block * BLOCK
        start, stop = (first - self._pad) * hop, (first + BLOCK + self._pad) * hop
        wave_S, sound_S = self._sound.cut(start, stop)
        sound_N = torch.from_numpy(sound_S[self._pad * hop : -self._pad * hop : hop].copy())
        if bool(sound_N.any()):
            mel_NM = log_mel(torch.from_numpy(wave_S), self._config)[self._pad : self._pad + BLOCK].contiguous()
        else:
            mel_NM = torch.zeros(BLOCK, self._config.mels)
        self._blocks.append((self._next_block, mel_NM, sound_N))
        self._next_block += 1


def _first_frame(time_ns: int, config: AudioConfig) -> int:
    """The first mel frame whose centre is at or after a time (its centre rounded down to a nanosecond)."""
    return -(-time_ns * config.sample_rate_hz // (config.hop * SECOND_NS))
