"""A model on public encoders: its config, its checkpoint, its fingerprint, and that combiners read its features."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

pytest.importorskip("transformers")

from longtake.errors import CheckpointError
from longtake.operators.model.answering import Answerer
from longtake.operators.model.checkpoint import LoadedModel, fingerprint, load_model, save_model
from longtake.operators.model.config import (
    AudioConfig,
    ModelConfig,
    PretrainedConfig,
    TransformerConfig,
    Tube,
    VideoConfig,
)
from longtake.operators.model.encoders import load_picture_encoder, load_sound_encoder
from longtake.operators.model.snippet_encoder import SnippetEncoder
from longtake.operators.synthetic.random_model import random_model

Configs = Callable[..., ModelConfig]
LAYER = TransformerConfig(depth=1, heads=2)
PUBLIC = PretrainedConfig(source="somewhere")


def snippets(config: ModelConfig, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random pictures and sound with their masks; the last snippet has neither its last picture nor any sound."""
    generator = torch.Generator().manual_seed(5)
    video, audio = config.video, config.audio
    frames = torch.randint(0, 256, (count, *video.clip, 3), dtype=torch.uint8, generator=generator)
    sound = torch.randn(count, audio.frames, audio.mels, generator=generator).clamp(-3, 3) / 3
    frame_mask = torch.ones(count, video.frames, dtype=torch.bool)
    sound_mask = torch.ones(count, audio.frames, dtype=torch.bool)
    frame_mask[-1, -1], sound_mask[-1] = False, False
    return frames, frame_mask, sound, sound_mask


