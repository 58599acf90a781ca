"""A model described without its weights is the model that is loaded with them."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("transformers", minversion="5.18")

from longtake.errors import CheckpointError
from longtake.operators.vlm import VLM
from longtake.operators.vlm.describe import describe_vlm

FAMILIES = ["qwen3_5", "qwen3_5_moe", "llava_onevision", "qwen2_5_omni", "qwen2_5_vl"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_numbers_are_those_of_the_loaded_model(
    directory: Callable[[str], Path], load: Callable[[str], VLM], family: str
) -> None:
    told, vlm = describe_vlm(directory(family)), load(family)
    assert told == pickle.loads(pickle.dumps(told))
    assert (told.fingerprint, told.width, told.front) == (vlm.fingerprint, vlm.width, vlm.front)
    assert told.width == vlm.family.model.get_input_embeddings().weight.shape[1]
    assert (told.pictures_a_step, told.sound_chunk_s) == (vlm.pictures_a_step, vlm.sound_chunk_s)
    assert told.sound_hz == vlm.family.sound_hz and (told.sound_hz > 0) == (family == "qwen2_5_omni")
    for height, width, most in ((1080, 1920, 256), (240, 320, 16), (10, 2000, 9), (16, 16, 256)):
        assert told.frame_size(height, width, most) == vlm.frame_size(height, width, most)


def test_what_is_wrong_is_one_line(directory: Callable[[str], Path], tmp_path: Path) -> None:
    broken = tmp_path / "model"
    shutil.copytree(directory("qwen3_5"), broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors in this model directory"):
        describe_vlm(broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "gemma3n"}))
    with pytest.raises(CheckpointError, match="class gemma3n are not supported"):
        describe_vlm(broken)
