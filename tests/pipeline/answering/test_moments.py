"""Moments from attention, and snippets from spans."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtake.pipeline.answering.moments import (
    ALWAYS_ENOUGH,
    LEAST_WEIGHT,
    MOST_MOMENTS,
    TIMES_EVEN,
    find_moments,
    snippets_in_span,
)


def windows(count: int, length_ns: int = 1_000_000_000) -> tuple[np.ndarray, np.ndarray]:
    starts = np.arange(count, dtype=np.int64) * length_ns
    return starts, starts + length_ns


def test_neighbours_merge_and_the_strongest_comes_first() -> None:
    weights = np.zeros(40)
    weights[:7] = [0.0, 0.2, 0.01, 0.3, 0.25, 0.0, 0.1]
    moments = find_moments(weights, *windows(40))
    assert [(m.start_s, m.stop_s, round(m.weight, 6)) for m in moments] == [
        (3.0, 5.0, 0.55),
        (1.0, 2.0, 0.2),
        (6.0, 7.0, 0.1),
    ]


def test_a_gap_left_by_damage_is_not_claimed() -> None:
    starts, stops = windows(8)
    keep = [0, 1, 3, 4, 5, 6, 7]
    moments = find_moments(np.array([0.0, 0.4, 0.4, 0, 0, 0, 0]), starts[keep], stops[keep])
    assert [(m.start_s, m.stop_s) for m in moments] == [(1.0, 2.0), (3.0, 4.0)]


def test_an_answer_that_looked_nowhere_has_no_moment() -> None:
    assert find_moments(np.full(100, LEAST_WEIGHT / 2), *windows(100)) == ()
    assert find_moments(np.zeros(0), *windows(0)) == ()


def test_an_answer_that_looked_everywhere_alike_has_no_moment() -> None:
    # An untrained model's attention: else its one moment would be the whole video, which always holds the truth.
    uneven = np.linspace(0.8, 1.2, 16)
    assert find_moments(uneven / uneven.sum(), *windows(16)) == ()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_snippets_still_give_a_moment(count: int) -> None:
    weights = np.full(count, 0.1)
    weights[-1] = 0.6
    (moment,) = find_moments(weights, *windows(count))
    assert (moment.start_s, moment.stop_s) == (count - 1, count)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="3 weights for 2 starts"):
        find_moments(np.ones(3), *windows(2))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 10**10))
def test_moments_are_disjoint_ordered_and_never_invent_weight(raw: list[float], length_ns: int) -> None:
    weights = np.array(raw) / max(1.0, sum(raw))
    starts, stops = windows(len(raw), length_ns)
    moments = find_moments(weights, starts, stops)
    assert len(moments) <= MOST_MOMENTS
    assert sum(m.weight for m in moments) <= weights.sum() + 1e-9
    assert all(a.weight >= b.weight for a, b in itertools.pairwise(moments))
    in_time = sorted(moments, key=lambda m: m.start_s)
    assert all(a.stop_s < b.start_s for a, b in itertools.pairwise(in_time))
    if weights.max() >= max(LEAST_WEIGHT, min(TIMES_EVEN / len(raw), ALWAYS_ENOUGH)):
        strongest = float(starts[weights.argmax()]) / 1e9
        assert len(moments) == MOST_MOMENTS or any(m.start_s <= strongest < m.stop_s for m in moments)


@given(st.integers(1, 40), st.integers(1, 10**10), st.data())
def test_a_span_on_the_borders_takes_exactly_its_snippets(count: int, length_ns: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first, count - 1))
    # Float seconds hold nanoseconds exactly enough up to 9 * 10**15 ns.
    starts, stops = windows(count, length_ns)
    mask = snippets_in_span(starts, stops, starts[first] / 1e9, stops[last] / 1e9)
    assert np.flatnonzero(mask).tolist() == list(range(first, last + 1))


@given(st.integers(1, 40), st.integers(2, 10**10), st.floats(0, 1), st.floats(1e-6, 1))
def test_a_span_inside_the_video_is_never_empty(count: int, length_ns: int, at: float, length: float) -> None:
    starts, stops = windows(count, length_ns)
    total_s = int(stops[-1]) / 1e9
    from_s = at * total_s * 0.999
    to_s = min(total_s, from_s + max(length * total_s, 2e-9))
    if round(to_s * 1e9) > round(from_s * 1e9):
        assert snippets_in_span(starts, stops, from_s, to_s).any()


def test_open_ends_and_spans_outside() -> None:
    starts, stops = windows(4)
    assert snippets_in_span(starts, stops, None, None).tolist() == [True] * 4
    assert snippets_in_span(starts, stops, 2.0, None).tolist() == [False, False, True, True]
    assert snippets_in_span(starts, stops, None, 1.4).tolist() == [True, False, False, False]
    assert snippets_in_span(starts, stops, None, 1.5).tolist() == [True, True, False, False]
    assert not snippets_in_span(starts, stops, 4.0, 9.0).any()
    assert snippets_in_span(starts, stops, 1.2, 1.3).tolist() == [False, True, False, False]
