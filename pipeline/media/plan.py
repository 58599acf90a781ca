"""Which moments of a video become pictures of which snippet: pure arithmetic in integer nanoseconds.

Both samplings are one plan: sample k is taken in the middle of its period, at (k + 1/2) * period, and F samples make
a snippet, whose window is exactly its F periods. The middle is taken because the edge of a period is, at the usual
rates, also the edge of a picture, where rounded timestamps would make the choice of picture a matter of chance.
A fixed rate gives the period (and any length of video); a frame budget gives it as the video's length / N.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

SECOND_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a video is sampled: `rate_hz` frames a second, or `frames` spread over the whole of it. Exactly one is set.

    Raises:
        ValueError: both or none set, or out of range.
    """

    rate_hz: float | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        if (self.rate_hz is None) == (self.frames is None):
            raise ValueError(f"set exactly one of rate_hz and frames, not {self.rate_hz!r} and {self.frames!r}")
        if self.rate_hz is not None and not 1e-4 <= self.rate_hz <= 1000:
            raise ValueError(f"a rate of {self.rate_hz} frames/s: between 0.0001 and 1000 is wanted")
        if self.frames is not None and not 1 <= self.frames <= 10_000_000:
            raise ValueError(f"a budget of {self.frames} frames: between 1 and 10,000,000 is wanted")

    def describe(self) -> str:
        """For people: "8 frames/s" or "512 frames"."""
        if self.rate_hz is not None:
            return f"{self.rate_hz:g} frames/s"
        return f"{self.frames} frame{'' if self.frames == 1 else 's'}"

    def key(self) -> str:
        """For hashing: equal for equal samplings, and never changes."""
        return f"rate={self.rate_hz!r}" if self.rate_hz is not None else f"frames={self.frames}"


@dataclass(frozen=True, kw_only=True)
class Window:
    """One planned snippet: [start_ns, stop_ns) on the video's clock and its F sample times; None is past the end."""

    index: int
    start_ns: int
    stop_ns: int
    sample_ns: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if self.index < 0 or self.start_ns < 0 or self.stop_ns <= self.start_ns:
            raise ValueError(f"window {self.index} of [{self.start_ns}, {self.stop_ns}) ns is empty or negative")
        times = [t for t in self.sample_ns if t is not None]
        if times and not (self.start_ns <= times[0] and times[-1] < self.stop_ns):
            raise ValueError(f"window {self.index}: samples {times[0]} to {times[-1]} ns leave it")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The sample times and windows of one video.

    `period_ns` is the exact time between samples and `snippet_frames` is F. `samples` is their number where it is
    known beforehand (a frame budget); otherwise as many as lie before the video's end.
    """

    period_ns: Fraction
    snippet_frames: int
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.snippet_frames < 1 or (self.samples is not None and self.samples < 1):
            raise ValueError(f"{self}: snippet_frames and samples must be at least 1")
        # Half a period must be a whole nanosecond at least, else rounding takes samples out of their windows.
        if self.period_ns < 2:
            raise ValueError(f"{self}: period_ns must be at least 2")

    def sample_ns(self, sample: int) -> int:
        """The time of a sample."""
        return (2 * sample + 1) * self.period_ns.numerator // (2 * self.period_ns.denominator)

    def first_sample_at(self, time_ns: int) -> int:
        """The first sample at or after a time (the number of samples before it), the budget being no limit."""
        numerator, denominator = self.period_ns.numerator, self.period_ns.denominator
        return max(0, -((numerator - 2 * denominator * time_ns) // (2 * numerator)))

    def samples_in(self, start_ns: int, stop_ns: int) -> range:
        """The samples whose time lies in [start_ns, stop_ns)."""
        stop = self.first_sample_at(stop_ns)
        return range(self.first_sample_at(start_ns), stop if self.samples is None else min(stop, self.samples))

    def window_start_ns(self, index: int) -> int:
        """Where window `index` begins, whether or not the video reaches it."""
        return index * self.snippet_frames * self.period_ns.numerator // self.period_ns.denominator

    def count_samples(self, end_ns: int) -> int:
        """How many samples a video of this length has."""
        return self.samples if self.samples is not None else self.first_sample_at(end_ns)

    def count_windows(self, end_ns: int) -> int:
        """How many snippets a video of this length has."""
        return -(-self.count_samples(end_ns) // self.snippet_frames)

    def is_whole(self, index: int, known_ns: int) -> bool:
        """Whether window `index` is surely not the last, given that pictures reach at least to `known_ns`."""
        following = (index + 1) * self.snippet_frames
        return following < self.count_samples(known_ns) and self.sample_ns(following) < known_ns

    def window(self, index: int, end_ns: int | None = None) -> Window:
        """One window. `end_ns` is the video's end; None says that the window is known not to be the last.

        The last window takes the rest of the video, even where less than half a period is left behind its samples.

        Raises:
            IndexError: the video has no such window.
        """
        first = index * self.snippet_frames
        stop = first + self.snippet_frames
        stop_ns = self.window_start_ns(index + 1)
        if end_ns is not None:
            samples = self.count_samples(end_ns)
            if not 0 <= first < samples:
                raise IndexError(f"window {index}: a video of {end_ns} ns has {self.count_windows(end_ns)}")
            if stop >= samples:
                stop, stop_ns = samples, end_ns
        times: list[int | None] = [self.sample_ns(k) for k in range(first, stop)]
        times += [None] * (self.snippet_frames - len(times))
        start_ns = self.window_start_ns(index)
        return Window(index=index, start_ns=start_ns, stop_ns=stop_ns, sample_ns=tuple(times))


def plan_rate(rate_hz: float, snippet_frames: int) -> Plan:
    """A plan of `rate_hz` frames a second, for a video of any length. 29.97 is taken as exactly 2997 / 100."""
    return Plan(period_ns=SECOND_NS / Fraction(repr(float(rate_hz))), snippet_frames=snippet_frames)


def plan_budget(frames: int, end_ns: int, snippet_frames: int) -> Plan:
    """A plan of `frames` frames spread over a video that ends at `end_ns`.

    Raises:
        ValueError: the video is shorter than two nanoseconds a frame.
    """
    return Plan(period_ns=Fraction(end_ns, frames), snippet_frames=snippet_frames, samples=frames)
