"""All kinds of streams, made on the spot with a number in every frame: the number on screen must be the right one."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtake.operators.model.config import ModelConfig
from longtake.pipeline.media import cut
from longtake.pipeline.media.decode import choose_route, decode_segment, decord_is_here
from longtake.pipeline.media.demux import demux, measure_end_ns
from longtake.pipeline.media.geometry import PictureFormat
from longtake.pipeline.media.plan import SECOND_NS, Sampling
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.segment import Pictures, Reader, Segment
from longtake.pipeline.media.snippets import Damage, Snippet, make_plan, read_snippets

Number = Callable[[Any], int]
FORM = PictureFormat(height=64, width=64)


def numbers(
    path: Path, config: ModelConfig, sampling: Sampling, number_of: Number, reader: Reader = "auto"
) -> list[int | None]:
    """The numbers that a video's samples show (None: masked); no damage is allowed."""
    out: list[int | None] = []
    for item in read_snippets(probe(path), config, sampling, reader=reader):
        assert isinstance(item, Snippet), item
        for picture, there in zip(item.frames_FHWC, item.frame_mask_F, strict=True):
            out.append(number_of(picture) if there else None)
    while out and out[-1] is None:
        out.pop()
    return out


def segments_of(path: Path, sampling: Sampling) -> list[Segment]:
    info = probe(path)
    items = demux(info, make_plan(info, sampling, 8), FORM)
    return [item for item in items if isinstance(item, Segment)]


# name: suffix, codec, options, whether decord may read it
STREAMS: dict[str, tuple[str, str, dict[str, str], bool]] = {
    "h264 with B-frames": (".mp4", "libx264", {"g": "24", "bf": "3"}, True),
    "h264 in matroska": (".mkv", "libx264", {"g": "30", "bf": "2"}, True),
    "h264 in a transport stream": (".ts", "libx264", {"g": "24", "bf": "2"}, True),
    "h264, open groups": (".mp4", "libx264", {"x264-params": "open-gop=1:keyint=24:min-keyint=24:bframes=3"}, False),
    "h264, every frame a key frame": (".mp4", "libx264", {"g": "1"}, True),
    "hevc, closed groups": (".mkv", "libx265", {"x265-params": "open-gop=0:keyint=24:bframes=3:log-level=none"}, True),
    "hevc, open groups": (
        ".mkv",
        "libx265",
        {"x265-params": "open-gop=1:keyint=24:min-keyint=24:bframes=3:scenecut=0:log-level=none"},
        False,
    ),
    "mpeg2, open groups": (".mkv", "mpeg2video", {"g": "12", "bf": "2", "b": "3M"}, False),
    "mpeg2 in a program stream": (".mpg", "mpeg2video", {"g": "12", "bf": "2", "b": "3M"}, False),
    "mpeg4, closed groups": (".mp4", "mpeg4", {"g": "24", "bf": "0", "b": "2M"}, True),
    "mpeg4, open groups": (".mp4", "mpeg4", {"g": "24", "bf": "2", "b": "2M"}, False),
    "vp8": (".webm", "libvpx", {"g": "24", "deadline": "realtime", "b": "1M"}, False),
    "vp9": (".webm", "libvpx-vp9", {"g": "24", "deadline": "realtime", "cpu-used": "8", "b": "1M"}, True),
    "flv": (".flv", "libx264", {"g": "24", "bf": "2"}, True),
}


@pytest.mark.parametrize("name", STREAMS)
def test_every_frame_of_every_kind(
    tmp_path: Path, config: ModelConfig, write_clip: Callable[..., Path], number_of: Number, name: str
) -> None:
    suffix, codec, options, by_decord = STREAMS[name]
    count = 240
    path = write_clip(tmp_path / f"clip{suffix}", frames=count, codec=codec, options=options)
    assert numbers(path, config, Sampling(frames=count), number_of) == list(range(count))
    expected = [int((2 * k + 1) * 24 / 14) for k in range(70)]
    assert numbers(path, config, Sampling(rate_hz=7), number_of) == expected
    segments = segments_of(path, Sampling(frames=count))
    assert len(segments) >= 2
    if decord_is_here():
        # In a stream of open groups there may be a segment without such a frame.
        assert ("pyav" in {s.route for s in segments}) == (not by_decord)
        for segment in segments:
            # What the rule gives to decord, decord itself can read.
            assert decode_segment(segment).route == segment.route


