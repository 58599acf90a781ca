"""A long video from a short one, by repeating its packets: nothing is decoded, so an hour takes seconds to make."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from longtake.errors import InputError
from longtake.pipeline.media.probe import open_media, probe


def loop_clip(source: Path, target: Path, duration_s: float, *, sound: bool = True, cut: bool = False) -> int:
    """Write `target`, of the container of its name, with the clip repeated until it is at least `duration_s` long.

    Args:
        sound: False leaves it out.
        cut: end after the last picture that begins before `duration_s`; what is needed to decode it may stand a few
            pictures later.
    Returns:
        How many times the clip is in it.
    Raises:
        MediaError: the clip cannot be read.
        InputError: its packets cannot be written into that container.
    """
    info = probe(source)
    picked = [info.video.index] + ([info.audio.index] if sound and info.audio is not None else [])
    length_s = _length(str(source), picked)
    loops = max(1, -int(-duration_s // float(length_s)))
    try:
        with av.open(str(target), "w") as out:
            streams: dict[int, Any] = {}
            for loop in range(loops):
                with open_media(str(source)) as container:
                    if not streams:
                        streams = {i: out.add_stream_from_template(container.streams[i]) for i in picked}
                    stop_s = Fraction(duration_s) if cut and loop == loops - 1 else None
                    _copy(container, out, streams, loop * length_s, stop_s)
    except (av.error.FFmpegError, ValueError) as error:
        raise InputError(f"{target}: the packets of {source} cannot be repeated there ({error})") from error
    return loops


def _length(path: str, picked: list[int]) -> Fraction:
    """After how many seconds the clip can follow itself: no stream's times of showing or of decoding then overlap."""
    spans: dict[tuple[int, str], tuple[Fraction, Fraction]] = {}
    with open_media(path) as container:
        for packet in container.demux([container.streams[i] for i in picked]):
            if packet.dts is None:
                continue
            # A packet without a duration lasts at least a tick.
            lasts = max(packet.duration or 0, 1)
            for clock, ticks in (("pts", packet.pts), ("dts", packet.dts)):
                if ticks is not None:
                    start, stop = ticks * packet.time_base, (ticks + lasts) * packet.time_base
                    key = (packet.stream.index, clock)
                    earliest, latest = spans.get(key, (start, stop))
                    spans[key] = (min(earliest, start), max(latest, stop))
    if not spans:
        raise InputError(f"{path}: holds no packet that could be repeated")
    return max(latest - earliest for earliest, latest in spans.values())


def _copy(container: Any, out: Any, streams: dict[int, Any], shift_s: Fraction, stop_s: Fraction | None) -> None:
    held: list[Any] = []
    for packet in container.demux([container.streams[i] for i in streams]):
        if packet.dts is None:
            continue
        shift = round(shift_s / packet.time_base)
        packet.dts += shift
        if packet.pts is not None:
            packet.pts += shift
        late = stop_s is not None and packet.pts is not None and packet.pts * packet.time_base >= stop_s
        packet.stream = streams[packet.stream.index]
        held.append(packet)
        # Packets come in the order of decoding: of those past the end only what one before it needs is written.
        if not late:
            for ready in held:
                out.mux(ready)
            held.clear()
