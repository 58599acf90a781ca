"""Sound encoders against the real feature extractors and the classes' own forward."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

import transformers

from longtake.operators.model.encoders import load_sound_encoder

NAMES = ("whisper", "clap", "clap_unfused", "ast")
RATE_HZ = {"whisper": 16_000, "ast": 16_000, "clap": 48_000, "clap_unfused": 48_000}
LAYERS = [None, 0, 1, -2, -1]


def waves(rate_hz: int, lengths_s: tuple[float, ...] = (1.9, 0.7, 1.0003)) -> tuple[Tensor, Tensor]:
    """Rows of noise that swells, of different lengths; behind each end there is rubbish that must not be heard."""
    generator = torch.Generator().manual_seed(5)
    lengths = [int(length_s * rate_hz) for length_s in lengths_s]
    wave = torch.randn(len(lengths), max(lengths), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.where(mask, wave * torch.linspace(0.001, 0.3, max(lengths)), 1e3), mask


def extracted(path: Path, wave: Tensor, mask: Tensor) -> Tensor:
    """What the real extractor makes of each row's own sound."""
    prepared = json.loads((path / "preprocessor_config.json").read_text())
    extractor = getattr(transformers, prepared["feature_extractor_type"])(**prepared)
    rows = [row[heard].numpy() for row, heard in zip(wave, mask, strict=True)]
    made = extractor(rows, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    features: Tensor = made["input_features"] if "input_features" in made else made["input_values"]
    return features


def hidden(model: Any, name: str, inputs: Tensor, layer: int | None) -> Tensor:
    """A hidden state of the class's own forward, laid out as [S, T, bands, D] by hand."""
    with torch.no_grad():
        if name == "whisper":
            made = model.model.encoder(inputs, output_hidden_states=True)
            return (made.last_hidden_state if layer is None else made.hidden_states[layer])[:, :, None]
        if name == "ast":
            made = model.audio_spectrogram_transformer(inputs, output_hidden_states=True)
            state = (made.last_hidden_state if layer is None else made.hidden_states[layer])[:, 2:]
            # (32 - 16) // 10 + 1 = 2 bands of (204 - 16) // 10 + 1 = 19 steps, one after the other.
            return torch.stack([state[:, :19], state[:, 19:]], dim=2)
        longer = torch.zeros(len(inputs), 1, dtype=torch.bool)
        made = model.audio_model(input_features=inputs, is_longer=longer, output_hidden_states=True)
    if layer is None:
        return made.last_hidden_state.permute(0, 3, 2, 1)
    # Four folds of the time lie below each other.
    folds = made.hidden_states[layer].chunk(4, dim=2)
    return torch.cat([fold.permute(0, 3, 2, 1) for fold in folds], dim=1)


@pytest.mark.parametrize("name", NAMES)
def test_sound_is_prepared_as_by_the_real_extractor(directory: Callable[[str], Path], name: str) -> None:
    encoder = load_sound_encoder(directory(name), rate_hz=RATE_HZ[name])
    wave, mask = waves(RATE_HZ[name])
    own, _ = encoder.prepare(wave, mask)
    torch.testing.assert_close(own, extracted(directory(name), wave, mask), rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", ["repeat", "pad"])
def test_short_sound_is_padded_as_the_file_says(directory: Callable[[str], Path], tmp_path: Path, padding: str) -> None:
    for file in directory("clap").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    prepared = json.loads((tmp_path / "preprocessor_config.json").read_text()) | {"padding": padding}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(prepared))
    wave, mask = waves(48_000)
    own, _ = load_sound_encoder(tmp_path, rate_hz=48_000).prepare(wave, mask)
    torch.testing.assert_close(own, extracted(tmp_path, wave, mask), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_features_are_the_hidden_states_of_the_class(
    directory: Callable[[str], Path], uncut: Callable[[str], Any], name: str, layer: int | None
) -> None:
    encoder = load_sound_encoder(directory(name), layer=layer, rate_hz=RATE_HZ[name])
    wave, mask = waves(RATE_HZ[name])
    inputs, _ = encoder.prepare(wave, mask)
    wanted = hidden(uncut(name), name, inputs, layer)
    times, bands, columns = encoder.grid(wave.shape[1])
    features, token_mask = encoder(wave, mask)
    assert columns == 1 and features.shape == (3, times * bands, wanted.shape[-1]) == (*token_mask.shape, encoder.width)
    torch.testing.assert_close(features.unflatten(1, (times, bands)), wanted[:, :times], rtol=0, atol=1e-6)
    # The longest row reaches into every step that was kept; the window goes on behind it.
    assert token_mask[0].all() and times <= wanted.shape[1]


@pytest.mark.parametrize(
    ("name", "layer", "steps"),
    [
        ("whisper", None, (95, 35, 51)),
        ("ast", None, (19, 7, 10)),
        ("clap", None, (16, 6, 9)),
        ("clap", 0, (61, 23, 33)),
    ],
)
def test_the_mask_ends_with_the_sound(
    directory: Callable[[str], Path], name: str, layer: int | None, steps: tuple[int, ...]
) -> None:
    encoder = load_sound_encoder(directory(name), layer=layer, rate_hz=RATE_HZ[name])
    _, token_mask = encoder(*waves(RATE_HZ[name]))
    bands = encoder.grid(100)[1]
    assert tuple((token_mask.sum(1) / bands).tolist()) == steps
    # Once it has ended it does not begin again.
    assert (token_mask[:, 1:] <= token_mask[:, :-1]).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_sound_is_masked_and_harmless(directory: Callable[[str], Path], name: str) -> None:
    encoder = load_sound_encoder(directory(name))
    wave, mask = waves(16_000)
    features, token_mask = encoder(wave, mask)
    mask[1] = False
    again, again_mask = encoder(wave, mask)
    assert not again_mask[1].any() and again.isfinite().all()
    assert torch.equal(again[[0, 2]], features[[0, 2]]) and torch.equal(again_mask[[0, 2]], token_mask[[0, 2]])


def test_another_rate_is_resampled(directory: Callable[[str], Path]) -> None:
    """A tone that both rates hold gives the same features but for the filter's edges."""
    tone = {
        rate_hz: torch.sin(torch.arange(2 * rate_hz) / rate_hz * 2 * torch.pi * 1000)[None]
        for rate_hz in (16_000, 48_000)
    }
    made = [
        load_sound_encoder(directory("clap"), rate_hz=rate_hz)(wave, torch.ones_like(wave, dtype=torch.bool))
        for rate_hz, wave in tone.items()
    ]
    assert made[0][0].shape == made[1][0].shape and torch.equal(made[0][1], made[1][1])
    assert torch.nn.functional.cosine_similarity(made[0][0], made[1][0], dim=-1).min() > 0.9


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_projection_learns_and_the_tower_only_where_it_should(
    directory: Callable[[str], Path], name: str, trained: bool
) -> None:
    encoder = load_sound_encoder(directory(name), width=10, layer=-2, trained=trained)
    encoder.train()
    features, _ = encoder(*waves(16_000))
    assert features.shape[-1] == 10
    features.sum().backward()
    assert encoder.projection.weight.grad is not None
    assert encoder.tower.training == trained
    assert any(one.grad is not None and one.grad.any() for one in encoder.tower.parameters()) == trained


def test_stored_features_project_to_the_same(directory: Callable[[str], Path]) -> None:
    encoder = load_sound_encoder(directory("whisper"), width=10, dtype="bfloat16")
    stored, _ = encoder.features(*waves(16_000))
    assert stored.dtype == torch.bfloat16 and not stored.requires_grad
    assert torch.equal(encoder.project(stored), encoder(*waves(16_000))[0])


@pytest.mark.parametrize("name", ["whisper", "clap", "ast"])
def test_wrong_input_is_refused(directory: Callable[[str], Path], name: str) -> None:
    encoder = load_sound_encoder(directory(name))
    most = encoder.most_samples
    wave = torch.zeros(1, most)
    encoder(wave, torch.ones_like(wave, dtype=torch.bool))
    with pytest.raises(ValueError, match=rf"1 to {most}\] at 16000 Hz"):
        encoder(torch.zeros(1, most + 1), torch.ones(1, most + 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"torch\.float64"):
        encoder(wave.double(), torch.ones_like(wave, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"sound's mask is torch\.float32"):
        encoder(wave, torch.ones_like(wave))