def test_variable_frame_rate_and_late_start(
    tmp_path: Path, config: ModelConfig, write_clip: Callable[..., Path], number_of: Number
) -> None:
    """Frames of very different lengths: the samples show the frame whose interval covers them."""
    rng = np.random.default_rng(5)
    gaps = [Fraction(int(g), 1000) for g in rng.choice([8, 20, 33, 50, 120, 900], size=100)]
    times = [Fraction(0)]
    for gap in gaps[:-1]:
        times.append(times[-1] + gap)
    for suffix, start_s in ((".mkv", Fraction(0)), (".mp4", Fraction(3, 2))):
        path = write_clip(
            tmp_path / f"vfr{suffix}", frames=100, times_s=times, video_at_s=start_s, options={"g": "20", "bf": "2"}
        )
        info = probe(path)
        assert info.video.start_ns == int(start_s * SECOND_NS)
        plan = make_plan(info, Sampling(rate_hz=12.3), 8)
        samples = plan.count_samples(measure_end_ns(info))
        # Timestamps in Matroska are whole milliseconds, as these are.
        expected = [sum(t * SECOND_NS <= plan.sample_ns(k) for t in times) - 1 for k in range(samples)]
        for reader in ("pyav", "auto"):
            assert numbers(path, config, Sampling(rate_hz=12.3), number_of, reader) == expected  # type: ignore[arg-type]


