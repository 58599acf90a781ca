"""The text of a video's subtitles, as cues on the video's clock."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from longtake.pipeline.media.plan import SECOND_NS
from longtake.pipeline.media.segment import Cue

# Override tags of the ASS format, such as {\i1}.
_TAGS = re.compile(r"\{\\[^}]*\}|<[^<>]*>")


def read_cues(packet: Any, zero_s: Fraction) -> Iterator[Cue]:
    """The cues in one packet of a text subtitle stream; a damaged packet has none."""
    if packet.size == 0 or packet.pts is None:
        return
    start_s = packet.pts * Fraction(packet.time_base) - zero_s
    length_s = (packet.duration or 0) * Fraction(packet.time_base)
    try:
        decoded = packet.decode()
    except (av.error.FFmpegError, ValueError):
        return
    lines = [text for item in decoded if (text := _plain(item))]
    start_ns, stop_ns = int(start_s * SECOND_NS), int((start_s + length_s) * SECOND_NS)
    if lines and stop_ns > 0:
        yield Cue(start_ns=max(0, start_ns), stop_ns=max(stop_ns, start_ns + 1), text="\n".join(lines))


def _plain(item: Any) -> str:
    """The spoken text of one decoded subtitle: tags and hard line breaks taken away."""
    dialogue = getattr(item, "dialogue", b"") or b""
    text = dialogue.decode("utf-8", "replace") if isinstance(dialogue, bytes) else str(dialogue)
    text = _TAGS.sub("", text).replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())
