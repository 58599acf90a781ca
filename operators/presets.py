"""Named model sizes. Each docstring says what the preset is for and what it costs."""

from __future__ import annotations

from collections.abc import Callable

from longtake.operators.config import (
    AudioConfig,
    CombinerConfig,
    LatentConfig,
    ModelConfig,
    TextConfig,
    TransformerConfig,
    Tube,
    VideoConfig,
)


def tiny() -> ModelConfig:
    """The shipped size: 8 pictures of 48 x 64 and 32 mel frames a snippet, 4 tokens of width 96.

    About 1.5 M parameters; encodes some hundred snippets a second on a laptop's core, and answers in milliseconds.
    """
    return ModelConfig(
        name="tiny",
        width=96,
        video=VideoConfig(
            frames=8,
            height=48,
            width=64,
            tubes=(
                # One picture of each half of the snippet in overlapping patches, and coarse tubes over each half.
                Tube(kernel=(1, 16, 16), stride=(4, 8, 8), offset=(1, 0, 0)),
                Tube(kernel=(4, 16, 16), stride=(4, 16, 16)),
            ),
            encoder=TransformerConfig(depth=2, heads=4),
        ),
        audio=AudioConfig(frames=32, mels=40, patch=(4, 40), encoder=TransformerConfig(depth=1, heads=4)),
        combiner=CombinerConfig(name="transformer", tokens=4, transformer=TransformerConfig(depth=2, heads=4)),
        latent=LatentConfig(
            transformer=TransformerConfig(depth=2, heads=4), reconstruct_video=16, reconstruct_audio=16
        ),
        text=TextConfig(
            vocabulary=80,
            context=64,
            transformer=TransformerConfig(depth=3, heads=8, mlp_ratio=2.0),
            kv_heads=4,
            width=128,
        ),
        snippet_s=(0.8, 1.25),
        rate_hz=8.0,
    )


PRESETS: dict[str, Callable[[], ModelConfig]] = {"tiny": tiny}


def by_name(name: str) -> ModelConfig:
    """The preset of a name.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset is named {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]()
