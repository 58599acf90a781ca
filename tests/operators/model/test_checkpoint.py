"""Checkpoint directories: what is written is what is read, and every way of being damaged is said in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longtake.errors import CheckpointError
from longtake.operators.model import checkpoint
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.checkpoint import LoadedModel, fingerprint, load_model, locate, save_model
from longtake.operators.model.config import ModelConfig
from longtake.operators.synthetic.random_model import random_model

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def made(world_config: ModelConfig) -> LoadedModel:
    return random_model(world_config, seed=1)


@pytest.fixture
def saved(made: LoadedModel, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", made.model, made.tokenizer)
    return tmp_path / "model"


def test_a_saved_model_loads_to_the_same_one(made: LoadedModel, saved: Path) -> None:
    loaded = load_model(str(saved))
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (loaded.config, loaded.fingerprint, loaded.path) == (made.config, made.fingerprint, saved)
    assert not loaded.model.training
    wanted = made.model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.model.state_dict().items())
    # Fixed buffers, which no file holds, are there too: the same input gives the same tokens.
    video, audio = made.config.video, made.config.audio
    frames = torch.randint(0, 256, (1, *video.clip, 3), dtype=torch.uint8)
    masks = torch.ones(1, video.frames, dtype=torch.bool), torch.ones(1, audio.frames, dtype=torch.bool)
    mel = torch.randn(1, audio.frames, audio.mels)
    with torch.no_grad():
        a, b = (model.features(frames, masks[0], mel, masks[1]) for model in (loaded.model, made.model))
    assert torch.equal(a.video_BND, b.video_BND) and torch.equal(a.audio_BND, b.audio_BND)
    assert loaded.tokenizer.prompt("what was shown?") == made.tokenizer.prompt("what was shown?")


def test_weights_of_half_precision_are_kept_as_float32(made: LoadedModel, tmp_path: Path) -> None:
    half = random_model(made.config, seed=1).model.to(torch.bfloat16)
    save_model(tmp_path, half, made.tokenizer)
    loaded = load_model(str(tmp_path))
    assert {value.dtype for value in loaded.model.state_dict().values()} == {torch.float32}
    assert loaded.fingerprint == fingerprint(half) != made.fingerprint


def test_the_fingerprint_changes_with_one_weight_and_with_the_config(made: LoadedModel) -> None:
    other = random_model(made.config, seed=1)
    assert other.fingerprint == made.fingerprint and len(made.fingerprint) == 16
    with torch.no_grad():
        weight = other.model.text_decoder.head.weight
        before = float(weight[7, 3])
        weight[7, 3] = torch.nextafter(weight[7, 3], torch.tensor(10.0))
        assert fingerprint(other.model) != made.fingerprint
        weight[7, 3] = before
    assert fingerprint(other.model) == made.fingerprint
    assert random_model(made.config, seed=2).fingerprint != made.fingerprint
    renamed = dataclasses.replace(made.config, rate_hz=4.0)
    assert random_model(renamed, seed=1).fingerprint != made.fingerprint


def test_a_random_model_has_room_for_the_worlds_words_and_leaves_random_numbers_alone(
    small_config: Callable[..., ModelConfig],
) -> None:
    torch.manual_seed(4)
    wanted = torch.rand(2)
    torch.manual_seed(4)
    loaded = random_model(small_config())
    assert torch.equal(torch.rand(2), wanted)
    assert loaded.config.text.vocabulary == len(loaded.tokenizer) > small_config().text.vocabulary


def one_line(error: CheckpointError, *parts: str) -> None:
    assert "\n" not in str(error).strip() and all(part in str(error) for part in parts), str(error)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError) as raised:
        load_model(str(saved))
    one_line(raised.value, str(saved), f"no {name} in this model directory")


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gigantic: not a model directory, and not a shipped model"):
        load_model("gigantic")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="not a model directory"):
        locate(str(tmp_path / "file"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 100)


def pickled(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, no_header, pickled, empty])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_named(saved: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(saved / name)
    with pytest.raises(CheckpointError) as raised:
        load_model(str(saved))
    assert str(raised.value).startswith(f"{saved / name}: ")


def without_one(weights: dict[str, torch.Tensor]) -> None:
    del weights["text_decoder.head.weight"]


def one_too_many(weights: dict[str, torch.Tensor]) -> None:
    weights["text_decoder.head.weight_2"] = torch.zeros(2)


def another_shape(weights: dict[str, torch.Tensor]) -> None:
    weights["text_decoder.head.weight"] = weights["text_decoder.head.weight"][:-1].contiguous()


@pytest.mark.parametrize("change", [without_one, one_too_many, another_shape])
def test_weights_that_are_not_the_configs_are_named(
    saved: Path, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    weights = load_file(saved / "model.safetensors")
    change(weights)
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(CheckpointError) as raised:
        load_model(str(saved))
    one_line(raised.value, f"{saved / 'model.safetensors'}: 1 tensors are not what the config says", "head.weight")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("width",), 25),
        (("width",), "wide"),
        (("width",), -24),
        (("width",), None),
        (("text", "transformer", "heads"), 7),
        (("latent", "transformer", "heads"), 24),
        (("text", "kv_heads"), 0),
        (("combiner", "name"), "blender"),
        (("video", "tubes"), []),
        (("format",), 99),
        (("colour",), "red"),
    ],
)
def test_a_config_that_no_model_can_have_is_named(saved: Path, path: tuple[str, ...], value: object) -> None:
    config = json.loads((saved / "config.json").read_text())
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as raised:
        load_model(str(saved))
    assert str(raised.value).startswith(f"{saved / 'config.json'}: "), str(raised.value)


def test_a_tokenizer_too_large_for_the_config_is_named(saved: Path) -> None:
    ChatTokenizer.from_words([f"word{n}" for n in range(200)]).save(saved / "tokenizer.json")
    with pytest.raises(CheckpointError) as raised:
        load_model(str(saved))
    one_line(raised.value, f"{saved / 'tokenizer.json'}: 208 tokens, but the config has room for 80")


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self.mark, "a pickle was loaded"))


def test_no_pickle_is_ever_read(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for name in ("pytorch_model.bin", "model.pt", "model.pkl", "data.pkl", "state.pt"):
        (saved / name).write_bytes(pickle.dumps(Bomb(mark)))
    # A directory with bombs beside the right files loads, and one whose weights are a bomb does not; in neither does
    # anything unpickle, of which the interpreter itself gives notice.
    bad = tmp_path / "bad"
    shutil.copytree(saved, bad)
    (bad / "model.safetensors").write_bytes(pickle.dumps(Bomb(mark)))
    program = """
import sys
from longtake.operators.model.checkpoint import load_model
from longtake.errors import CheckpointError
def watch(event, args):
    if event.startswith("pickle."):
        print("unpickled", args, flush=True)
sys.addaudithook(watch)
load_model(sys.argv[1])
print("loaded", flush=True)
try:
    load_model(sys.argv[2])
except CheckpointError:
    print("refused", flush=True)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program, saved, bad], env=env, capture_output=True, text=True)
    assert done.stdout.split("\n") == ["loaded", "refused", ""], done.stdout + done.stderr[-2000:]
    assert not mark.exists()


def test_shipped_models_are_found_by_name(made: LoadedModel, saved: Path, tmp_path: Path) -> None:
    # What is shipped is what lies in the package; each of it loads and fits its budget.
    for name in checkpoint.shipped():
        folder = locate(name)
        assert load_model(name).config.name == name
        assert sum(path.stat().st_size for path in folder.iterdir()) < 20e6
    # A directory of one's own by the same name comes first.
    assert locate(str(saved)) == saved
