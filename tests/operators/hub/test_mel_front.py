"""The sound front end: pieces give the frames of the whole, and the whole is what the stock extractor makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers", minversion="5.18")

from transformers import WhisperFeatureExtractor

from longtake.errors import CheckpointError
from longtake.operators.hub.mel_front import MelFront
from longtake.operators.vlm.sound import MelStream, raise_to_peak, whole_mel

FRONT = MelFront(mels=16)


def wave(samples: int, seed: int = 0) -> torch.Tensor:
    """Noise that grows louder."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, generator=generator) * torch.linspace(0.001, 0.5, max(1, samples))[:samples]


@settings(max_examples=25)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=6), st.integers(0, 99))
def test_pieces_give_the_frames_of_the_whole(sizes: list[int], seed: int) -> None:
    whole = wave(sum(sizes), seed)
    wanted, peak = whole_mel(whole, FRONT)
    assert len(wanted) == -(-len(whole) // FRONT.hop)
    stream = MelStream(front=FRONT)
    pieces = [stream.push(piece, last=number == len(sizes) - 1) for number, piece in enumerate(whole.split(sizes))]
    torch.testing.assert_close(torch.cat(pieces), wanted, rtol=0, atol=1e-5)
    assert stream.peak == pytest.approx(peak, abs=1e-5)


@pytest.mark.parametrize("samples", [32_000, 16_000 * 5 + 37, 400, 161])
def test_the_whole_is_what_the_stock_extractor_makes(samples: int) -> None:
    heard = wave(samples)
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=30)
    made = extractor(heard.numpy(), sampling_rate=16_000, return_attention_mask=True, return_tensors="pt")
    frames = int(made.attention_mask.sum())
    mel, peak = whole_mel(heard, FRONT)
    assert len(mel) == frames
    torch.testing.assert_close(raise_to_peak(mel, peak), made.input_features[0].T[:frames], rtol=0, atol=1e-5)


def test_the_peak_decides_what_is_silence() -> None:
    mel = torch.tensor([[-9.0, 0.0], [2.0, -7.0]])
    assert torch.equal(raise_to_peak(mel, 2.0), (torch.tensor([[-6.0, 0.0], [2.0, -6.0]]) + 4) / 4)


def test_the_front_is_read_from_the_directory(tmp_path: Path) -> None:
    numbers = {"feature_size": 16, "hop_length": 200, "n_fft": 512, "sampling_rate": 8000}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(numbers))
    read = MelFront.read(tmp_path, 16)
    assert (read.hop, read.fft, read.rate_hz, read.frames_hz) == (200, 512, 8000, 40.0)
    with pytest.raises(CheckpointError, match="feature_size is 16, wanted 80"):
        MelFront.read(tmp_path, 80)
