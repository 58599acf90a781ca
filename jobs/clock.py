"""Moments of a video as people write them: `83.5`, `1:23.5`, `1:02:03`, `90s`, `1h2m3s`."""

from __future__ import annotations

import argparse
import re

_COLONS = re.compile(r"(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+(?:\.\d+)?)")
_UNITS = re.compile(r"(?:(?P<hours>\d+)h)?(?:(?P<minutes>\d+)m)?(?:(?P<seconds>\d+(?:\.\d+)?)s?)?")


def parse_moment(text: str) -> float:
    """Seconds from the first picture.

    Raises:
        argparse.ArgumentTypeError: not a moment; argparse prints the message after the option's name.
    """
    stripped = text.strip().lower()
    match = _COLONS.fullmatch(stripped) or _UNITS.fullmatch(stripped)
    if not stripped or match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a moment: write 83.5, 1:23.5, 1:02:03 or 1h2m3s")
    hours, minutes, seconds = (float(match[part] or 0) for part in ("hours", "minutes", "seconds"))
    return hours * 3600 + minutes * 60 + seconds


def format_moment(seconds: float) -> str:
    """`m:ss.s`, or `h:mm:ss.s` from one hour on."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    clock = f"{tenths // 10:02d}.{tenths % 10}"
    return f"{hours}:{minutes:02d}:{clock}" if hours else f"{minutes}:{clock}"


def format_span(start_s: float, stop_s: float) -> str:
    """`m:ss.s-m:ss.s`."""
    return f"{format_moment(start_s)}-{format_moment(stop_s)}"
