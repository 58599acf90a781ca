"""The options of `longtake train` that put public encoders in the place of a preset's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from longtake.errors import InputError

if TYPE_CHECKING:
    from longtake.operators.model.config import ModelConfig, PretrainedConfig

OPTIONS = ("video_encoder", "video_layer", "audio_encoder", "audio_layer")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options, in a group of their own."""
    group = parser.add_argument_group("public encoders")
    for part, what in (("video", "SigLIP, CLIP, DINOv3 or V-JEPA 2"), ("audio", "Whisper, CLAP or AST")):
        group.add_argument(f"--{part}-encoder", metavar="PATH", help=f"a public encoder, frozen: {what}")
        group.add_argument(
            f"--{part}-layer",
            metavar="N",
            type=int,
            help="which of its hidden states, -1 the one behind the last layer",
        )


def on_named_encoders(config: ModelConfig, args: argparse.Namespace) -> ModelConfig:
    """The config on the public encoders that the options name; the very same where they name none.

    Raises:
        InputError: a layer is named and no encoder that has it.
        CheckpointError: an encoder cannot be loaded.
    """
    video, audio = _public(args.video_encoder, args.video_layer), _public(args.audio_encoder, args.audio_layer)
    for part, public in (("video", video), ("audio", audio)):
        if public is None and getattr(args, f"{part}_layer") is not None:
            raise InputError(f"--{part}-layer is of a public encoder; name it with --{part}-encoder")
    if video is None and audio is None:
        return config
    from longtake.operators.model.encoders.towers import on_public_encoders

    return on_public_encoders(config, video=video, audio=audio)


def _public(source: str | None, layer: int | None) -> PretrainedConfig | None:
    from longtake.operators.model.config import PretrainedConfig

    if source is None:
        return None
    # The checkpoint may be used from anywhere: what lies on this machine is named by its full path.
    place = Path(source).expanduser()
    return PretrainedConfig(source=str(place.resolve()) if place.is_dir() else source, layer=layer)
