"""Small configurations that the operators' tests share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from longtake.operators.model.combiners import Features
from longtake.operators.model.config import (
    AudioConfig,
    CombinerConfig,
    LatentConfig,
    ModelConfig,
    TextConfig,
    TransformerConfig,
    Tube,
    VideoConfig,
)

# One layer of everything; a tube over time and a 2D patch, so that both kinds of token are there.
LAYER = TransformerConfig(depth=1, heads=3, mlp_ratio=2.0)
TUBE = Tube(kernel=(4, 8, 8), stride=(2, 16, 16), offset=(0, 4, 4))
PATCH = Tube(kernel=(1, 8, 8), stride=(2, 8, 8))


@pytest.fixture(scope="session")
def small_config() -> Callable[..., ModelConfig]:
    """Builds a small config; keywords change the combiner, `tubes` the video."""

    def build(*, width: int = 24, tubes: tuple[Tube, ...] = (TUBE, PATCH), **changes: Any) -> ModelConfig:
        combiner: dict[str, Any] = {
            "name": "transformer",
            "tokens": 8,
            "transformer": TransformerConfig(depth=2, heads=3, mlp_ratio=2.0),
            "history": 3,
            "memory_tokens": 6,
            "read_tokens": 8,
        }
        return ModelConfig(
            name="small",
            width=width,
            video=VideoConfig(frames=4, height=32, width=32, tubes=tubes, encoder=LAYER),
            audio=AudioConfig(frames=16, mels=16, patch=(4, 8), encoder=LAYER),
            combiner=CombinerConfig(**(combiner | changes)),
            latent=LatentConfig(
                transformer=TransformerConfig(depth=2, heads=2, mlp_ratio=2.0), reconstruct_video=8, reconstruct_audio=4
            ),
            text=TextConfig(vocabulary=40, context=32, transformer=TransformerConfig(depth=1, heads=2), kv_heads=1),
        )

    return build


@pytest.fixture(scope="session")
def world_config(small_config: Callable[..., ModelConfig]) -> ModelConfig:
    """A small config with room for the made world's words."""
    config = small_config(tokens=4)
    return dataclasses.replace(config, text=dataclasses.replace(config.text, vocabulary=80, context=64))


@pytest.fixture(scope="session")
def random_features() -> Callable[..., Features]:
    """Builds random features of `snippets` snippets for a config; every mask is True."""

    def build(config: ModelConfig, snippets: int) -> Features:
        video = sum(a * b * c for a, b, c in (tube.grid(config.video.clip) for tube in config.video.tubes))
        audio = config.audio.grid[0] * config.audio.grid[1]
        return Features(
            video_BND=torch.randn(snippets, video, config.width),
            video_mask_BN=torch.ones(snippets, video, dtype=torch.bool),
            audio_BND=torch.randn(snippets, audio, config.width),
            audio_mask_BN=torch.ones(snippets, audio, dtype=torch.bool),
        )

    return build
