"""Picture and sound on one clock: flashes and beeps that happened together are read together."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from longtake.operators.model.config import ModelConfig
from longtake.operators.model.log_mel import log_mel
from longtake.pipeline.media.demux import demux
from longtake.pipeline.media.geometry import PictureFormat
from longtake.pipeline.media.plan import SECOND_NS, Sampling
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.segment import SoundChunk
from longtake.pipeline.media.snippets import Snippet, make_plan, read_snippets
from longtake.pipeline.media.sound.log_mel import BLOCK, MelStream
from longtake.pipeline.media.sound.reader import RATE_HZ

FLASHES_S = (Fraction(1), Fraction(5, 2), Fraction(49, 12))
BEEP_S = Fraction(1, 20)
SOUND_HZ = 48_000
FRAMES, FRAME_HZ = 144, 24

Clip = Callable[..., Path]
FORM = PictureFormat(height=64, width=64)


def _flash(number: int) -> NDArray[np.uint8]:
    lit = any(at <= Fraction(number, FRAME_HZ) < at + Fraction(1, FRAME_HZ) for at in FLASHES_S)
    return np.full((96, 160, 3), 250 if lit else 10, dtype=np.uint8)


def _beeps(delay_s: Fraction, seconds: int = 6) -> NDArray[np.float32]:
    """A track whose beeps fall on the flashes when it is played `delay_s` after the pictures' start."""
    wave = np.zeros(round((seconds - delay_s) * SOUND_HZ), np.float32)
    for at in FLASHES_S:
        start = round((at - delay_s) * SOUND_HZ)
        length = round(BEEP_S * SOUND_HZ)
        wave[start : start + length] = 0.5 * np.sin(2 * np.pi * 1000 / SOUND_HZ * np.arange(length))
    return wave


