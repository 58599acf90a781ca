"""Waves cut to windows: every sample in the one window it belongs to, whatever the chunks and the windows are."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtake.errors import InputError
from longtake.operators.model.config import AudioConfig, PretrainedConfig
from longtake.pipeline.media.plan import SECOND_NS, plan_rate
from longtake.pipeline.media.segment import SoundChunk
from longtake.pipeline.media.sound.wave import WaveStream

RATE_HZ = 16_000


def config(samples: int) -> AudioConfig:
    return AudioConfig(frames=samples, pretrained=PretrainedConfig(source="anywhere"))


@settings(max_examples=60)
@given(
    st.floats(1.5, 40), st.integers(1, 3), st.lists(st.integers(1, 9000), min_size=1, max_size=12), st.integers(0, 11)
)
def test_every_sample_is_in_its_window(rate_hz: float, pictures: int, chunks: list[int], silent: int) -> None:
    # Sample n has the value n + 1; one chunk is silence.
    plan = plan_rate(rate_hz, pictures)
    room = int(plan.period_ns * pictures * RATE_HZ / SECOND_NS) + 1
    stream, known, at = WaveStream(config(room)), np.zeros(sum(chunks), np.float32), 0
    index = 0
    found: list[tuple[int, np.ndarray, np.ndarray]] = []

    def cut_what_is_whole() -> None:
        nonlocal index
        while plan.window_start_ns(index) * RATE_HZ < len(known) * SECOND_NS:
            start_ns, stop_ns = plan.window_start_ns(index), plan.window_start_ns(index + 1)
            if not stream.covers(stop_ns):
                return
            wave, mask = stream.window(start_ns, stop_ns)
            assert wave.shape == (room, 1) and wave.dtype == np.float32 and mask.shape == (room,)
            found.append((start_ns, wave[:, 0], mask))
            index += 1

    for number, samples in enumerate(chunks):
        wave = None if number == silent else np.arange(at + 1, at + samples + 1, dtype=np.float32)
        if wave is not None:
            known[at : at + samples] = wave
        stream.push(SoundChunk(first=at, samples=samples, wave_S=wave))
        at += samples
        cut_what_is_whole()
    stream.end()
    cut_what_is_whole()
    heard = np.concatenate([wave[mask] for _, wave, mask in found])
    assert heard.tolist() == known[known > 0].tolist()
    for start_ns, wave, mask in found:
        assert not wave[~mask].any()
        # The first place of a window is the first sample at or after its start.
        if mask[0]:
            assert int(wave[0]) - 1 == -(-Fraction(start_ns * RATE_HZ, SECOND_NS) // 1)


def test_a_window_longer_than_the_encoder_hears_is_refused() -> None:
    stream = WaveStream(config(RATE_HZ))
    stream.end()
    assert stream.window(0, SECOND_NS)[0].shape == (RATE_HZ, 1)
    with pytest.raises(InputError, match=r"a snippet of 1\.5 s is longer than the 1 s that the model's audio encoder"):
        stream.window(SECOND_NS, 5 * SECOND_NS // 2)


def test_sound_that_does_not_follow_is_refused() -> None:
    with pytest.raises(ValueError, match="sound of sample 7 follows sample 0"):
        WaveStream(config(8)).push(SoundChunk(first=7, samples=3, wave_S=None))
