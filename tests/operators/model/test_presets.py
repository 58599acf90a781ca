"""The presets' sizes, counted without allocating a weight, and that each is a model that can be stored and built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from longtake.operators.model import presets
from longtake.operators.model.config import ModelConfig

PARTS = ["video_encoder", "audio_encoder", "combiner", "latent_model", "text_decoder"]


def counts(name: str) -> tuple[dict[str, int], int]:
    parts = presets.parameter_counts(presets.by_name(name))
    total = sum(parts.values())
    print(f"\n{name}: {total:,} parameters")
    for part, count in parts.items():
        print(f"  {part:14} {count:>15,} {count / total:6.1%}")
    return parts, total


def test_mirasol_3b_has_the_size_of_the_paper() -> None:
    parts, total = counts("mirasol_3b")
    assert list(parts) == PARTS
    assert 2.7e9 <= total <= 3.3e9
    autoregressive = (parts["combiner"] + parts["latent_model"]) / total
    print(f"  audio-video autoregressive part (combiner + latent model): {autoregressive:.1%}")
    assert 0.4 <= autoregressive <= 0.6
    config = presets.mirasol_3b()
    # 512 frames are whole snippets, and a snippet has the tokens of TubeViT.
    assert 512 % config.video.frames == 0
    grids = [tube.grid(config.video.clip) for tube in config.video.tubes]
    assert [t * y * x for t, y, x in grids] == [98, 147, 98, 196]


def test_mirasol_3b_fits_together() -> None:
    from longtake.operators.model.combiners import Features
    from longtake.operators.model.feature_layout import feature_layout
    from longtake.operators.model.model import LongTakeModel

    config = presets.mirasol_3b()
    assert feature_layout(config).tokens == 539 + 16 * 8
    with torch.device("meta"), torch.no_grad():
        model = LongTakeModel(config)
        features = Features(
            video_BND=torch.empty(16, 539, 1536),
            video_mask_BN=torch.ones(16, 539, dtype=torch.bool),
            audio_BND=torch.empty(16, 128, 1536),
            audio_mask_BN=torch.ones(16, 128, dtype=torch.bool),
        )
        tokens, memory = model.combiner.sequence(features, model.combiner.initial_memory(1), torch.zeros(1, 16))
        latents = model.latent_model(tokens)
        context = model.text_decoder.context(latents, torch.ones(1, 16, dtype=torch.bool))
        logits, _ = model.text_decoder(torch.zeros(1, 9, dtype=torch.int64), context)
    assert tokens.shape == latents.shape == (1, 16, 32, 1536)
    assert memory.shape == (1, 96, 1536)
    assert logits.shape == (1, 9, 32_000)


def test_base_has_about_150_million_parameters() -> None:
    parts, total = counts("base")
    assert list(parts) == PARTS
    assert 120e6 <= total <= 180e6


def test_tiny_is_small_enough_to_ship() -> None:
    _, total = counts("tiny")
    # 20 MB of float32.
    assert total * 4 <= 20e6


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_preset_is_stored_and_read_back(name: str) -> None:
    config = presets.by_name(name)
    assert config.name == name
    assert ModelConfig.from_json(config.to_json()) == config


def test_counting_equals_a_real_model() -> None:
    from longtake.operators.model.model import LongTakeModel

    model = LongTakeModel(presets.tiny())
    assert sum(presets.parameter_counts(presets.tiny()).values()) == sum(p.numel() for p in model.parameters())


def test_an_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no preset is named 'huge'; there are tiny, small, base, mirasol_3b"):
        presets.by_name("huge")


def test_presets_are_read_without_loading_torch() -> None:
    root = Path(__file__).resolve().parents[3]
    program = "import sys, longtake.operators.model.presets as p; p.mirasol_3b(); sys.exit('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(root / "src")}
    assert subprocess.run([sys.executable, "-c", program], env=env).returncode == 0
