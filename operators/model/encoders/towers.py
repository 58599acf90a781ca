"""The public encoders that a model's config names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from longtake.errors import CheckpointError
from longtake.operators.hub.locate import locate
from longtake.operators.hub.weights import fingerprint, weight_files
from longtake.operators.model.config import AudioConfig, ModelConfig, PretrainedConfig, VideoConfig
from longtake.operators.model.encoders.public_audio import SoundEncoder, load_sound_encoder
from longtake.operators.model.encoders.public_vision import PictureEncoder, load_picture_encoder


@dataclass(frozen=True, kw_only=True)
class Towers:
    """Loaded towers without a projection, None where the model has an encoder of its own."""

    video: PictureEncoder | None = None
    audio: SoundEncoder | None = None


def load_towers(config: ModelConfig, folder: Path | None = None) -> Towers:
    """Load what a config names, float32 on the CPU.

    Args:
        folder: the checkpoint's directory, from which a relative source counts; None for the current one.
    Raises:
        CheckpointError: one line that says which encoder cannot be had, and why.
    """
    video, audio = config.video.pretrained, config.audio.pretrained
    return Towers(
        video=None if video is None else load_video_tower(video, folder),
        audio=None if audio is None else load_audio_tower(audio, config.audio.sample_rate_hz, folder),
    )


def load_video_tower(wanted: PretrainedConfig, folder: Path | None = None) -> PictureEncoder:
    """The picture encoder that a config names.

    Raises:
        CheckpointError: as `load_picture_encoder`.
    """
    try:
        return load_picture_encoder(_place(wanted.source, folder), layer=wanted.layer, trained=wanted.trained)
    except CheckpointError as error:
        raise CheckpointError(f"video encoder: {error}") from error


def load_audio_tower(wanted: PretrainedConfig, rate_hz: int, folder: Path | None = None) -> SoundEncoder:
    """The sound encoder that a config names.

    Raises:
        CheckpointError: as `load_sound_encoder`.
    """
    try:
        place = _place(wanted.source, folder)
        return load_sound_encoder(place, layer=wanted.layer, trained=wanted.trained, rate_hz=rate_hz)
    except CheckpointError as error:
        raise CheckpointError(f"audio encoder: {error}") from error


def on_public_encoders(
    config: ModelConfig, *, video: PretrainedConfig | None = None, audio: PretrainedConfig | None = None
) -> ModelConfig:
    """A config with public encoders in the place of its own; None leaves that one.

    Pictures get the size that the video encoder wants. A snippet's sound is as long as its pictures at the config's
    rate, and no longer: the audio encoder hears the wave itself.

    Raises:
        CheckpointError: an encoder cannot be loaded, or a snippet is longer than what the audio encoder hears at once.
    """
    names = [config.name]
    if video is not None:
        pictures = config.video
        height, width = load_video_tower(video).tower.preparation.shape(pictures.height, pictures.width)
        made = VideoConfig(frames=pictures.frames, height=height, width=width, pretrained=video)
        config = replace(config, video=made)
        names.append(Path(video.source).name)
    if audio is not None:
        rate_hz, snippet_s = config.audio.sample_rate_hz, config.video.frames / config.rate_hz
        samples, most = round(snippet_s * rate_hz), load_audio_tower(audio, rate_hz).most_samples
        if samples > most:
            raise CheckpointError(
                f"audio encoder: {audio.source} hears {most / rate_hz:g} s at once, and a snippet lasts {snippet_s:g} s"
            )
        heard = AudioConfig(frames=samples, sample_rate_hz=rate_hz, pretrained=audio)
        shortest, longest = config.snippet_s or (snippet_s, snippet_s)
        config = replace(config, audio=heard, snippet_s=(min(shortest, snippet_s), min(longest, snippet_s)))
        names.append(Path(audio.source).name)
    return replace(config, name=" on ".join([names[0], " and ".join(names[1:])]) if names[1:] else names[0])


def tower_fingerprints(config: ModelConfig, folder: Path | None = None) -> dict[str, str]:
    """The fingerprints of what `load_towers` would load, by "video" and "audio", from the files alone.

    Raises:
        CheckpointError: a directory or its weights are not there.
    """
    found = {}
    for part, wanted in (("video", config.video.pretrained), ("audio", config.audio.pretrained)):
        if wanted is not None:
            try:
                place = locate(_place(wanted.source, folder))
                found[part] = fingerprint(place, weight_files(place), torch.float32)
            except CheckpointError as error:
                raise CheckpointError(f"{part} encoder: {error}") from error
    return found


def by_fingerprint(config: ModelConfig, fingerprints: Mapping[str, str]) -> ModelConfig:
    """The config with public encoders named by their weights' fingerprints, not by where these lie."""
    for part, printed in fingerprints.items():
        inner = getattr(config, part)
        named = replace(inner, pretrained=replace(inner.pretrained, source=printed))
        config = replace(config, **{part: named})
    return config


def with_places(config: ModelConfig, folder: Path) -> ModelConfig:
    """A config whose public encoders' directories are named by their full paths, so that a checkpoint with it may lie
    anywhere. `folder` is the checkpoint's that the config is of."""
    for part in ("video", "audio"):
        inner = getattr(config, part)
        if inner.pretrained is None:
            continue
        place = Path(_place(inner.pretrained.source, folder))
        if place.is_dir():
            named = replace(inner, pretrained=replace(inner.pretrained, source=str(place.absolute())))
            config = replace(config, **{part: named})
    return config


def _place(source: str, folder: Path | None) -> str | Path:
    beside = None if folder is None else folder / source
    return beside if beside is not None and beside.is_dir() else source