def test_a_long_group_is_streamed_and_shows_the_same(
    tmp_path: Path, config: ModelConfig, write_clip: Callable[..., Path], number_of: Number
) -> None:
    path = write_clip(tmp_path / "long.mp4", frames=600, rate=24, options={"g": "400", "bf": "2", "sc_threshold": "0"})
    info = probe(path)
    items = list(demux(info, make_plan(info, Sampling(rate_hz=24), 8), FORM))
    streamed = [item for item in items if isinstance(item, Pictures)]
    segments = [item for item in items if isinstance(item, Segment)]
    assert streamed and streamed[-1].stop_ns == 400 * SECOND_NS // 24
    assert segments[0].start_ns == 400 * SECOND_NS // 24
    assert numbers(path, config, Sampling(rate_hz=24), number_of) == list(range(600))
    assert numbers(path, config, Sampling(frames=100), number_of) == [6 * k + 3 for k in range(100)]
    damage = [i for i in read_snippets(info, config, Sampling(rate_hz=8), reader="decord") if isinstance(i, Damage)]
    assert any(d.error == "LongGroup" and (d.start_ns, d.stop_ns) == (0, 400 * SECOND_NS // 24) for d in damage)


def test_a_long_open_group_hands_over_its_leading_frames(
    tmp_path: Path, config: ModelConfig, write_clip: Callable[..., Path], number_of: Number
) -> None:
    options = {"x265-params": "open-gop=1:keyint=400:min-keyint=400:bframes=3:scenecut=0:log-level=none"}
    path = write_clip(tmp_path / "long.mkv", frames=820, codec="libx265", options=options)
    assert numbers(path, config, Sampling(rate_hz=24), number_of) == list(range(820))


def test_what_matroska_cannot_hold_is_streamed_and_shows_the_same(
    tmp_path: Path,
    config: ModelConfig,
    write_clip: Callable[..., Path],
    number_of: Number,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=120, options={"g": "24", "bf": "2"})
    whole = list(read_snippets(probe(path), config, Sampling(rate_hz=24), reader="pyav"))
    monkeypatch.setattr(cut, "can_remux", lambda stream: False)
    assert segments_of(path, Sampling(rate_hz=24)) == []
    assert numbers(path, config, Sampling(rate_hz=24), number_of) == list(range(120))
    streamed = list(read_snippets(probe(path), config, Sampling(rate_hz=24)))
    for left, right in zip(whole, streamed, strict=True):
        assert isinstance(left, Snippet) and isinstance(right, Snippet)
        assert np.array_equal(left.frames_FHWC, right.frames_FHWC)


def test_a_vp8_frame_that_only_serves_others_is_not_shown(
    tmp_path: Path, config: ModelConfig, write_clip: Callable[..., Path], number_of: Number
) -> None:
    options = {"g": "24", "deadline": "realtime", "b": "1M"}
    whole = write_clip(tmp_path / "whole.webm", frames=48, codec="libvpx", options=options)
    path = tmp_path / "hidden.webm"
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for position, packet in enumerate(p for p in source.demux(video=0) if p.size):
            data = bytearray(bytes(packet))
            if position == 10:
                # The bit of the frame's tag that says "show".
                data[0] &= 0xEF
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            out.mux(copy)
    expected = [9 if k == 10 else k for k in range(48)]
    for reader in ("pyav", "auto"):
        assert numbers(path, config, Sampling(rate_hz=24), number_of, reader) == expected  # type: ignore[arg-type]


def test_frames_hidden_by_an_edit_list_are_not_shown(
    tmp_path: Path, config: ModelConfig, write_clip: Callable[..., Path], number_of: Number
) -> None:
    """A cut that begins between key frames: the frames before it are decoded and hidden, zero is the first shown."""
    whole = write_clip(tmp_path / "whole.mp4", frames=120, options={"g": "60", "bf": "2"})
    path = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        video = source.streams.video[0]
        stream = out.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.size:
                packet.stream = stream
                shift = round(Fraction(10, 24) / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                out.mux(packet)
    info = probe(path)
    assert info.video.start_ns == 0
    with av.open(str(path)) as source:
        hidden = sum(packet.is_discard for packet in source.demux(video=0))
    assert hidden == 10
    shown = numbers(path, config, Sampling(rate_hz=24), number_of)
    assert shown == list(range(10, 120))


def test_sparse_samples_remux_only_what_they_need(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=720, options={"g": "24"})
    segments = segments_of(path, Sampling(rate_hz=0.1))
    assert [s.first_sample for s in segments] == [0, 1, 2]
    assert sum(s.size_bytes for s in segments) < path.stat().st_size


def test_the_rule_in_words() -> None:
    if not decord_is_here():
        pytest.skip("decord is not installed")
    assert choose_route("h264", "yuv420p", True, True) == ("decord", "8-bit h264 in closed groups of pictures")
    assert choose_route("av1", "yuv420p", True, True)[0] == "pyav"
    assert choose_route("hevc", "yuv420p10le", True, True) == ("pyav", "decord is not exact on yuv420p10le")
    assert choose_route("hevc", "yuv420p", False, True) == ("pyav", "an open group of pictures")
    assert choose_route("h264", "yuv420p", True, False)[0] == "pyav"


def test_pyav_takes_over_where_decord_counts_differently(
    tmp_path: Path, write_clip: Callable[..., Path], number_of: Number
) -> None:
    if not decord_is_here():
        pytest.skip("decord is not installed")
    path = write_clip(tmp_path / "clip.mp4", frames=96, options={"g": "24"})
    segment = segments_of(path, Sampling(rate_hz=24))[0]
    assert decode_segment(segment).route == "decord"
    wrong = replace(segment, packets=segment.packets + 1)
    pictures = decode_segment(wrong)
    assert pictures.route == "pyav" and not pictures.damage
    assert [number_of(p) for p in pictures.frames_NHWC] == list(range(len(segment.sample_ns)))
    forced = decode_segment(wrong, reader="decord")
    assert not forced.mask_N.any() and "counts" in forced.damage[0].message


def test_what_passes_between_the_stages_can_be_pickled(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    sound = np.zeros(96_000, np.float32)
    path = write_clip(tmp_path / "clip.mp4", frames=48, options={"g": "24"}, sound=sound)
    info = pickle.loads(pickle.dumps(probe(path)))
    plan = pickle.loads(pickle.dumps(make_plan(info, Sampling(rate_hz=8), 8)))
    for item in demux(info, plan, FORM):
        copy = pickle.loads(pickle.dumps(item))
        assert type(copy) is type(item)
        if isinstance(item, Segment):
            left, right = decode_segment(item), decode_segment(copy)
            assert np.array_equal(left.frames_NHWC, right.frames_NHWC)
            assert np.array_equal(pickle.loads(pickle.dumps(left)).mask_N, left.mask_N)


@settings(max_examples=12)
@given(st.integers(min_value=0, max_value=29), st.sampled_from([8.0, 24.0, 5.3]))
def test_a_resumed_reading_is_bitwise_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    config: ModelConfig,
    write_clip: Callable[..., Path],
    first: int,
    rate_hz: float,
) -> None:
    path = tmp_path_factory.getbasetemp() / "resume.mp4"
    if not path.exists():
        wave = np.random.default_rng(0).normal(0, 0.1, 48_000 * 10).astype(np.float32)
        options = {"g": "50", "bf": "2", "sc_threshold": "0"}
        write_clip(path, frames=240, options=options, sound=wave)
    info = probe(path)
    sampling = Sampling(rate_hz=rate_hz)
    whole = [i for i in read_snippets(info, config, sampling) if isinstance(i, Snippet)]
    rest = [i for i in read_snippets(info, config, sampling, first=first) if isinstance(i, Snippet)]
    assert [s.index for s in rest] == [s.index for s in whole[first:]]
    for left, right in zip(whole[first:], rest, strict=True):
        assert (left.start_ns, left.stop_ns) == (right.start_ns, right.stop_ns)
        assert left.frames_FHWC.tobytes() == right.frames_FHWC.tobytes()
        assert left.sound_AM.tobytes() == right.sound_AM.tobytes()
        assert left.frame_mask_F.tobytes() == right.frame_mask_F.tobytes()
        assert left.mel_mask_A.tobytes() == right.mel_mask_A.tobytes()


def test_a_resumed_reading_of_a_long_group_is_bitwise_the_same(
    tmp_path: Path, config: ModelConfig, write_clip: Callable[..., Path]
) -> None:
    path = write_clip(tmp_path / "long.mp4", frames=400, options={"g": "400", "bf": "2", "sc_threshold": "0"})
    info = probe(path)
    whole = list(read_snippets(info, config, Sampling(rate_hz=8)))
    rest = list(read_snippets(info, config, Sampling(rate_hz=8), first=7))
    assert len(whole) == 17 and len(rest) == 10
    for left, right in zip(whole[7:], rest, strict=True):
        assert isinstance(left, Snippet) and isinstance(right, Snippet)
        assert left.frames_FHWC.tobytes() == right.frames_FHWC.tobytes()


def test_segments_are_a_few_seconds_and_flat(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=1680, options={"g": "24", "sc_threshold": "0"})
    # Many pictures are wanted: eight seconds are worth a decoder's call. Few are: 24 seconds are, and 32 at most.
    for rate_hz, seconds in ((24, 8), (8, 24), (1, 32)):
        lengths_ns = [s.stop_ns - s.start_ns for s in segments_of(path, Sampling(rate_hz=rate_hz))]
        assert set(lengths_ns[:-1]) == {seconds * 10**9}
        assert sum(lengths_ns) == 70 * 10**9
    segments = segments_of(path, Sampling(rate_hz=24))
    for left, right in itertools.pairwise(segments):
        assert left.stop_ns == right.start_ns


def test_the_groups_of_a_common_encoder_are_collected(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    path = write_clip(tmp_path / "film.mp4", frames=600, options={"g": "250", "sc_threshold": "0"})
    lengths = [s.packets for s in segments_of(path, Sampling(rate_hz=24))]
    assert lengths == [250, 250, 100]
