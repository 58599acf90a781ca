"""A model on public encoders, from a real file to an answer: the real job, and the tokens of a single process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import longtake
from longtake.operators import presets
from longtake.operators.checkpoint import random_model, save_model
from longtake.operators.config import AudioConfig, PretrainedConfig, VideoConfig
from longtake.operators.errors import IndexMismatchError, InputError
from longtake.pipeline.indexing import IndexOptions, index
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.tables import IndexReader

transformers = pytest.importorskip("transformers")
CHAPLIN = Path(__file__).resolve().parents[3] / "shared" / "media" / "chaplin.mp4"
SMALL = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}

pytestmark = pytest.mark.timeout(600)


def save(model: Any, prepared: dict[str, Any], path: Path) -> Path:
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(prepared))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with SigLIP and Whisper beside it, all of random weights."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    siglip = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SMALL, patch_size=16, image_size=64))
    save(siglip, {"image_processor_type": "SiglipImageProcessor", "resample": 3, "size": {"height": 64, "width": 64},
                  "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, folder / "siglip")  # fmt: skip
    whisper = transformers.WhisperModel(transformers.WhisperConfig(
        num_mel_bins=16, d_model=24, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=40, max_source_positions=100,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    ))  # fmt: skip
    save(whisper, {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 16, "chunk_length": 2,
                   "n_fft": 400, "hop_length": 160, "sampling_rate": 16_000}, folder / "whisper")  # fmt: skip
    tiny = presets.tiny()
    config = replace(
        tiny,
        video=VideoConfig(frames=8, height=64, width=64, pretrained=PretrainedConfig(source=str(folder / "siglip"))),
        audio=AudioConfig(frames=16_000, pretrained=PretrainedConfig(source=str(folder / "whisper"))),
    )
    made = random_model(config, seed=1)
    save_model(folder / "model", made.model, made.tokenizer)
    return folder / "model"


@pytest.mark.skipif(not CHAPLIN.is_file(), reason="the sample videos are not beside the checkout")
def test_a_video_is_indexed_and_asked_about(
    model: Path, tmp_path: Path, expected_tokens: Callable[..., dict[int, np.ndarray]]
) -> None:
    into = tmp_path / "films.lt"
    wanted = expected_tokens(CHAPLIN, str(model), rate_hz=8.0)
    options = IndexOptions(into=str(into), model=str(model), decoders=1, commit_s=0.5)
    index([str(CHAPLIN)], options)
    reader = IndexReader.open(str(into))
    [row] = reader.videos()
    assert (row.status, row.snippets) == ("done", len(wanted))
    assert np.array_equal(reader.tokens(row.video_id)[0], np.stack(list(wanted.values())))
    # What is heard is in the tokens: without sound they are others.
    assert len({tokens.tobytes() for tokens in wanted.values()}) == len(wanted)
    (answer,) = longtake.open_index(into).ask("what was shown when the border flashed?")
    assert 0 < answer.probability <= 1 and answer.seen_until_s == pytest.approx(row.duration_s, abs=0.5)
    slow = replace(options, into=str(tmp_path / "slow.lt"), sampling=Sampling(rate_hz=2.0))
    with pytest.raises(InputError, match="a snippet of 4 s is longer than the 1 s that the model's audio encoder hear"):
        index([str(CHAPLIN)], slow)
    # Nothing is left to do; and with other weights at the tower's place the model is another one.
    assert index([str(CHAPLIN)], options).snippets == 0
    place = model.parent / "siglip" / "preprocessor_config.json"
    before = place.read_text()
    place.write_text(json.dumps(json.loads(before) | {"image_mean": [0.4] * 3}))
    with pytest.raises(IndexMismatchError, match="indexed with model"):
        longtake.open_index(into).ask("what was shown?")
    place.write_text(before)
