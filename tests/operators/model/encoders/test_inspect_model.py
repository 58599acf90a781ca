"""What a directory says of itself, told without loading weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from longtake.errors import CheckpointError
from longtake.operators.hub.card import read_card
from longtake.operators.inspect_model import describe
from longtake.operators.model.checkpoint import locate


@pytest.mark.parametrize(
    ("files", "licence", "about"),
    [
        (
            {"README.md": "---\nlicense: apache-2.0\ntags:\n- x\n---\n# Name\n\nWhat it is.\n"},
            "apache-2.0",
            "What it is.",
        ),
        ({"README.md": "---\nlicense:\n- mit\n- other\n---\n"}, "mit", ""),
        (
            {"README.md": "---\nlicense: other\nlicense_name: gemma\n---\nText: with a colon"},
            "gemma",
            "Text: with a colon",
        ),
        ({"README.md": "# Name\n**Licence:** 'CC BY 4.0'.\n"}, "CC BY 4.0", ""),
        ({"README.md": "Words.", "LICENSE": "\n  MIT License\n\nCopyright\n"}, "MIT License", "Words."),
        ({"LICENCE.txt": "Apache License\n"}, "Apache License", "no model card"),
        ({"README.md": "---\nlicense: mit\n---\n", "LICENSE": "Another\n"}, "mit", ""),
        ({}, "not stated", "no model card"),
    ],
)
def test_the_licence_is_the_cards_and_else_the_files(
    tmp_path: Path, files: dict[str, str], licence: str, about: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    card = read_card(tmp_path)
    assert (card.licence, card.about) == (licence, about)


@pytest.mark.parametrize(
    ("name", "model_class", "uses"),
    [
        ("siglip", "SiglipModel", ("--video-encoder PATH",)),
        ("vjepa2", "VJEPA2Model", ("--video-encoder PATH",)),
        ("whisper", "WhisperForConditionalGeneration", ("--audio-encoder PATH",)),
        ("clap", "ClapModel", ("--audio-encoder PATH",)),
    ],
)
def test_an_encoder_is_named_with_its_option(
    directory: Callable[[str], Path], name: str, model_class: str, uses: tuple[str, ...]
) -> None:
    path = directory(name)
    found = describe(path)
    assert (found.model_class, found.uses, found.problem) == (model_class, uses, None)
    assert found.size_bytes == (path / "model.safetensors").stat().st_size
    assert found.parameters == sum(one.numel() for one in load_file(path / "model.safetensors").values())


def test_other_models_are_named(tmp_path: Path, directory: Callable[[str], Path]) -> None:
    shipped = describe(locate("tiny"))
    assert (shipped.model_class, shipped.uses, shipped.card.licence) == ("LongTake", ("--model PATH",), "apache-2.0")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_5", "architectures": ["Q"]}))
    found = describe(tmp_path)
    assert (found.model_class, found.uses) == ("Q", ("--model vlm:PATH",))
    assert found.problem == "no *.safetensors in this model directory" and found.parameters is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    found = describe(tmp_path)
    assert (found.uses, found.problem) == ((), "models of class bert are not supported")
    broken = Path(shutil.copytree(directory("clip"), tmp_path / "clip"))
    (broken / "config.json").unlink()
    assert describe(broken).problem == "no config.json in this model directory"
    with pytest.raises(CheckpointError, match="not a model directory, and not a hub name"):
        describe(tmp_path / "nothing")
