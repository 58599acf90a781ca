"""Mel frames for a public model: those of the whole wave, whatever the chunks and the place of a resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers", minversion="5.18")

from longtake.operators.hub.mel_front import MelFront
from longtake.operators.vlm.sound import whole_mel
from longtake.pipeline.media.plan import SECOND_NS
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.segment import SoundChunk
from longtake.pipeline.media.sound.reader import RATE_HZ, SoundReader
from longtake.pipeline.media.sound.whisper_mel import FrontStream, loudest_mel

FRONT = MelFront(mels=16)
WINDOW_NS = 2 * SECOND_NS


def noise(samples: int) -> np.ndarray:
    loud = np.linspace(0.001, 0.5, samples)
    return (np.random.default_rng(1).standard_normal(samples) * loud).astype(np.float32)


def chunks(wave: np.ndarray, sizes: list[int]) -> list[SoundChunk]:
    edges = np.cumsum([0, *sizes])
    return [
        SoundChunk(first=int(at), samples=size, wave_S=wave[at : at + size])
        for at, size in zip(edges[:-1], sizes, strict=True)
    ]


def windows(stream: FrontStream, pieces: list[SoundChunk], end_ns: int, first: int = 0) -> list[np.ndarray]:
    """Every window's frames, each cut out as soon as it can be."""
    made, number = [], first

    def cut_out(known_ns: int) -> None:
        nonlocal number
        while number * WINDOW_NS < end_ns and stream.covers(stop_ns := min((number + 1) * WINDOW_NS, end_ns)):
            mel_NM, sound_N = stream.window(number * WINDOW_NS, stop_ns)
            made.append(mel_NM[sound_N])
            number += 1

    for piece in pieces:
        stream.push(piece)
        cut_out(0)
    stream.end()
    cut_out(end_ns)
    return made


@settings(max_examples=10)
@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=5), st.integers(0, 2))
def test_windows_are_cut_from_the_frames_of_the_whole(sizes: list[int], first: int) -> None:
    wave = noise(max(sum(sizes), 500))
    sizes = [*sizes, *([len(wave) - sum(sizes)] if len(wave) > sum(sizes) else [])]
    end_ns = -(-len(wave) * SECOND_NS // RATE_HZ)
    whole_NM, peak = whole_mel(torch.from_numpy(wave), FRONT)
    made = windows(FrontStream(FRONT), chunks(wave, sizes), end_ns)
    torch.testing.assert_close(torch.from_numpy(np.concatenate(made)), whole_NM, rtol=0, atol=1e-5)
    # A resumed job hears bit for bit the same, whatever the chunks.
    later = FrontStream(FRONT, first_ns=first * WINDOW_NS)
    again = windows(later, chunks(wave, [len(wave)]), end_ns, first)
    assert len(again) == len(made[first:])
    assert all(np.array_equal(one, other) for one, other in zip(again, made[first:], strict=True))
    loud = FrontStream(FRONT)
    heard = [peak for piece in chunks(wave, sizes) for peak in (loud.push(piece), loud.loudest()) if peak is not None]
    loud.end()
    assert max(*heard, loud.loudest()) == pytest.approx(peak, abs=1e-5)


def test_a_gap_is_silence_and_the_end_is_nothing() -> None:
    wave = noise(RATE_HZ)
    stream = FrontStream(FRONT)
    for first, samples, heard in ((0, RATE_HZ, wave), (RATE_HZ, 4 * RATE_HZ, None), (5 * RATE_HZ, RATE_HZ, wave)):
        stream.push(SoundChunk(first=first, samples=samples, wave_S=heard))
    stream.end()
    mel_NM, sound_N = stream.window(0, WINDOW_NS)
    assert sound_N[:100].all() and not sound_N[100:].any() and (mel_NM[110:] == -10.0).all()
    mel_NM, sound_N = stream.window(WINDOW_NS, 2 * WINDOW_NS)
    assert mel_NM.shape == (200, 16) and not sound_N.any()
    # The sound comes back in the middle of the third window, and ends with it.
    mel_NM, sound_N = stream.window(2 * WINDOW_NS, 4 * WINDOW_NS)
    assert sound_N.tolist() == [False] * 100 + [True] * 100 + [False] * 200
    assert (mel_NM[:90] == -10.0).all() and (mel_NM[100:200].max() > -5.0)


def test_the_loudest_value_of_a_real_file(media: Path) -> None:
    info = probe(media / "chaplin.mp4")
    assert info.audio is not None
    from longtake.pipeline.media.probe import open_media

    waves = []
    with open_media(info.path) as container:
        reader = SoundReader(container.streams[info.audio.index], info.video.start_ns)
        for packet in container.demux(container.streams[info.audio.index]):
            waves += [item.wave_S for item in reader.read(packet) if isinstance(item, SoundChunk)]
        waves += [item.wave_S for item in reader.finish()]
    _, peak = whole_mel(torch.from_numpy(np.concatenate([wave for wave in waves if wave is not None])), FRONT)
    assert loudest_mel(info, FRONT) == pytest.approx(peak, abs=1e-5) and peak > -5.0
