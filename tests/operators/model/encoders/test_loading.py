"""What is wrong with a directory is said in one line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from longtake.errors import CheckpointError
from longtake.operators.model.encoders import load_picture_encoder, load_sound_encoder

LOADERS: dict[str, Callable[..., Any]] = {"clip": load_picture_encoder, "whisper": load_sound_encoder}


@pytest.fixture
def copy(directory: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A directory to be changed; what is named is changed in one of its JSON files, None removes it."""

    def make(name: str, file: str | None = None, **changes: Any) -> Path:
        path = Path(shutil.copytree(directory(name), tmp_path / name))
        if file is not None:
            content = json.loads((path / file).read_text()) | changes
            kept = {key: value for key, value in content.items() if value is not None}
            (path / file).write_text(json.dumps(kept))
        return path

    return make


def refused(loader: Callable[..., Any], path: Path | str, wanted: str, **how: Any) -> None:
    with pytest.raises(CheckpointError, match=wanted) as caught:
        loader(path, **how)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LOADERS)
def test_what_is_missing_is_named(copy: Callable[..., Path], name: str) -> None:
    loader, path = LOADERS[name], copy(name)
    refused(loader, path / "nothing", "not a model directory")
    (path / "preprocessor_config.json").unlink()
    refused(loader, path, "no preprocessor_config.json")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    refused(loader, path, "no .*safetensors .* a pickle, which is never loaded")
    (path / "config.json").unlink()
    refused(loader, path, "no config.json")


def test_an_unknown_class_is_named(copy: Callable[..., Path]) -> None:
    refused(load_sound_encoder, copy("clip"), "class clip are no sound encoder; supported are whisper, clap")
    refused(load_picture_encoder, copy("whisper"), "class whisper are no picture encoder; supported are siglip")


def test_a_wrong_dtype_layer_or_device_is_named(directory: Callable[[str], Path]) -> None:
    refused(load_picture_encoder, directory("clip"), "dtype int8", dtype=torch.int8)
    refused(load_picture_encoder, directory("clip"), "no layer 4; hidden states are 0 to 3", layer=4)
    refused(load_sound_encoder, directory("whisper"), "no layer -5; .* or -4 to -1", layer=-5)
    refused(load_sound_encoder, directory("clap"), "no layer 7; hidden states are 0 to 3", layer=7)
    refused(load_picture_encoder, directory("clip"), "device 'abacus' is unknown", device="abacus")


