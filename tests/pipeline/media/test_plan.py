"""The plan is arithmetic: windows tile the video, samples stay in their windows, and counts never change."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtake.pipeline.media.plan import SECOND_NS, Plan, Sampling, Window, plan_budget, plan_rate

rates = st.one_of(
    st.sampled_from([1.0, 2.0, 8.0, 12.5, 23.976, 24.0, 29.97, 60.0]),
    st.floats(min_value=0.01, max_value=240, allow_nan=False),
)
lengths = st.integers(min_value=1, max_value=20_000 * SECOND_NS)
sizes = st.integers(min_value=1, max_value=32)


@st.composite
def plans(draw: st.DrawFn) -> tuple[Plan, int]:
    """A plan and the length of the video that it is for: at most some thousand samples."""
    size = draw(sizes)
    if draw(st.booleans()):
        frames = draw(st.integers(min_value=1, max_value=2000))
        end_ns = draw(st.integers(min_value=2 * frames, max_value=20_000 * SECOND_NS))
        return plan_budget(frames, end_ns, size), end_ns
    plan = plan_rate(draw(rates), size)
    periods = draw(st.fractions(min_value=Fraction(51, 100), max_value=2000))
    return plan, max(1, int(periods * plan.period_ns))


@settings(max_examples=300)
@given(plans())
def test_windows_tile_the_video(planned: tuple[Plan, int]) -> None:
    plan, end_ns = planned
    windows = [plan.window(i, end_ns) for i in range(plan.count_windows(end_ns))]
    assert windows[0].start_ns == 0
    assert windows[-1].stop_ns == end_ns
    for left, right in itertools.pairwise(windows):
        assert left.stop_ns == right.start_ns


@settings(max_examples=300)
@given(plans())
def test_no_sample_leaves_its_window_and_none_is_lost(planned: tuple[Plan, int]) -> None:
    plan, end_ns = planned
    times: list[int] = []
    for index in range(plan.count_windows(end_ns)):
        window = plan.window(index, end_ns)
        assert len(window.sample_ns) == plan.snippet_frames
        inside = [t for t in window.sample_ns if t is not None]
        assert inside and all(window.start_ns <= t < window.stop_ns for t in inside)
        # Masked samples come last, and only in the last window.
        assert list(window.sample_ns[: len(inside)]) == inside
        if index + 1 < plan.count_windows(end_ns):
            assert len(inside) == plan.snippet_frames
        times += inside
    assert times == sorted(times)
    assert len(times) == plan.count_samples(end_ns)
    if plan.samples is not None:
        assert len(times) == plan.samples


@settings(max_examples=200)
@given(plans(), st.data())
def test_streaming_and_whole_plans_are_equal(planned: tuple[Plan, int], data: st.DataObject) -> None:
    """A window that is known to be whole before the end is known is the same window afterwards."""
    plan, end_ns = planned
    known_ns = data.draw(st.integers(min_value=0, max_value=end_ns))
    for index in range(plan.count_windows(end_ns)):
        if not plan.is_whole(index, known_ns):
            break
        assert index + 1 < plan.count_windows(end_ns)
        assert plan.window(index) == plan.window(index, end_ns)


@settings(max_examples=200)
@given(plans(), st.lists(st.integers(min_value=0, max_value=20_000 * SECOND_NS), max_size=20))
def test_any_cut_into_segments_hands_out_each_sample_once(planned: tuple[Plan, int], cuts: list[int]) -> None:
    plan, end_ns = planned
    edges = [0, *sorted(c % end_ns for c in cuts), end_ns]
    samples = [k for start, stop in itertools.pairwise(edges) for k in plan.samples_in(start, stop)]
    assert samples == list(range(plan.count_samples(end_ns)))


@settings(max_examples=200)
@given(rates, sizes, lengths)
def test_counts_are_deterministic(rate_hz: float, size: int, end_ns: int) -> None:
    first, second = plan_rate(rate_hz, size), plan_rate(rate_hz, size)
    assert first == second
    assert first.count_samples(end_ns) == second.count_samples(end_ns)
    # One period more is one sample more.
    longer_ns = end_ns + -(-first.period_ns.numerator // first.period_ns.denominator)
    assert first.count_samples(longer_ns) - first.count_samples(end_ns) in (1, 2)


def test_samples_are_in_the_middle_of_their_periods() -> None:
    plan = plan_rate(8.0, 8)
    assert [plan.sample_ns(k) for k in range(3)] == [62_500_000, 187_500_000, 312_500_000]
    window = plan.window(1, 3 * SECOND_NS)
    assert (window.start_ns, window.stop_ns) == (SECOND_NS, 2 * SECOND_NS)


def test_a_budget_of_all_frames_is_every_frame() -> None:
    plan = plan_budget(720, 30 * SECOND_NS, 8)
    assert [plan.sample_ns(k) * 24 // SECOND_NS for k in range(720)] == list(range(720))


def test_the_last_window_takes_the_rest() -> None:
    plan = plan_rate(8.0, 8)
    end_ns = SECOND_NS + 30_000_000
    assert plan.count_windows(end_ns) == 1
    assert plan.window(0, end_ns).stop_ns == end_ns
    with pytest.raises(IndexError, match="window 1"):
        plan.window(1, end_ns)


def test_sampling_says_what_it_is() -> None:
    assert Sampling(rate_hz=8).describe() == "8 frames/s"
    assert Sampling(frames=512).describe() == "512 frames"
    assert Sampling(frames=1).describe() == "1 frame"
    keys = {Sampling(rate_hz=8).key(), Sampling(rate_hz=8.5).key(), Sampling(frames=8).key()}
    assert len(keys) == 3
    assert Sampling(rate_hz=8.0).key() == Sampling(rate_hz=8.0).key()


@pytest.mark.parametrize(
    "arguments", [{}, {"rate_hz": 8.0, "frames": 8}, {"rate_hz": 0.0}, {"rate_hz": float("nan")}, {"frames": 0}]
)
def test_bad_samplings_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Sampling(**arguments)  # type: ignore[arg-type]


def test_a_window_cannot_be_empty_or_leave_its_samples_outside() -> None:
    with pytest.raises(ValueError, match="empty"):
        Window(index=0, start_ns=5, stop_ns=5, sample_ns=(None,))
    with pytest.raises(ValueError, match="leave"):
        Window(index=0, start_ns=5, stop_ns=9, sample_ns=(9,))
