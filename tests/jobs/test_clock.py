"""Moments as people write them."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtake.jobs.clock import format_moment, format_span, parse_moment


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("83.5", 83.5),
        ("1:23.5", 83.5),
        ("1:02:03", 3723),
        ("90s", 90),
        ("1h2m3s", 3723),
        ("2m", 120),
        (" 1H ", 3600),
    ],
)
def test_moments_are_read(text: str, seconds: float) -> None:
    assert parse_moment(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "-3", "soon", "1:2:3:4", "3m2h", "nan", "1e3", "1:"])
def test_what_is_no_moment_is_refused_by_name(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a moment"):
        parse_moment(text)


@given(st.floats(0, 1e6))
def test_a_printed_moment_reads_back_to_the_tenth(seconds: float) -> None:
    assert parse_moment(format_moment(seconds)) == pytest.approx(seconds, abs=0.0501)


def test_moments_are_printed_without_sixty_seconds() -> None:
    assert [format_moment(s) for s in (0, 59.96, 83.5, 3599.99, 3723)] == [
        "0:00.0",
        "1:00.0",
        "1:23.5",
        "1:00:00.0",
        "1:02:03.0",
    ]
    assert format_span(1, 62.25) == "0:01.0-1:02.2"
