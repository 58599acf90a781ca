"""Damaged files: what can be recovered is there and right, what cannot is masked, and both are recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtake.errors import MediaError
from longtake.operators.model.config import ModelConfig
from longtake.pipeline.media.plan import SECOND_NS, Sampling
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.snippets import Damage, Snippet, read_snippets

Clip = Callable[..., Path]
Number = Callable[[Any], int]
RATE = Sampling(rate_hz=24)


def read(path: Path, config: ModelConfig, sampling: Sampling = RATE) -> tuple[list[Snippet], list[Damage]]:
    items = list(read_snippets(probe(path), config, sampling))
    return [i for i in items if isinstance(i, Snippet)], [i for i in items if isinstance(i, Damage)]


def shown(snippets: list[Snippet], number_of: Number) -> dict[int, int]:
    """The number on screen of each sample that is not masked."""
    return {s.index * 8 + int(j): number_of(s.frames_FHWC[j]) for s in snippets for j in np.flatnonzero(s.frame_mask_F)}


def test_the_corrupted_file_keeps_what_can_be_recovered(media: Path, config: ModelConfig) -> None:
    snippets, damage = read(media / "corrupted.mp4", config, Sampling(rate_hz=10))
    # Ten pictures a second for five seconds; the one at 3.0 s is lost.
    masks = np.concatenate([s.frame_mask_F for s in snippets])[:50]
    assert np.flatnonzero(~masks).tolist() == [30]
    assert [(d.stage, d.start_ns, d.stop_ns) for d in damage] == [("decode", 3_000_000_000, 3_100_000_000)]
    assert "1 frame could not be decoded" in damage[0].message
    assert all(s.frames_FHWC[s.frame_mask_F].any(axis=(1, 2, 3)).all() for s in snippets)


@pytest.mark.parametrize(
    ("suffix", "muxer_options"), [(".mp4", {"movflags": "+faststart"}), (".mkv", {}), (".ts", {}), (".flv", {})]
)
def test_a_truncated_file_gives_all_that_is_there(
    tmp_path: Path, config: ModelConfig, write_clip: Clip, number_of: Number, suffix: str, muxer_options: dict[str, str]
) -> None:
    options = {"g": "24", "bf": "2"}
    whole = write_clip(tmp_path / f"whole{suffix}", frames=240, options=options, muxer_options=muxer_options)
    path = tmp_path / f"cut{suffix}"
    data = whole.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    snippets, damage = read(path, config)
    numbers = shown(snippets, number_of)
    assert 100 <= len(numbers) <= 200
    # The picture that the cut went through may be a mixture; all the others are exact.
    wrong = [k for k, number in numbers.items() if k != number]
    assert len(wrong) <= 3 and all(k >= len(numbers) - 6 for k in wrong), wrong
    if suffix != ".ts":
        # A transport stream states no length.
        assert any(d.stage == "demux" for d in damage), damage
        assert max(d.stop_ns for d in damage) >= 9 * SECOND_NS
    # A budget is spread over what is there.
    budget, _ = read(path, config, Sampling(frames=16))
    assert len(budget) == 2 and all(s.frame_mask_F.any() for s in budget)


def test_a_damaged_middle_costs_its_own_pictures_only(
    tmp_path: Path, config: ModelConfig, write_clip: Clip, number_of: Number
) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=480, options={"g": "48", "bf": "2", "sc_threshold": "0"})
    with av.open(str(path)) as source:
        packets = [(p.pos, p.size, p.is_keyframe) for p in source.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    # From the key frame of the sixth group through the next twenty frames: nothing but zeros.
    start, stop = packets[240][0], packets[260][0]
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    snippets, damage = read(path, config)
    numbers = shown(snippets, number_of)
    assert all(numbers[k] == k for k in [*range(239), *range(288, 480)])
    lost = set(range(480)) - set(numbers)
    assert lost and all(238 <= k < 288 for k in lost)
    assert damage and all(d.stage == "decode" for d in damage)
    assert min(d.start_ns for d in damage) >= 238 * SECOND_NS // 24
    assert max(d.stop_ns for d in damage) <= 289 * SECOND_NS // 24
    # A window in which nothing is left is damage and not a snippet, and the others keep their numbers.
    gone = [d for d in damage if d.error == "NoPicture"]
    assert {s.index for s in snippets} == set(range(60)) - {round(d.start_ns * 3 / SECOND_NS) for d in gone}


def test_noise_in_a_matroska_file_does_not_end_the_reading(
    tmp_path: Path, config: ModelConfig, write_clip: Clip, number_of: Number
) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 48_000 * 20).astype(np.float32)
    path = write_clip(tmp_path / "clip.mkv", frames=480, options={"g": "24", "sc_threshold": "0"}, sound=sound)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = np.random.default_rng(1).integers(0, 256, 4000, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    snippets, _ = read(path, config)
    numbers = shown(snippets, number_of)
    right = [k for k, number in numbers.items() if k == number]
    assert len(right) >= 400 and 479 in right
    assert np.mean([s.mel_mask_A.mean() for s in snippets]) > 0.8


def test_time_that_goes_back_is_recorded(
    tmp_path: Path, config: ModelConfig, write_clip: Clip, number_of: Number
) -> None:
    """Two recordings joined with `cat`: the second begins again at the first one's start."""
    first = write_clip(tmp_path / "a.ts", frames=90, options={"g": "24", "sc_threshold": "0"})
    second = write_clip(tmp_path / "b.ts", frames=144, options={"g": "24", "sc_threshold": "0"})
    path = tmp_path / "joined.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    snippets, damage = read(path, config)
    assert [d.error for d in damage] == ["TimeGoesBack"] and damage[0].stage == "demux"
    # From the last picture of the first to the next key frame that is later.
    assert (damage[0].start_ns, damage[0].stop_ns) == (89 * SECOND_NS // 24, 4 * SECOND_NS)
    numbers = shown(snippets, number_of)
    assert [numbers[k] for k in range(90)] == list(range(90))
    assert all(numbers[k] == k for k in range(96, 144))


SMALL = ("av1.mkv", "unordered_pts.mov", "rotated_90.mov", "delayed_start.mp4", "h265_10bit.mp4")


@settings(max_examples=25)
@given(
    st.sampled_from(SMALL),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=60)), min_size=1, max_size=6),
)
def test_whatever_the_damage_a_file_gives_snippets_or_one_clear_error(
    media: Path,
    tmp_path_factory: pytest.TempPathFactory,
    config: ModelConfig,
    name: str,
    changes: list[tuple[float, bytes]],
) -> None:
    data = bytearray((media / name).read_bytes())
    for place, new in changes:
        at = int(place * (len(data) - 1))
        data[at : at + len(new)] = new[: len(data) - at]
    path = tmp_path_factory.getbasetemp() / f"changed{Path(name).suffix}"
    path.write_bytes(data)
    try:
        info = probe(path)
        items = list(read_snippets(info, config, Sampling(rate_hz=8)))
    except MediaError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return
    assert items
    indices = [i.index for i in items if isinstance(i, Snippet)]
    assert indices == sorted(set(indices))
    for item in items:
        assert item.stop_ns > item.start_ns >= 0
        if isinstance(item, Damage):
            assert item.message and "\n" not in item.message


