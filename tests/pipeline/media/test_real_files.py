"""Every real file: the expected snippets, and each picture the one that is on screen at its sample's time.

The truth is read apart: a plain PyAV loop over the whole file, with exact timestamps, no segments and no plan.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from longtake.operators.model.config import ModelConfig
from longtake.pipeline.media.decode import Scaler, decord_is_here, placement_of
from longtake.pipeline.media.geometry import PictureFormat
from longtake.pipeline.media.plan import SECOND_NS, Sampling
from longtake.pipeline.media.probe import MediaInfo, probe
from longtake.pipeline.media.segment import Damage, Reader
from longtake.pipeline.media.snippets import Snippet, make_plan, read_snippets

# name: frames in the video stream, end (ns), snippets at 8 frames/s of 8, pictures in them
EXPECTED = {
    "av1.mkv": (125, 5_000_000_000, 5, 40),
    "big_buck_bunny_30s.webm": (720, 29_999_000_000, 30, 240),
    "chaplin.mp4": (241, 9_640_000_000, 10, 77),
    "corrupted.mp4": (49, 5_000_000_000, 5, 39),
    "delayed_start.mp4": (24, 960_000_000, 1, 8),
    "h265_10bit.mp4": (30, 1_000_000_000, 1, 8),
    "nasa_two_streams.mp4": (390, 13_013_000_000, 13, 104),
    "no_duration.webm": (74, 4_938_000_000, 5, 40),
    "pancake.mkv": (310, 10_333_000_000, 11, 83),
    "rotated_90.mov": (3, 100_000_000, 1, 1),
    "unordered_pts.mov": (4, 125_000_000, 1, 1),
}
# What decord gives exactly; the others take PyAV by the one rule.
EXACT_IN_DECORD = ("big_buck_bunny_30s.webm", "chaplin.mp4", "delayed_start.mp4", "nasa_two_streams.mp4")
EXACT_IN_DECORD += ("no_duration.webm", "pancake.mkv", "unordered_pts.mov")

Frames = Callable[[Path, int], Iterator[tuple[Fraction, Any]]]


def _read(
    info: MediaInfo, config: ModelConfig, sampling: Sampling, reader: Reader = "auto"
) -> tuple[list[Snippet], list[Damage]]:
    items = list(read_snippets(info, config, sampling, reader=reader))
    return [i for i in items if isinstance(i, Snippet)], [i for i in items if isinstance(i, Damage)]


def psnr(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> float:
    error = float(((left.astype(np.float64) - right) ** 2).mean())
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("name", EXPECTED)
def test_count_size_duration_and_timestamps(media: Path, config: ModelConfig, name: str) -> None:
    _, end_ns, count, pictures = EXPECTED[name]
    snippets, damage = _read(probe(media / name), config, Sampling(rate_hz=8))
    assert [s.index for s in snippets] == list(range(count))
    assert sum(int(s.frame_mask_F.sum()) for s in snippets) == pictures
    assert [s.start_ns for s in snippets] == [i * SECOND_NS for i in range(count)]
    assert [s.stop_ns for s in snippets] == [*[(i + 1) * SECOND_NS for i in range(count - 1)], end_ns]
    assert all(s.frames_FHWC.shape == (8, 64, 64, 3) for s in snippets)
    assert bool(damage) == (name == "corrupted.mp4")


@pytest.mark.parametrize("name", EXPECTED)
def test_every_frame_is_the_one_on_screen(media: Path, config: ModelConfig, pyav_frames: Frames, name: str) -> None:
    """As many samples as the file has frames, on both routes, against a plain loop over the whole file."""
    frames, end_ns, _, _ = EXPECTED[name]
    info = probe(media / name)
    shown = [(at_s, frame) for at_s, frame in pyav_frames(media / name, info.video.index)]
    assert len(shown) == frames
    times = [int((at_s - shown[0][0]) * SECOND_NS) for at_s, _ in shown]
    assert times == sorted(times)
    placement = placement_of(info.video.picture, PictureFormat(height=64, width=64))
    scaler = Scaler(placement)
    sampling = Sampling(frames=frames)
    plan = make_plan(info, sampling, 8)
    truth = {}
    for k in range(frames):
        at = bisect_right(times, plan.sample_ns(k)) - 1
        truth[k] = placement.place(scaler.scale(shown[at][1])[None])[0]
    readers: list[Reader] = ["pyav", "auto"]
    if name in EXACT_IN_DECORD and decord_is_here():
        readers.append("decord")
    for reader in readers:
        snippets, damage = _read(info, config, sampling, reader)
        assert snippets[-1].stop_ns == end_ns
        if name == "corrupted.mp4":
            assert damage
        else:
            assert not damage, damage
        got = 0
        for snippet in snippets:
            for j in np.flatnonzero(snippet.frame_mask_F):
                got += 1
                assert psnr(snippet.frames_FHWC[j], truth[snippet.index * 8 + int(j)]) >= 35, (reader, snippet.index, j)
        assert got == frames if name != "corrupted.mp4" else got >= 47


@pytest.mark.parametrize("name", EXACT_IN_DECORD)
def test_both_routes_agree(media: Path, config: ModelConfig, name: str) -> None:
    if not decord_is_here():
        pytest.skip("decord is not installed")
    info = probe(media / name)
    for sampling in (Sampling(rate_hz=8), Sampling(rate_hz=3.7), Sampling(frames=64)):
        decord, damage = _read(info, config, sampling, "decord")
        pyav, _ = _read(info, config, sampling, "pyav")
        assert not damage
        assert [s.index for s in decord] == [s.index for s in pyav]
        for left, right in zip(decord, pyav, strict=True):
            assert np.array_equal(left.frame_mask_F, right.frame_mask_F)
            assert np.array_equal(left.sound_AM, right.sound_AM)
            assert left.text == right.text
            for a, b in zip(left.frames_FHWC, right.frames_FHWC, strict=True):
                assert psnr(a, b) >= 35


def test_decord_forced_on_what_it_cannot_read_is_recorded(media: Path, config: ModelConfig) -> None:
    if not decord_is_here():
        pytest.skip("decord is not installed")
    for name in ("av1.mkv", "rotated_90.mov"):
        snippets, damage = _read(probe(media / name), config, Sampling(rate_hz=8), "decord")
        assert not snippets and damage[0].stage == "decode" and damage[0].message.startswith("decord: ")
        snippets, damage = _read(probe(media / name), config, Sampling(rate_hz=8), "auto")
        assert snippets and not damage


def test_a_rotated_picture_stands_upright(media: Path, make_config: Callable[..., ModelConfig]) -> None:
    """The phone's picture is 568 x 320 as coded and 320 x 568 as shown: black left and right, none above."""
    info = probe(media / "rotated_90.mov")
    snippets, _ = _read(info, make_config(height=128, width=128), Sampling(frames=3))
    picture = snippets[0].frames_FHWC[0]
    assert not picture[:, :27].any() and not picture[:, -27:].any()
    assert picture[0].any() and picture[-1].any()
    columns = np.flatnonzero(picture.any(axis=(0, 2)))
    assert abs((columns[-1] - columns[0] + 1) - 128 * 320 / 568) <= 2


