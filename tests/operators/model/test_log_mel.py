"""Log-mel spectrograms: where a frame lies in time, what a level means, and the cut into a snippet's frames."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from longtake.operators.model.config import AudioConfig, TransformerConfig
from longtake.operators.model.log_mel import frame_centres_ns, log_mel, resample_frames

CONFIG = AudioConfig(frames=32, mels=40, patch=(4, 40), encoder=TransformerConfig(depth=0, heads=1))
MS = 1_000_000


def slaney_mel(hz: float) -> float:
    """The mel scale of Slaney's Auditory Toolbox: linear to 1 kHz, logarithmic above."""
    return hz * 3 / 200 if hz < 1000 else 15 + math.log(hz / 1000) * 27 / math.log(6.4)


def test_silence_is_minus_two_and_ten_times_the_power_is_two_fifths() -> None:
    assert torch.equal(log_mel(torch.zeros(16_000), CONFIG), torch.full((101, 40), -2.0))
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16_000) / 16_000)
    quiet, loud = log_mel(tone * 0.05, CONFIG), log_mel(tone * 0.05 * math.sqrt(10), CONFIG)
    band = int(loud[50].argmax())
    assert float(loud[50, band] - quiet[50, band]) == pytest.approx(0.4, abs=1e-4)


@pytest.mark.parametrize("hz", [300, 1000, 2500, 6000])
def test_a_tone_is_loudest_in_its_own_band(hz: int) -> None:
    mel = log_mel(torch.sin(2 * math.pi * hz * torch.arange(16_000) / 16_000), CONFIG)
    # Band b peaks at the (b + 1)-th of 42 points evenly spaced in mel from 0 to 8 kHz.
    nearest = slaney_mel(hz) / slaney_mel(8000) * 41 - 1
    assert abs(int(mel[50].argmax()) - nearest) <= 1.0


def test_frame_k_is_centred_at_sample_160_k() -> None:
    wave = torch.zeros(16_000)
    wave[160 * 37] = 1.0
    energy = log_mel(wave, CONFIG).mean(dim=1)
    assert int(energy.argmax()) == 37
    torch.testing.assert_close(energy[36], energy[38], rtol=0, atol=1e-4)
    # Its window is 400 samples: it reaches one frame to each side, not two.
    assert energy[36] > -1.9
    assert float(energy[35]) == float(energy[39]) == -2.0
    centres = frame_centres_ns(37, 3, CONFIG)
    assert centres.tolist() == [370 * MS, 380 * MS, 390 * MS]
    # A day in, still exact.
    assert frame_centres_ns(8_640_000, 1, CONFIG).item() == 86_400 * 1_000 * MS


def test_pieces_of_a_stream_have_the_frames_of_the_whole() -> None:
    torch.manual_seed(0)
    wave = torch.randn(16_000)
    whole = log_mel(wave, CONFIG)
    # From 10 frames in; two frames at each end of a piece reach over its edge.
    piece = log_mel(wave[1600:9600], CONFIG)
    torch.testing.assert_close(piece[2:-2], whole[12:59], rtol=0, atol=1e-5)
    both = log_mel(torch.stack([wave, wave * 0.1]), CONFIG)
    assert both.shape == (2, 101, 40)
    torch.testing.assert_close(both[0], whole, rtol=0, atol=1e-6)


def plain_resample(mel_NM: Tensor, centres: list[int], start: int, stop: int, frames: int) -> list[Tensor | None]:
    """Each cell's mean of the mel frames inside the window, by how long each frame's 10 ms lie in the cell."""
    cells: list[Tensor | None] = []
    for cell in range(frames):
        low, high = (start + (stop - start) * (cell + i) / frames for i in (0, 1))
        total, weight = torch.zeros(mel_NM.shape[1], dtype=torch.float64), 0.0
        for row, centre in zip(mel_NM.double(), centres, strict=True):
            shared = min(high, centre + 5 * MS) - max(low, centre - 5 * MS)
            if start <= centre < stop and shared > 0:
                total, weight = total + row * shared, weight + shared
        cells.append(total / weight if weight > 1 else None)
    return cells


@settings(max_examples=40)
@given(st.integers(0, 400_000_000), st.integers(100_000_000, 3_000_000_000), st.integers(1, 40), st.integers(0, 2**31))
def test_resampling_is_the_mean_over_the_time_that_frames_share_with_a_cell(
    start: int, length: int, frames: int, seed: int
) -> None:
    torch.manual_seed(seed)
    stop = start + length
    centres = frame_centres_ns(0, 250, CONFIG)
    mel = torch.randn(250, 6)
    out, mask = resample_frames(mel, centres, start, stop, frames)
    assert out.shape == (frames, 6)
    assert mask.shape == (frames,)
    for cell, wanted in enumerate(plain_resample(mel, centres.tolist(), start, stop, frames)):
        if wanted is not None:
            assert mask[cell]
            torch.testing.assert_close(out[cell].double(), wanted, rtol=0, atol=1e-4)


@settings(max_examples=60)
@given(st.integers(0, 10**13), st.integers(320_000_000, 60_000_000_000))
def test_a_window_full_of_sound_has_no_hole(start: int, length: int) -> None:
    # Wherever it starts between frames, and from a third of a second to a minute.
    first = start // (10 * MS)
    count = length // (10 * MS) + 2
    centres = frame_centres_ns(first, count, CONFIG)
    out, mask = resample_frames(torch.ones(count, 2), centres, start, start + length, 32)
    assert mask.all()
    torch.testing.assert_close(out, torch.ones(32, 2), rtol=0, atol=1e-5)


def test_where_sound_begins_and_ends_is_masked() -> None:
    # Sound from 0.5 s to 0.75 s of a window of one second, in 8 cells.
    centres = frame_centres_ns(50, 25, CONFIG)
    out, mask = resample_frames(torch.ones(25, 2), centres, 0, 1000 * MS, 8)
    # The frame at 0.5 s stands for the time from 0.495 s on, which is in the cell before.
    assert mask.tolist() == [False, False, False, True, True, True, False, False]
    assert torch.equal(out[~mask], torch.zeros(5, 2))
    torch.testing.assert_close(out[mask], torch.ones(3, 2))


def test_frames_of_other_windows_take_no_part() -> None:
    mel = torch.arange(300, dtype=torch.float32)[:, None]
    centres = frame_centres_ns(0, 300, CONFIG)
    # A window of 1 s in 100 cells is its own hundred frames, each on the edge between two cells' halves.
    out, mask = resample_frames(mel, centres, 1000 * MS - 5 * MS, 2000 * MS - 5 * MS, 100)
    assert mask.all()
    torch.testing.assert_close(out[:, 0], torch.arange(100.0, 200.0), rtol=0, atol=1e-3)


def test_without_sound_everything_is_masked() -> None:
    out, mask = resample_frames(torch.zeros(0, 40), torch.zeros(0, dtype=torch.int64), 0, 1000 * MS, 32)
    assert out.shape == (32, 40)
    assert not mask.any()
    # Sound elsewhere is no sound here.
    _, mask = resample_frames(torch.ones(100, 40), frame_centres_ns(0, 100, CONFIG), 5000 * MS, 6000 * MS, 32)
    assert not mask.any()