def test_without_transformers_it_says_how_to_get_it(
    directory: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = directory("clip")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(load_picture_encoder, path, r"pip install \"longtake\[pretrained\]\"")
    refused(load_sound_encoder, path, r"pip install \"longtake\[pretrained\]\"")


@pytest.mark.parametrize(
    ("name", "changes", "wanted"),
    [
        (
            "clip",
            {"image_processor_type": "BitImageProcessor"},
            "prepared by BitImageProcessor; supported is CLIPImage",
        ),
        ("clip", {"resample": 1}, "resample 1 is not supported"),
        ("clip", {"size": {"longest_edge": 32}}, "size .* is not supported"),
        ("clip", {"crop_size": 40}, r"prepared to \(40, 40\), the model's are 32 x 32"),
        ("clip", {"image_mean": None}, "image_mean and image_std must be 3 numbers"),
        ("siglip2", {"patch_size": 16}, "patch_size is 16, the model's 8"),
        ("vjepa2", {"do_center_crop": False}, "prepared to .*, the model's are 32 x 32"),
    ],
)
def test_pictures_prepared_otherwise_are_refused(
    copy: Callable[..., Path], name: str, changes: dict[str, Any], wanted: str
) -> None:
    refused(load_picture_encoder, copy(name, "preprocessor_config.json", **changes), wanted)


@pytest.mark.parametrize(
    ("name", "changes", "wanted"),
    [
        ("whisper", {"feature_extractor_type": "ASTFeatureExtractor"}, "prepared by AST.*; supported is Whisper"),
        ("whisper", {"feature_size": 80}, "feature_size is 80, wanted 16"),
        ("whisper", {"chunk_length": 30}, "prepared in 3000 frames; wanted 200"),
        ("ast", {"max_length": 1024}, "max_length is 1024, the model's 204"),
        ("clap", {"feature_size": 64}, "feature_size is 64, wanted 16"),
        ("clap", {"padding": "mirror"}, "padding mirror is not supported"),
    ],
)
def test_sound_prepared_otherwise_is_refused(
    copy: Callable[..., Path], name: str, changes: dict[str, Any], wanted: str
) -> None:
    refused(load_sound_encoder, copy(name, "preprocessor_config.json", **changes), wanted)


@pytest.mark.parametrize("name", LOADERS)
def test_a_tower_that_is_not_complete_is_refused(copy: Callable[..., Path], name: str) -> None:
    from safetensors.torch import load_file, save_file

    path = copy(name)
    tensors = load_file(path / "model.safetensors")
    key = next(key for key in sorted(tensors) if ("vision_model" in key or "encoder" in key) and "layers.1" in key)
    save_file(
        {one: tensor for one, tensor in tensors.items() if one != key}, path / "model.safetensors", {"format": "pt"}
    )
    refused(LOADERS[name], path, "1 tensors are not what config.json says")


def test_older_files_are_read(copy: Callable[..., Path]) -> None:
    """CLIP's first files name the extractor and give single numbers."""
    path = copy(
        "clip", "preprocessor_config.json", image_processor_type=None, feature_extractor_type="CLIPFeatureExtractor",
        size=36, rescale_factor=None,
    )  # fmt: skip
    preparation = load_picture_encoder(path).tower.preparation
    assert (preparation.size, preparation.crop, preparation.target(72, 144)) == (36, (32, 32), (36, 72))


def test_the_fingerprint_follows_the_preprocessor_and_the_dtype(copy: Callable[..., Path]) -> None:
    path = copy("clip")
    first = load_picture_encoder(path).fingerprint
    assert load_picture_encoder(path, layer=1).fingerprint == first
    assert load_picture_encoder(path, dtype="bfloat16").fingerprint != first
    content = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").write_text(json.dumps(content | {"resample": 2}))
    assert load_picture_encoder(path).fingerprint != first


@pytest.mark.parametrize(
    ("name", "inner"),
    [("siglip", "vision_model"), ("siglip2", "vision_model"), ("clip", "vision_model"), ("clap", "audio_model"),
     ("ast", "audio_spectrogram_transformer")],
)  # fmt: skip
def test_a_tower_that_was_published_alone_is_the_same(
    directory: Callable[[str], Path], uncut: Callable[[str], Any], tmp_path: Path, name: str, inner: str
) -> None:
    uncut(name).get_submodule(inner).save_pretrained(tmp_path)
    shutil.copy(directory(name) / "preprocessor_config.json", tmp_path)
    loader = load_sound_encoder if name in ("clap", "ast") else load_picture_encoder
    whole, alone = (loader(path, layer=-2).tower.state_dict() for path in (directory(name), tmp_path))
    assert whole.keys() == alone.keys()
    assert all(torch.equal(whole[key], alone[key]) for key in whole)


def test_a_video_classifier_is_read_as_its_encoder(
    directory: Callable[[str], Path], uncut: Callable[[str], Any], tmp_path: Path
) -> None:
    import transformers

    classifier = transformers.VJEPA2ForVideoClassification(uncut("vjepa2").config)
    classifier.vjepa2.load_state_dict(uncut("vjepa2").state_dict())
    classifier.save_pretrained(tmp_path)
    # As published: the file has its own name for videos.
    shutil.copy(directory("vjepa2") / "preprocessor_config.json", tmp_path / "video_preprocessor_config.json")
    whole, alone = (load_picture_encoder(path).tower.state_dict() for path in (directory("vjepa2"), tmp_path))
    assert whole.keys() == alone.keys() and all(torch.equal(whole[key], alone[key]) for key in whole)