def test_a_file_that_vanishes_after_probing_is_one_clear_error(
    tmp_path: Path, config: ModelConfig, write_clip: Clip
) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=48)
    info = probe(path)
    path.unlink()
    with pytest.raises(MediaError, match="could be probed but not opened again"):
        list(read_snippets(info, config, RATE))


def test_damaged_sound_is_recorded_and_leaves_silence(tmp_path: Path, config: ModelConfig, write_clip: Clip) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 48_000 * 6).astype(np.float32)
    path = write_clip(tmp_path / "clip.mkv", frames=144, options={"g": "24"}, sound=sound, sound_codec="flac")
    with av.open(str(path)) as source:
        packets = [(p.pos, p.size, float(p.pts * p.time_base)) for p in source.demux(audio=0) if p.size]
    data = bytearray(path.read_bytes())
    for pos, size, at_s in packets:
        if 2.5 <= at_s < 3.5:
            # The frame's header and body, behind the block's own few bytes.
            data[pos + 12 : pos + size] = bytes(size - 12)
    path.write_bytes(data)
    snippets, damage = read(path, config, Sampling(rate_hz=8))
    assert any(d.stage == "sound" for d in damage)
    assert snippets[1].mel_mask_A.all() and snippets[4].mel_mask_A.all()
    assert snippets[2].mel_mask_A.mean() < 0.8 or snippets[3].mel_mask_A.mean() < 0.8
