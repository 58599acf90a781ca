"""From attention over snippets to the few moments that a person can go and look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A snippet counts when it has at least this share of the strongest snippet's weight...
SHARE_OF_STRONGEST = 0.25
# ...and at least this much of all attention: an answer that looked nowhere has no moment...
LEAST_WEIGHT = 0.02
# ...and this many times what it would have if the answer looked everywhere alike: such an answer has no moment either,
# least of all the whole video. (Half of all attention is always enough: few snippets leave little room for more.)
TIMES_EVEN = 2.0
ALWAYS_ENOUGH = 0.5
MOST_MOMENTS = 5


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A stretch of a video, in seconds, and the share of the answer's attention that fell on it (0 to 1)."""

    start_s: float
    stop_s: float
    weight: float

    def __post_init__(self) -> None:
        if self.stop_s <= self.start_s:
            raise ValueError(f"a moment that stops at {self.stop_s} s before it starts at {self.start_s} s")


def find_moments(
    weights_T: NDArray[np.floating], start_ns_T: NDArray[np.int64], stop_ns_T: NDArray[np.int64]
) -> tuple[Moment, ...]:
    """The moments that an answer attended to, strongest first, at most `MOST_MOMENTS`.

    Snippets with little weight are left out, neighbours in time are merged and their weights added.

    Args:
        weights_T: attention mass of each snippet that could be looked at, sum at most 1 (the rest fell on nothing).
        start_ns_T, stop_ns_T: their windows, in time order.
    Raises:
        ValueError: the three lengths differ.
    """
    if not len(weights_T) == len(start_ns_T) == len(stop_ns_T):
        raise ValueError(f"{len(weights_T)} weights for {len(start_ns_T)} starts and {len(stop_ns_T)} stops")
    if not len(weights_T):
        return ()
    peaked = min(TIMES_EVEN / len(weights_T), ALWAYS_ENOUGH)
    floor = max(LEAST_WEIGHT, SHARE_OF_STRONGEST * float(weights_T.max()), peaked)
    runs: list[list[int]] = []
    for snippet in np.flatnonzero(weights_T >= floor).tolist():
        # A snippet lost to damage leaves a gap between the windows, and a moment must not claim it.
        if runs and runs[-1][-1] == snippet - 1 and stop_ns_T[snippet - 1] == start_ns_T[snippet]:
            runs[-1].append(snippet)
        else:
            runs.append([snippet])
    moments = [
        Moment(
            start_s=int(start_ns_T[run[0]]) / 1e9,
            stop_s=int(stop_ns_T[run[-1]]) / 1e9,
            weight=float(weights_T[run].sum()),
        )
        for run in runs
    ]
    return tuple(sorted(moments, key=lambda moment: (-moment.weight, moment.start_s))[:MOST_MOMENTS])


def snippets_in_span(
    start_ns_T: NDArray[np.int64], stop_ns_T: NDArray[np.int64], from_s: float | None, to_s: float | None
) -> NDArray[np.bool_]:
    """Which snippets belong to the span [from_s, to_s) of a video; None leaves that end open.

    A snippet belongs when at least half of it lies in the span, or half of the span lies in it: so a span that is cut
    at snippets' borders is exact, a span in between takes the nearer snippets, and a short one is never empty.
    """
    # Far beyond any video, and far from the integer's end.
    forever_ns = 1 << 62
    from_ns = 0 if from_s is None else round(from_s * 1e9)
    to_ns = forever_ns if to_s is None else round(min(to_s * 1e9, float(forever_ns)))
    overlap_T = np.minimum(stop_ns_T, to_ns) - np.maximum(start_ns_T, from_ns)
    enough_T = np.minimum(stop_ns_T - start_ns_T, to_ns - from_ns)
    return np.asarray((overlap_T > 0) & (2 * overlap_T >= enough_T), dtype=np.bool_)
