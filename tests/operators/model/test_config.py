"""The config: what is written is read back equal, and what cannot be is refused with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from longtake.operators.model.config import CombinerConfig, LatentConfig, ModelConfig, TextConfig, TransformerConfig

Configs = Callable[..., ModelConfig]


def test_a_config_survives_json(small_config: Configs) -> None:
    for changes in ({}, {"name": "ttm", "timestamp": True}, {"scope": "all_so_far", "history": 5}):
        config = replace(small_config(**changes), snippet_s=(0.5, 2.0))
        again = ModelConfig.from_json(config.to_json())
        assert again == config
        assert again.fingerprint() == config.fingerprint()
        # Equal down to the types: a list where a tuple was would still be stored the same.
        assert isinstance(again.video.tubes, tuple)
        assert isinstance(again.video.tubes[0].kernel, tuple)
        assert isinstance(again.snippet_s, tuple)


def test_the_fingerprint_changes_with_every_part(small_config: Configs) -> None:
    config = small_config()
    prints = {
        config.fingerprint(),
        replace(config, width=48).fingerprint(),
        replace(config, rate_hz=4.0).fingerprint(),
        replace(config, latent=LatentConfig(transformer=TransformerConfig(depth=3, heads=2))).fingerprint(),
        small_config(tokens=4).fingerprint(),
        small_config(tubes=config.video.tubes[:1]).fingerprint(),
    }
    assert len(prints) == 6
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in prints)


def stored(config: ModelConfig, path: str, value: Any) -> str:
    """The config's JSON with one value changed; `path` is dotted, a value of `...` takes the field away."""
    data = json.loads(config.to_json())
    *parents, last = path.split(".")
    place = data
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 2, "config format 2; this version reads format 1"),
        ("format", ..., "config format None"),
        ("colour", "red", r"ModelConfig: unknown fields \['colour'\]"),
        ("video.codec", "h264", r"VideoConfig: unknown fields \['codec'\]"),
        ("width", ..., "ModelConfig: .*'width'"),
        ("audio.patch", ..., "AudioConfig: .*'patch'"),
        ("video", 3, "VideoConfig: wanted an object, not 3"),
        ("video.tubes", [7], "Tube: wanted an object, not 7"),
        ("video.tubes", [], "at least one tube"),
        ("video.tubes.0.stride", [1, 0, 1], "stride must be at least 1"),
        ("video.frames", 0, "every side must be at least 1"),
        ("video.frames", "four", "VideoConfig: .*"),
        ("video.frames", 3, r"yields no token on a clip of \(3, 32, 32\)"),
        ("video.encoder.heads", 0, "heads >= 1"),
        ("audio.frames", 15, "does not divide into patches"),
        ("combiner.tokens", 0, "at least 1 output token, not 0"),
        ("combiner.name", "perceiver", "no combiner is named 'perceiver'; there are transformer, ttm"),
        ("combiner.scope", "everything", "scope 'everything' is neither of current, all_so_far"),
        ("text.kv_heads", 3, "do not divide into 3 key-value heads"),
    ],
)
def test_a_stored_config_that_is_wrong_is_refused(path: str, value: Any, message: str, small_config: Configs) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_json(stored(small_config(), path, value))


@pytest.mark.parametrize("text", ["", "not json", "[1, 2]", "{}", "null"])
def test_text_that_is_no_config_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ModelConfig.from_json(text)


def test_options_that_exclude_each_other_are_refused() -> None:
    layer = TransformerConfig(depth=1, heads=1)
    with pytest.raises(ValueError, match="memory_tokens >= 1 and read_tokens >= 1"):
        CombinerConfig(name="ttm", tokens=4, transformer=layer)
    with pytest.raises(ValueError, match="3 read tokens are its 4 tokens"):
        CombinerConfig(name="ttm", tokens=4, transformer=layer, memory_tokens=8, read_tokens=3)
    with pytest.raises(ValueError, match="history >= 1"):
        CombinerConfig(name="transformer", tokens=4, transformer=layer, scope="all_so_far", history=0)
    with pytest.raises(ValueError, match="do not divide"):
        TextConfig(vocabulary=8, context=8, transformer=TransformerConfig(depth=1, heads=4), kv_heads=3)


def test_a_config_cannot_be_changed_in_place(small_config: Configs) -> None:
    with pytest.raises(FrozenInstanceError):
        small_config().width = 3  # type: ignore[misc]