def test_subtitles_are_the_windows_text(media: Path, config: ModelConfig) -> None:
    snippets, _ = _read(probe(media / "nasa_two_streams.mp4"), config, Sampling(rate_hz=8))
    assert snippets[0].text == "NAR: This is the optical and science segment of the Webb"
    assert "Goddard Space Flight Center" in " ".join(s.text for s in snippets)
    assert "<" not in "".join(s.text for s in snippets) and "{" not in "".join(s.text for s in snippets)


def test_a_budget_repeats_frames_where_the_file_has_fewer(media: Path, config: ModelConfig) -> None:
    snippets, damage = _read(probe(media / "rotated_90.mov"), config, Sampling(frames=20))
    assert not damage and len(snippets) == 3
    assert [int(s.frame_mask_F.sum()) for s in snippets] == [8, 8, 4]
    assert np.array_equal(snippets[0].frames_FHWC[0], snippets[0].frames_FHWC[5])


def test_a_video_shorter_than_a_period_has_one_picture(media: Path, config: ModelConfig) -> None:
    snippets, _ = _read(probe(media / "pancake.mkv"), config, Sampling(rate_hz=0.01))
    assert len(snippets) == 1 and snippets[0].frame_mask_F.tolist() == [True] + [False] * 7
    assert snippets[0].stop_ns == 10_333_000_000
