"""The wave of a continuous sound, cut to the windows of its video's snippets: what a public sound encoder hears."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from longtake.errors import InputError
from longtake.operators.model.config import AudioConfig
from longtake.pipeline.media.plan import SECOND_NS
from longtake.pipeline.media.segment import SoundChunk
from longtake.pipeline.media.sound.buffer import WaveBuffer


class WaveStream:
    """`SoundChunk`s in, the samples of any coming window out. Keeps only what later windows still need.

    Args:
        config: of a public encoder: `frames` is the samples of the longest window.
    """

    def __init__(self, config: AudioConfig) -> None:
        self._config = config
        self._sound = WaveBuffer()
        self._ended = False

    def push(self, chunk: SoundChunk) -> None:
        """Take the next chunk.

        Raises:
            ValueError: the chunk does not follow the one before.
        """
        self._sound.push(chunk)

    def end(self) -> None:
        """No chunk follows: from here on there is silence."""
        self._ended = True

    def covers(self, stop_ns: int) -> bool:
        """Whether a window that stops here can be cut out now."""
        return self._ended or self._sound.stop >= self._first_sample(stop_ns)

    def window(self, start_ns: int, stop_ns: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """One window's samples: float32 [A, 1], zero where there is no sound and behind the window, and bool [A].

        Windows must be asked for in order; the sound before `start_ns` is forgotten.

        Raises:
            InputError: the window is longer than the model's longest.
        """
        start, stop = self._first_sample(start_ns), self._first_sample(stop_ns)
        self._sound.forget(start)
        room = self._config.frames
        require_short((stop_ns - start_ns) / SECOND_NS, self._config)
        # Windows of one length hold now one sample more, now one less: their edges lie between samples.
        stop = min(stop, start + room)
        wave_AM, sound_A = np.zeros((room, 1), np.float32), np.zeros(room, np.bool_)
        wave_AM[: stop - start, 0], sound_A[: stop - start] = self._sound.cut(start, stop)
        return wave_AM, sound_A

    def _first_sample(self, time_ns: int) -> int:
        """The first sample at or after a time."""
        return -(-time_ns * self._config.sample_rate_hz // SECOND_NS)


def require_short(snippet_s: float, config: AudioConfig) -> None:
    """Refuse snippets that are longer than the model's longest; one sample more is a matter of rounding.

    Raises:
        InputError: so they are.
    """
    if snippet_s * config.sample_rate_hz > config.frames + 1:
        raise InputError(
            f"a snippet of {snippet_s:g} s is longer than the {config.frames / config.sample_rate_hz:g} s that the"
            " model's audio encoder hears; sample more often"
        )
