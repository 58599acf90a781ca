"""Sound on the video's clock: one continuous 16 kHz mono stream from the file's start.

Sample n of the stream is at n / 16,000 s, zero being the first picture. Where the file has no sound (before a late
track, in a gap, after its end) the stream is silent and says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from longtake.pipeline.media.plan import SECOND_NS
from longtake.pipeline.media.segment import Damage, SoundChunk, one_line

RATE_HZ = 16_000
# The sound is moved (silence put in, samples dropped) only when its timestamps leave the count of its samples by more
# than this: timestamps rounded to milliseconds, or jittering, must not tear a continuous recording apart.
TOLERANCE_NS = SECOND_NS // 50
# Sound is handed on in chunks of about this many samples: four seconds, as long as a segment at least.
CHUNK = 4 * RATE_HZ


class SoundReader:
    """Packets of one audio stream in, `SoundChunk`s out."""

    def __init__(self, stream: Any, zero_ns: int) -> None:
        """`zero_ns` is the first picture's time on the container's clock."""
        base = Fraction(stream.time_base)
        self._tick, self._ticks_a_second = base.numerator * SECOND_NS, base.denominator
        self._zero_ns = zero_ns
        self._resampler: Any = None
        # The next sample to be written (below 0: before the first picture, not kept).
        self._position = 0
        # Where on the clock the resampler was started, and how many samples of input, at which rate, it was given.
        self._base_ns, self._fed, self._fed_rate_hz = 0, 0, RATE_HZ
        # Which sample of the continuous sound the resampler's next output is.
        self._output = 0
        self._waiting: list[NDArray[np.float32]] = []
        self._waiting_samples = 0
        stream.codec_context.thread_count = 1

    @property
    def position_ns(self) -> int:
        """Up to where on the video's clock the sound is known."""
        return self._position * SECOND_NS // RATE_HZ

    def read(self, packet: Any) -> Iterator[SoundChunk | Damage]:
        """Decode one packet (an empty one flushes the decoder)."""
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            at_ns = max(0, self.position_ns)
            yield Damage(
                stage="sound",
                start_ns=at_ns,
                stop_ns=at_ns + _packet_ns(packet),
                error=type(error).__name__,
                message=f"a packet of sound could not be decoded ({one_line(str(error))})",
            )
            return
        for frame in frames:
            yield from self._feed(frame)

    def silence_until(self, time_ns: int) -> Iterator[SoundChunk]:
        """State that nothing is heard up to a time, where no sound was met so far."""
        target = time_ns * RATE_HZ // SECOND_NS
        if target > self._position:
            yield from self._drain()
            yield from self._silence(target)

    def finish(self) -> Iterator[SoundChunk]:
        """The rest of the sound; nothing may follow."""
        yield from self._drain()

    def _feed(self, frame: Any) -> Iterator[SoundChunk]:
        rate_hz = frame.sample_rate
        expected_ns = self._base_ns + self._fed * SECOND_NS // self._fed_rate_hz
        at_ns = expected_ns if frame.pts is None else frame.pts * self._tick // self._ticks_a_second - self._zero_ns
        torn = abs(at_ns - expected_ns) > TOLERANCE_NS
        if self._resampler is None or torn or rate_hz != self._fed_rate_hz:
            yield from self._restart(at_ns, rate_hz)
        frame.pts = None
        try:
            outputs = self._resampler.resample(frame)
        except ValueError:
            # The layout or the sample format changed in the middle of the stream.
            yield from self._restart(at_ns, rate_hz)
            outputs = self._resampler.resample(frame)
        self._fed += frame.samples
        for out in outputs:
            yield from self._write(_samples(out))

    def _restart(self, at_ns: int, rate_hz: int) -> Iterator[SoundChunk]:
        """Go on at another time, with silence up to there; what lies in the past will be dropped."""
        yield from self._drain()
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE_HZ)
        self._base_ns, self._fed, self._fed_rate_hz = at_ns, 0, rate_hz
        self._output = (2 * at_ns * RATE_HZ + SECOND_NS) // (2 * SECOND_NS)
        yield from self._silence(self._output)

    def _write(self, wave: NDArray[np.float32]) -> Iterator[SoundChunk]:
        """Place the resampler's next samples; what lies before the stream's position is dropped."""
        late = self._position - self._output
        self._output += len(wave)
        if late > 0:
            wave = wave[late:]
        if len(wave):
            self._waiting.append(wave)
            self._waiting_samples += len(wave)
            self._position += len(wave)
            if self._waiting_samples >= CHUNK:
                yield self._chunk()

    def _chunk(self) -> SoundChunk:
        wave = np.concatenate(self._waiting) if len(self._waiting) > 1 else np.ascontiguousarray(self._waiting[0])
        self._waiting, self._waiting_samples = [], 0
        return SoundChunk(first=self._position - len(wave), samples=len(wave), wave_S=wave)

    def _drain(self) -> Iterator[SoundChunk]:
        """Empty the resampler and hand on everything that waits."""
        if self._resampler is not None:
            for out in self._resampler.resample(None):
                yield from self._write(_samples(out))
            self._resampler = None
        if self._waiting:
            yield self._chunk()

    def _silence(self, until: int) -> Iterator[SoundChunk]:
        if until > self._position:
            first, self._position = self._position, until
            yield SoundChunk(first=first, samples=until - first, wave_S=None)


def _samples(frame: Any) -> NDArray[np.float32]:
    """The samples of the resampler's mono output, without a copy: the array keeps the frame."""
    return np.frombuffer(frame.planes[0], np.float32, frame.samples)


def _packet_ns(packet: Any) -> int:
    if packet.duration and packet.time_base:
        return max(1, int(packet.duration * packet.time_base * SECOND_NS))
    return SECOND_NS // 50
