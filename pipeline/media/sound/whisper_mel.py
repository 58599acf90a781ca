"""Mel frames as Whisper's front end makes them, of a continuous sound and cut to the windows of its video's snippets.

They are log10 of power, not yet raised to the loudest value less 8: that value is the whole video's (`loudest_mel`), so
that a snippet hears what it would hear within the whole. `operators/vlm/sound` says more.

Shapes: S samples, N mel frames, M mels.
"""

from __future__ import annotations

import math
from collections import deque

import av
import numpy as np
import torch
from numpy.typing import NDArray

from longtake.errors import MediaError
from longtake.operators.hub.mel_front import FLOOR, MelFront
from longtake.pipeline.media.plan import SECOND_NS
from longtake.pipeline.media.probe import MediaInfo, open_media
from longtake.pipeline.media.segment import SoundChunk
from longtake.pipeline.media.sound.buffer import WaveBuffer
from longtake.pipeline.media.sound.reader import SoundReader

# Frames are computed in blocks that begin at multiples of this, so that a resumed job computes the same blocks.
BLOCK = 200


class FrontStream:
    """`SoundChunk`s in, the mel frames of any coming window out: frame k is centred at sample k * hop.

    Keeps only what later windows still need. Before the start the sound is mirrored, after the end there is silence.
    """

    def __init__(self, front: MelFront, *, first_ns: int = 0) -> None:
        """`first_ns`: no window before this will be asked for."""
        self._front, self._filters = front, front.filters()
        # What nothing sounds like: one block for however long a silence.
        self._silent = torch.full((BLOCK, front.mels), math.log10(FLOOR)), np.zeros(BLOCK, np.bool_)
        self._sound = WaveBuffer()
        self._ended = False
        self._next_block = self._first_frame(first_ns) // BLOCK
        # Blocks of frames: number of the block, frames [BLOCK, M], and which of them have sound [BLOCK].
        self._blocks: deque[tuple[int, torch.Tensor, NDArray[np.bool_]]] = deque()

    def push(self, chunk: SoundChunk) -> None:
        """Take the next chunk.

        Raises:
            ValueError: the chunk does not follow the one before.
        """
        self._sound.push(chunk)
        while self._span(self._next_block)[1] <= self._sound.stop:
            self._block()
        self._sound.forget(self._span(self._next_block)[0])

    def end(self) -> None:
        """No chunk follows: from here on there is silence."""
        self._ended = True

    def covers(self, stop_ns: int) -> bool:
        """Whether a window that stops here can be cut out now."""
        return self._ended or self._next_block * BLOCK >= self._first_frame(stop_ns)

    def window(self, start_ns: int, stop_ns: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The frames whose centres lie in [start_ns, stop_ns): float32 [N, M], and bool [N] where there is sound.

        Windows must be asked for in order; what lies before `start_ns` is forgotten.
        """
        first, stop = self._first_frame(start_ns), self._first_frame(stop_ns)
        while self._ended and self._next_block * BLOCK < min(stop, self._sound.stop // self._front.hop + 1):
            self._block()
        while self._blocks and (self._blocks[0][0] + 1) * BLOCK <= first:
            self._blocks.popleft()
        mel_NM = np.zeros((stop - first, self._front.mels), np.float32)
        sound_N = np.zeros(stop - first, np.bool_)
        for number, block_NM, heard_N in self._blocks:
            low, high = max(first, number * BLOCK), min(stop, (number + 1) * BLOCK)
            if low < high:
                inside, into = slice(low - number * BLOCK, high - number * BLOCK), slice(low - first, high - first)
                mel_NM[into], sound_N[into] = block_NM[inside].numpy(), heard_N[inside]
        # A gap within the sound is silence, as it is for the stock extractor.
        if not sound_N.any():
            mel_NM[:] = 0.0
        return mel_NM, sound_N

    def loudest(self) -> float:
        """The loudest value of the sound pushed since the last call, and of its end if it ended; at least silence."""
        while self._ended and self._next_block * BLOCK * self._front.hop < self._sound.stop + self._front.fft:
            self._block()
        peak = max((float(block_NM.max()) for _, block_NM, _ in self._blocks), default=-10.0)
        self._blocks.clear()
        return peak

    def _first_frame(self, time_ns: int) -> int:
        """The first frame whose centre is at or after a time."""
        return -(-time_ns * self._front.rate_hz // (self._front.hop * SECOND_NS))

    def _span(self, block: int) -> tuple[int, int]:
        """The samples that a block is computed from."""
        hop, half = self._front.hop, self._front.fft // 2
        first = block * BLOCK * hop - half
        return first, first + (BLOCK - 1) * hop + self._front.fft

    def _block(self) -> None:
        start, stop = self._span(self._next_block)
        wave_S, sound_S = self._sound.cut(start, stop)
        number, self._next_block = self._next_block, self._next_block + 1
        if not sound_S.any():
            self._blocks.append((number, *self._silent))
            return
        if start < 0:
            # As the stock extractor does it.
            wave_S[:-start] = wave_S[-start + 1 : -2 * start + 1][::-1]
        hop, half = self._front.hop, self._front.fft // 2
        mel_NM = self._front.power(torch.from_numpy(wave_S), self._filters).contiguous()
        self._blocks.append((number, mel_NM, sound_S[half : half + BLOCK * hop : hop].copy()))


def loudest_mel(info: MediaInfo, front: MelFront) -> float:
    """The loudest mel value (log10 of power) of a file's sound, in one pass over the sound alone with flat memory.

    Raises:
        MediaError: the file can no longer be opened.
    """
    assert info.audio is not None
    stream, peak = FrontStream(front), -10.0
    try:
        container = open_media(info.path)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{info.path}: it could be probed but not opened again ({error})") from error
    with container:
        track = container.streams[info.audio.index]
        reader = SoundReader(track, info.video.start_ns)
        packets = container.demux(track)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError):
                # Damage: as far as the packets went.
                break
            for item in reader.read(packet):
                if isinstance(item, SoundChunk):
                    stream.push(item)
                    peak = max(peak, stream.loudest())
        for item in reader.finish():
            stream.push(item)
    stream.end()
    return max(peak, stream.loudest())