def whole_sound(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The continuous sound of a file, and where it has any."""
    info = probe(path)
    waves, heard, position = [], [], 0
    for item in demux(info, make_plan(info, Sampling(rate_hz=1), 8), FORM):
        if isinstance(item, SoundChunk):
            assert item.first == position
            position += item.samples
            waves.append(np.zeros(item.samples, np.float32) if item.wave_S is None else item.wave_S)
            heard.append(np.full(item.samples, item.wave_S is not None))
    return np.concatenate(waves), np.concatenate(heard)


@pytest.mark.parametrize("delay_s", [Fraction(0), Fraction(676, 1000), Fraction(-3, 10)])
@pytest.mark.parametrize(("suffix", "sound_codec"), [(".mp4", "aac"), (".mkv", "libopus"), (".mkv", "flac")])
def test_flash_and_beep_are_together(
    tmp_path: Path, config: ModelConfig, write_clip: Clip, delay_s: Fraction, suffix: str, sound_codec: str
) -> None:
    path = write_clip(
        tmp_path / f"flash{suffix}",
        frames=FRAMES,
        rate=FRAME_HZ,
        options={"g": "24", "bf": "2"},
        pictures=_flash,
        sound=_beeps(delay_s),
        sound_at_s=delay_s,
        sound_codec=sound_codec,
    )
    # The stream itself: each beep begins within 5 ms of its flash.
    wave, heard = whole_sound(path)
    for at in FLASHES_S:
        near = slice(int((at - Fraction(1, 4)) * RATE_HZ), int((at + Fraction(1, 4)) * RATE_HZ))
        onset_s = (near.start + int(np.argmax(np.abs(wave[near]) > 0.1))) / RATE_HZ
        assert abs(onset_s - float(at)) <= 0.005, (onset_s, at)
    silent_s = float(np.argmax(heard)) / RATE_HZ
    assert abs(silent_s - max(0.0, float(delay_s))) <= 0.03
    # The snippets: the lit picture is the right one, and the spectrogram's energy lies where the beep is.
    snippets = [s for s in read_snippets(probe(path), config, Sampling(rate_hz=FRAME_HZ)) if isinstance(s, Snippet)]
    lit = np.concatenate([s.frames_FHWC[s.frame_mask_F].mean(axis=(1, 2, 3)) for s in snippets]) > 60
    assert np.flatnonzero(lit).tolist() == [int(at * FRAME_HZ) for at in FLASHES_S]
    times_s, power = [], []
    for snippet in snippets:
        cell_ns = (snippet.stop_ns - snippet.start_ns) / config.audio.frames
        times_s.append((snippet.start_ns + (np.arange(config.audio.frames) + 0.5) * cell_ns) / SECOND_NS)
        level = 10 ** (snippet.sound_AM.astype(np.float64) * 2.5 - 5)
        power.append(np.where(snippet.mel_mask_A, level.sum(axis=1), 0))
    time_s, energy = np.concatenate(times_s), np.concatenate(power)
    for at in FLASHES_S:
        near_beep = np.abs(time_s - float(at)) < 0.25
        centre_s = float((time_s[near_beep] * energy[near_beep]).sum() / energy[near_beep].sum())
        assert abs(centre_s - float(at + BEEP_S / 2)) <= 0.005, (centre_s, at)
        # Nothing is heard before its time: the light comes no later than one frame after the sound.
        frame_s = int(at * FRAME_HZ) / FRAME_HZ
        assert abs(centre_s - float(BEEP_S / 2) - frame_s) <= 1 / FRAME_HZ + 0.005


def test_where_there_is_no_sound_the_mask_says_so(tmp_path: Path, config: ModelConfig, write_clip: Clip) -> None:
    """A track of 2 s that starts 1.5 s late, in a video of 6 s."""
    noise = np.random.default_rng(0).normal(0, 0.2, 2 * SOUND_HZ).astype(np.float32)
    path = write_clip(tmp_path / "part.mp4", frames=FRAMES, sound=noise, sound_at_s=Fraction(3, 2))
    snippets = [s for s in read_snippets(probe(path), config, Sampling(rate_hz=8)) if isinstance(s, Snippet)]
    shares = [float(s.mel_mask_A.mean()) for s in snippets]
    assert shares[0] == 0 and shares[2] == 1 and shares[4] == shares[5] == 0
    assert 0.4 < shares[1] < 0.6 and 0.4 < shares[3] < 0.6
    for snippet in snippets:
        assert not snippet.sound_AM[~snippet.mel_mask_A].any()
        if snippet.mel_mask_A.any():
            assert snippet.sound_AM[snippet.mel_mask_A].std() > 0.05


def test_a_video_without_sound(tmp_path: Path, config: ModelConfig, write_clip: Clip) -> None:
    path = write_clip(tmp_path / "silent.mp4", frames=48)
    snippets = [s for s in read_snippets(probe(path), config, Sampling(rate_hz=8)) if isinstance(s, Snippet)]
    assert len(snippets) == 2
    assert not any(s.mel_mask_A.any() or s.sound_AM.any() for s in snippets)


def test_a_tone_keeps_its_pitch_and_length_after_resampling(tmp_path: Path, write_clip: Clip) -> None:
    seconds = 5
    tone = 0.5 * np.sin(2 * np.pi * 440 / 44_100 * np.arange(44_100 * seconds)).astype(np.float32)
    path = write_clip(
        tmp_path / "tone.mkv", frames=120, sound=tone, sound_rate_hz=44_100, sound_codec="flac", options={"g": "24"}
    )
    wave, heard = whole_sound(path)
    assert heard.all() and abs(len(wave) - seconds * RATE_HZ) <= 2
    expected = 0.5 * np.sin(2 * np.pi * 440 / RATE_HZ * np.arange(len(wave)))
    middle = slice(RATE_HZ // 10, -RATE_HZ // 10)
    assert np.abs(wave[middle] - expected[middle]).max() < 0.01


def test_a_gap_in_the_sound_stays_a_gap(tmp_path: Path, write_clip: Clip) -> None:
    """A recording that lost one second in the middle: what follows is not moved forward."""
    click = np.zeros(6 * SOUND_HZ, np.float32)
    click[round(1.0 * SOUND_HZ) :][:2400] = 0.5
    click[round(4.0 * SOUND_HZ) :][:2400] = 0.5
    whole = write_clip(tmp_path / "whole.mkv", frames=FRAMES, sound=click, sound_codec="flac", options={"g": "24"})
    path = tmp_path / "gap.mkv"
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            at_s = float(packet.pts * packet.time_base) if packet.pts is not None else 0.0
            if packet.size and not (packet.stream.type == "audio" and 2 <= at_s < 3):
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
    wave, heard = whole_sound(path)
    for at_s in (1.0, 4.0):
        near = slice(int((at_s - 0.25) * RATE_HZ), int((at_s + 0.25) * RATE_HZ))
        assert abs((near.start + int(np.argmax(wave[near] > 0.1))) / RATE_HZ - at_s) <= 0.005
    assert not heard[int(2.15 * RATE_HZ) : int(2.95 * RATE_HZ)].any()
    assert heard[int(3.1 * RATE_HZ) : int(5.9 * RATE_HZ)].all()


def test_sound_that_ends_early_is_not_waited_for(tmp_path: Path, config: ModelConfig, write_clip: Clip) -> None:
    """One second of sound in a video of a minute: the snippets come while the file is read, not at its end."""
    noise = np.random.default_rng(0).normal(0, 0.2, SOUND_HZ).astype(np.float32)
    path = write_clip(tmp_path / "early.mp4", frames=480, rate=8, sound=noise, options={"g": "16"})
    info = probe(path)
    plan = make_plan(info, Sampling(rate_hz=1), 8)
    reached, silence = 0, 0
    for item in demux(info, plan, FORM):
        if isinstance(item, SoundChunk):
            silence += item.samples if item.wave_S is None else 0
        elif hasattr(item, "stop_ns"):
            reached = item.stop_ns
            assert silence / RATE_HZ >= reached / SECOND_NS - 20
    assert reached == 60 * SECOND_NS


@settings(max_examples=25)
@given(st.lists(st.integers(min_value=1, max_value=30_000), min_size=1, max_size=12), st.integers(0, 5))
def test_the_spectrogram_does_not_depend_on_the_chunks(config: ModelConfig, cuts: list[int], first: int) -> None:
    """Chunks of any size, and a start at a later window, give the spectrogram of the whole."""
    total = sum(cuts)
    wave = np.random.default_rng(total).normal(0, 0.1, total).astype(np.float32)
    whole_NM = log_mel(torch.from_numpy(wave), config.audio)
    half_s_ns = SECOND_NS // 2
    stream = MelStream(config.audio, first_ns=first * half_s_ns)
    at = 0
    for size in cuts:
        stream.push(SoundChunk(first=at, samples=size, wave_S=wave[at : at + size].copy()))
        at += size
    stream.end()
    for index in range(first, total * 2 // RATE_HZ + 1):
        mel, mask = stream.window(index * half_s_ns, (index + 1) * half_s_ns)
        # Fifty frames to sixty-four cells: compare with the same cut of the whole.
        inside = whole_NM[index * 50 : (index + 1) * 50].numpy()
        if len(inside) == 50 and (index + 1) * RATE_HZ // 2 <= total:
            assert mask.all()
            assert abs(float(mel.mean()) - float(inside.mean())) < 0.05
            assert mel.min() >= inside.min() - 1e-4 and mel.max() <= inside.max() + 1e-4
        if index * RATE_HZ // 2 > total:
            assert not mask.any()


def test_blocks_cover_a_window_as_soon_as_its_sound_is_there(config: ModelConfig) -> None:
    stream = MelStream(config.audio)
    wave = np.zeros(RATE_HZ, np.float32)
    for second in range(22):
        assert stream.covers(second * SECOND_NS - 11 * SECOND_NS) or second < 11
        stream.push(SoundChunk(first=second * RATE_HZ, samples=RATE_HZ, wave_S=wave))
    assert stream.covers(20 * SECOND_NS) and not stream.covers(22 * SECOND_NS)
    with pytest.raises(ValueError, match="follows sample"):
        stream.push(SoundChunk(first=0, samples=RATE_HZ, wave_S=wave))
    assert BLOCK * config.audio.hop == 10 * RATE_HZ