def same(one: LoadedModel, other: LoadedModel) -> None:
    """Both give the same features, bit for bit."""
    given = snippets(one.config, 2)
    with torch.no_grad():
        a, b = (loaded.model.features(*given) for loaded in (one, other))
    for name in ("video_BND", "video_mask_BN", "audio_BND", "audio_mask_BN"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VideoConfig(frames=2, height=8, width=8), "'tubes' and 'encoder', or 'pretrained', are wanted"),
        (lambda: VideoConfig(frames=2, height=8, width=8, encoder=LAYER, pretrained=PUBLIC), "not both"),
        (
            lambda: VideoConfig(
                frames=2, height=8, width=8, tubes=(Tube(kernel=(1, 8, 8), stride=(1, 8, 8)),), pretrained=PUBLIC
            ),
            "not both",
        ),
        (lambda: AudioConfig(frames=8, mels=8), "'patch' and 'encoder', or 'pretrained', are wanted"),
        (lambda: AudioConfig(frames=8, mels=8, patch=(2, 2)), "'patch' and 'encoder', or 'pretrained', are wanted"),
        (lambda: AudioConfig(frames=8, patch=(1, 1), pretrained=PUBLIC), "not both"),
        (lambda: AudioConfig(frames=8, mels=8, pretrained=PUBLIC), "its 'mels' is 1, not 8 x 8"),
        (lambda: PretrainedConfig(source=""), "a directory or a hub name, not ''"),
        (lambda: PretrainedConfig(source="a", layer="last"), "a whole number or null, not 'last'"),
    ],
)
def test_an_encoder_is_of_one_kind(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_config_survives_json_and_says_nothing_of_what_it_has_not(tower_config: Configs) -> None:
    for config in (tower_config(), tower_config(audio=None), tower_config(video=None)):
        again = ModelConfig.from_json(config.to_json())
        assert again == config and again.fingerprint() == config.fingerprint()
    stored = json.loads(tower_config(audio=None).to_json())
    assert sorted(stored["video"]) == ["frames", "height", "pretrained", "width"]
    assert sorted(stored["audio"]) == ["encoder", "fft", "frames", "hop", "mels", "patch", "sample_rate_hz"]
    assert sorted(json.loads(tower_config().to_json())["audio"]) == ["frames", "mels", "pretrained", "sample_rate_hz"]


def test_the_shipped_model_is_the_one_that_indexes_were_written_with() -> None:
    assert load_model("tiny").fingerprint == "385e4facd09e22a3"


def test_features_are_the_towers_projected_and_told_their_place(tower_config: Configs) -> None:
    config = tower_config()
    loaded = random_model(config, seed=1)
    frames, frame_mask, sound, sound_mask = snippets(config, 2)
    with torch.no_grad():
        made = loaded.model.features(frames, frame_mask, sound, sound_mask)
        pictures = load_picture_encoder(config.video.pretrained.source)
        heard = load_sound_encoder(config.audio.pretrained.source)
        for encoder, given, wanted, wanted_mask in (
            (loaded.model.video_encoder, pictures(frames, frame_mask), made.video_BND, made.video_mask_BN),
            (loaded.model.audio_encoder, heard(sound[..., 0], sound_mask), made.audio_BND, made.audio_mask_BN),
        ):
            features, mask = given
            place_ND = encoder.position_ND
            assert torch.equal(encoder.projection(features) + place_ND, wanted) and torch.equal(mask, wanted_mask)
            # Every token has a place of its own.
            assert len(torch.unique(place_ND, dim=0)) == len(place_ND)
    assert not made.audio_mask_BN[-1].any() and made.video_mask_BN.any(1).all()
    assert made.video_mask_BN[-1].sum() < made.video_mask_BN[0].sum()


@pytest.mark.parametrize(
    ("video", "audio", "combiner"),
    [
        *(("siglip", "whisper", name) for name in ("transformer", "ttm", "average_pool", "attention_pool")),
        *((name, "whisper", "c_abstractor") for name in ("siglip", "siglip2", "clip", "dinov3", "vjepa2")),
        *(("dinov3", name, "c_abstractor") for name in ("clap", "ast", None)),
        *((None, name, "ttm") for name in ("whisper", "clap", "ast")),
    ],
)
def test_every_combiner_reads_every_encoder(
    tower_config: Configs, video: str | None, audio: str | None, combiner: str
) -> None:
    more = {"memory_tokens": 6, "read_tokens": 4} if combiner == "ttm" else {}
    config = tower_config(video, audio, name=combiner, **more)
    encoder = SnippetEncoder(random_model(config, seed=2).model, lanes=2)
    memory = encoder.initial_memory().repeat(2, 1, 1)
    given = snippets(config, 2)
    tokens, _ = encoder.step(*given, torch.zeros(2), memory)
    assert tokens.shape == (2, 4, 24) and tokens.isfinite().all() and not torch.equal(tokens[0], tokens[1])
    # Both what is seen and what is heard count, and what is masked does not.
    darker = (given[0] // 2, *given[1:])
    quieter = (*given[:2], given[2] / 2, given[3])
    for changed in (darker, quieter):
        assert not torch.equal(encoder.step(*changed, torch.zeros(2), memory)[0][0], tokens[0])
    assert torch.equal(encoder.step(*quieter, torch.zeros(2), memory)[0][1], tokens[1])


def test_a_checkpoint_holds_no_frozen_tower(tower_config: Configs, tmp_path: Path) -> None:
    made = random_model(tower_config(), seed=1)
    save_model(tmp_path / "model", made.model, made.tokenizer)
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as file:
        names = [name for name in file.keys() if "encoder" in name.split(".")[0]]  # noqa: SIM118
    assert sorted(names) == [
        f"{part}_encoder.projection.{name}" for part in ("audio", "video") for name in ("bias", "weight")
    ]
    loaded = load_model(str(tmp_path / "model"))
    assert loaded.fingerprint == made.fingerprint and loaded.config == made.config
    same(loaded, made)


def test_a_trained_tower_is_kept(tower_config: Configs, tmp_path: Path) -> None:
    config = tower_config()
    trained = replace(config.video.pretrained, trained=True, layer=1)
    made = random_model(replace(config, video=replace(config.video, pretrained=trained)), seed=1)
    untouched = made.fingerprint
    with torch.no_grad():
        for parameter in made.model.video_encoder.tower.parameters():
            parameter.mul_(1.1)
    assert fingerprint(made.model) != untouched
    save_model(tmp_path / "model", made.model, made.tokenizer)
    loaded = load_model(str(tmp_path / "model"))
    assert loaded.fingerprint == fingerprint(made.model)
    same(loaded, made)
    fresh = random_model(made.config, seed=1)
    with pytest.raises(AssertionError, match="video_BND"):
        same(loaded, fresh)


def test_answering_needs_no_tower_in_memory(
    tower_config: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = random_model(tower_config(), seed=1)
    save_model(tmp_path, made.model, made.tokenizer)
    whole = load_model(str(tmp_path))
    # Not even the library is needed.
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match="pip install"):
        load_model(str(tmp_path))
    light = load_model(str(tmp_path), encoders=False)
    assert light.fingerprint == whole.fingerprint == made.fingerprint
    assert [name for name, _ in light.model.named_children()] == ["latent_model", "text_decoder"]
    tokens = torch.randn(3, 4, 24)
    given = [Answerer(loaded).latents(tokens) for loaded in (light, whole)]
    assert torch.equal(*given)
    answers = [Answerer(loaded).answer(given[0], "what was shown?") for loaded in (light, whole)]
    assert answers[0].text == answers[1].text and answers[0].probability == answers[1].probability
    # A model that is its own encoder is whole either way.
    assert load_model("tiny", encoders=False).fingerprint == load_model("tiny").fingerprint
    config = tower_config()
    away = replace(config, video=replace(config.video, pretrained=PretrainedConfig(source=str(tmp_path / "gone"))))
    (tmp_path / "config.json").write_text(away.to_json())
    with pytest.raises(CheckpointError, match=r"config\.json: video encoder: .*gone: not a model directory"):
        load_model(str(tmp_path), encoders=False)


def test_a_tower_may_move_but_not_change(tower_config: Configs, tmp_path: Path) -> None:
    config = tower_config(audio=None)
    made = random_model(config, seed=1)
    # Relative to the checkpoint, as a directory that is handed on has it.
    beside = replace(config, video=replace(config.video, pretrained=PretrainedConfig(source="towers/pictures")))
    save_model(tmp_path, made.model, made.tokenizer)
    (tmp_path / "config.json").write_text(beside.to_json())
    with pytest.raises(CheckpointError, match=r"config\.json: video encoder: towers/pictures: no such directory|hub"):
        load_model(str(tmp_path))
    place = tmp_path / "towers" / "pictures"
    shutil.copytree(config.video.pretrained.source, place)
    loaded = load_model(str(tmp_path))
    assert loaded.fingerprint == made.fingerprint
    same(loaded, made)
    # Another layer, and other pictures' numbers, are another model.
    other = replace(beside.video.pretrained, layer=1)
    (tmp_path / "config.json").write_text(replace(beside, video=replace(beside.video, pretrained=other)).to_json())
    assert load_model(str(tmp_path)).fingerprint != made.fingerprint
    (tmp_path / "config.json").write_text(beside.to_json())
    prepared = json.loads((place / "preprocessor_config.json").read_text())
    (place / "preprocessor_config.json").write_text(json.dumps(prepared | {"image_mean": [0.1, 0.1, 0.1]}))
    assert load_model(str(tmp_path)).fingerprint != made.fingerprint


def test_what_cannot_be_used_is_one_line(
    tower_config: Configs, directory: Callable[[str], Path], tmp_path: Path
) -> None:
    config = tower_config()
    made = random_model(config, seed=1)
    save_model(tmp_path, made.model, made.tokenizer)

    def refused(message: str, **changes: Any) -> None:
        (tmp_path / "config.json").write_text(replace(config, **changes).to_json())
        with pytest.raises(CheckpointError, match=message) as caught:
            load_model(str(tmp_path))
        assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path / "config.json"))

    def video(source: str | Path) -> VideoConfig:
        return replace(config.video, pretrained=PretrainedConfig(source=str(source)))

    refused(f"video encoder: {tmp_path / 'gone'}: not a model directory", video=video(tmp_path / "gone"))
    refused("models of class whisper are no picture encoder; supported are siglip", video=video(directory("whisper")))
    far = replace(config.audio.pretrained, layer=9)
    refused("audio encoder: .* there is no layer 9", audio=replace(config.audio, pretrained=far))
    refused(
        r"a snippet of 40000 samples is longer than the 32000 samples \(2 s\)",
        audio=replace(config.audio, frames=40_000),
    )
    # The projection of another tower is not this model's.
    other = replace(config.audio, pretrained=PretrainedConfig(source=str(directory("clap"))))
    (tmp_path / "config.json").write_text(replace(config, audio=other).to_json())
    with pytest.raises(CheckpointError, match=r"1 tensors are not what .*, first audio_encoder\.projection"):
        load_model(str(tmp_path))
