"""Loading a public model's directory: what is recognised, and one clear line for everything that is wrong with it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers", minversion="5.18")

from longtake.errors import CheckpointError
from longtake.operators.hub import weights
from longtake.operators.hub.locate import INSTALL, require_transformers
from longtake.operators.vlm import Decoding, VLMAnswerer, load_vlm, read_video
from longtake.operators.vlm.loading import CLASSES

FAMILIES = ["qwen3_5", "qwen3_5_moe", "llava_onevision", "qwen2_5_omni", "qwen2_5_vl"]


@pytest.fixture
def broken(directory: Callable[[str], Path], tmp_path: Path) -> Path:
    """A directory to spoil."""
    return Path(shutil.copytree(directory("qwen3_5"), tmp_path / "model"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refused(path: Path | str, line: str, *how: Any) -> None:
    with pytest.raises(CheckpointError, match=line) as error:
        load_vlm(path, *how)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_class_is_recognised_by_its_directory(directory: Callable[[str], Path], family: str) -> None:
    vlm = load_vlm(str(directory(family)))
    assert type(vlm.family) is CLASSES[family][1]
    assert type(vlm.family.model).__name__ == CLASSES[family][0]
    assert vlm.dtype == torch.float32 and vlm.device == torch.device("cpu") and len(vlm.fingerprint) == 16
    assert not vlm.family.model.training
    assert (vlm.front is not None) == (family == "qwen2_5_omni")
    assert vlm.sound_chunk_s == (2.0 if vlm.front else 0.0)
    assert vlm.pictures_a_step == (1 if family == "llava_onevision" else 2)
    assert vlm.trained_positions == 4096


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_answers_too(
    scene: Callable[..., Any], directory: Callable[[str], Path], family: str, dtype: Any
) -> None:
    made = scene(family, sound=family == "qwen2_5_omni")
    vlm = load_vlm(directory(family), dtype)
    assert vlm.dtype == torch.bfloat16
    snippet = vlm.encode_snippet(made.clips()[0], combiner="pool", tokens=6)
    assert snippet.tokens_ND.dtype == torch.bfloat16
    full = made.vlm.encode_snippet(made.clips()[0], combiner="pool", tokens=6)
    error = (snippet.tokens_ND.float() - full.tokens_ND).norm() / full.tokens_ND.norm()
    assert float(error) < 0.05
    prefix = read_video(vlm, made.video(combiner="pool", tokens=6))
    answer = VLMAnswerer(vlm).answer(prefix, "what?", Decoding(limit=3))
    assert 0 < answer.probability <= 1 and float(answer.weights_T.sum()) == pytest.approx(1, abs=1e-5)


def test_the_thinker_comes_out_of_a_whole_omni_checkpoint(
    scene: Callable[..., Any], directory: Callable[[str], Path], tmp_path: Path
) -> None:
    # As published: one checkpoint of thinker, talker and vocoder, the thinker under a name of its own.
    made, path = scene("qwen2_5_omni", sound=True), tmp_path / "omni"
    shutil.copytree(directory("qwen2_5_omni"), path)
    thinker = json.loads((path / "config.json").read_text())
    whole = {"model_type": "qwen2_5_omni", "thinker_config": thinker, "architectures": ["Qwen2_5OmniModel"]}
    (path / "config.json").write_text(json.dumps(whole))
    tensors = load_file(path / "model.safetensors")
    named = {f"thinker.{published_name(name)}": tensor for name, tensor in tensors.items()}
    save_file({**named, "talker.codec_head.weight": torch.zeros(2, 2)}, path / "model.safetensors", {"format": "pt"})
    vlm = load_vlm(path)
    clip = made.clips()[0]
    assert torch.equal(vlm.encode_snippet(clip).tokens_ND, made.vlm.encode_snippet(clip).tokens_ND)
    ours, theirs = (VLMAnswerer(one).question_logits(read_video(one, made.video()), "what?") for one in (vlm, made.vlm))
    assert torch.equal(ours, theirs)


def published_name(name: str) -> str:
    """A tensor's name in the published files, from its name in the file that transformers 5 writes."""
    return (
        name.removeprefix("model.")
        if name.startswith(("model.visual", "model.audio_tower"))
        else name.replace("model.language_model.", "model.")
    )


def test_the_template_may_lie_in_a_json_file(directory: Callable[[str], Path], broken: Path) -> None:
    plain = broken / "chat_template.jinja"
    (broken / "chat_template.json").write_text(json.dumps({"chat_template": plain.read_text()}))
    plain.unlink()
    assert load_vlm(broken).family.prompt.template == (directory("qwen3_5") / "chat_template.jinja").read_text()
    (broken / "chat_template.json").write_text("{}")
    refused(broken, "chat_template.json")
    (broken / "chat_template.json").unlink()
    refused(broken, r"no chat_template\.jinja")


def test_the_fingerprint_tells_weights_and_configs_apart_and_not_dtypes(
    directory: Callable[[str], Path], broken: Path
) -> None:
    first = load_vlm(directory("qwen3_5")).fingerprint
    assert load_vlm(broken).fingerprint == first
    assert load_vlm(broken, "bfloat16").fingerprint == first
    edit(broken / "preprocessor_config.json", image_std=[0.5, 0.5, 0.5])
    assert load_vlm(broken).fingerprint != first
    shutil.copy(directory("qwen3_5") / "preprocessor_config.json", broken)
    tensors = load_file(broken / "model.safetensors")
    name = sorted(tensors)[len(tensors) // 2]
    tensors[name].view(-1)[0] += 1
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    assert load_vlm(broken).fingerprint != first


def test_the_fingerprint_samples_start_middle_and_end_of_every_tensor(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "SAMPLE_BYTES", 64)
    file = broken / "model.safetensors"
    content = file.read_bytes()
    data = 8 + int.from_bytes(content[:8], "little")
    spans = [tensor["data_offsets"] for tensor in weights.header(file).values()]
    seen = {weights.fingerprint(broken, [file])}
    places = {place for start, stop in spans[:8] for place in (start, (start + stop) // 2, stop - 1)}
    for place in places:
        changed = bytearray(content)
        changed[data + place] ^= 1
        file.write_bytes(changed)
        seen.add(weights.fingerprint(broken, [file]))
    assert len(seen) == 1 + len(places)


def test_a_class_that_is_not_supported(broken: Path) -> None:
    edit(broken / "config.json", model_type="gemma3n")
    refused(broken, "class gemma3n are not supported; supported are qwen3_5, qwen3_5_moe, llava_onevision")
    edit(broken / "config.json", model_type="qwen3_5", quantization_config={"quant_method": "fp8"})
    refused(broken, "quantised by fp8 are not supported; take the bfloat16")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("config.json", r"no config\.json"),
        ("model.safetensors", r"no \*\.safetensors"),
        ("tokenizer.json", r"no tokenizer\.json"),
        ("chat_template.jinja", r"no chat_template\.jinja"),
    ],
)
def test_a_missing_file(broken: Path, name: str, line: str) -> None:
    (broken / name).unlink()
    refused(broken, line)


def test_missing_files_that_have_others_beside_them(broken: Path) -> None:
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (broken / name).unlink()
    refused(broken, r"no preprocessor_config\.json")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(broken, "1 of 2 weight files are missing, first model-00001-of-00002.safetensors")
    (broken / "model.safetensors.index.json").write_text("[]")
    refused(broken, "index.json")


def test_damaged_files(broken: Path) -> None:
    (broken / "config.json").write_text("{")
    refused(broken, r"config\.json")
    (broken / "config.json").write_text("[1]")
    refused(broken, "wanted a JSON object, not list")


def test_a_tokenizer_of_another_model(directory: Callable[[str], Path], broken: Path) -> None:
    shutil.copy(directory("llava_onevision") / "tokenizer.json", broken)
    refused(broken, r"the tokenizer reads <\|video_pad\|> as .*, config\.json says ")
    (broken / "tokenizer.json").write_text("{}")
    refused(broken, "tokenizer cannot be loaded")


def test_damaged_weights(broken: Path) -> None:
    file = broken / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    refused(broken, "cut short")
    file.write_bytes(b"\x80\x02pickle")
    refused(broken, "no safetensors file")
    file.unlink()
    (broken / "pytorch_model.bin").write_bytes(b"")
    refused(broken, r"pytorch_model\.bin is a pickle, which is never loaded")


def test_weights_that_are_not_what_the_config_says(broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    name = next(one for one in sorted(tensors) if "mlp" in one)
    gone = {key: value for key, value in tensors.items() if key != name}
    save_file(gone, broken / "model.safetensors", {"format": "pt"})
    refused(broken, r"1 tensors are not what config\.json says, first .*mlp")
    save_file({**tensors, name: torch.zeros(3, 3)}, broken / "model.safetensors", {"format": "pt"})
    refused(broken, "cannot be loaded|1 tensors are not what")


@pytest.mark.parametrize("dtype", ["int8", "float64", "fp16", torch.int32])
def test_a_dtype_that_it_does_not_run_in(directory: Callable[[str], Path], dtype: Any) -> None:
    refused(directory("qwen3_5"), "runs in float32, bfloat16, float16", dtype)


def test_a_device_that_is_not_there(directory: Callable[[str], Path]) -> None:
    refused(directory("qwen3_5"), "device 'abacus' is unknown", "float32", "abacus")
    if not torch.cuda.is_available():
        refused(directory("qwen3_5"), "torch sees no GPU here; use cpu", "float32", "cuda")


def test_too_little_memory(directory: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory("qwen3_5")
    files = weights.weight_files(path)
    parameters = sum(tensor.numel() for tensor in load_file(files[0]).values())
    assert weights.weights_bytes(files, torch.float32) == parameters * 4
    assert 2**20 < weights.available_bytes(torch.device("cpu")) < 2**45
    monkeypatch.setattr(weights, "available_bytes", lambda _: 3 * 2**28)
    monkeypatch.setattr(weights, "weights_bytes", lambda _, dtype: 2**29 * dtype.itemsize)
    refused(path, r"take 2\.0 GiB in float32 and cpu has 0\.8 GiB free; bfloat16 takes half, or use a smaller model")
    refused(path, r"take 1\.0 GiB in bfloat16 and cpu has 0\.8 GiB free; use a smaller model", "bfloat16")


def test_no_directory_and_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path / "nowhere", "not a model directory, and not a hub name")
    import huggingface_hub

    def unreachable(*_: Any, **__: Any) -> str:
        raise ConnectionError("no network\nhere")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    refused("someone/some-model", "not to be had from the hub: no network here")


def test_a_hub_name_is_downloaded_without_pickles(
    directory: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.extend([name, allow_patterns])
        return str(directory("qwen3_5"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_vlm("Qwen/Qwen3.5-0.8B").path == directory("qwen3_5")
    assert asked[0] == "Qwen/Qwen3.5-0.8B" and "*.safetensors" in asked[1]
    assert not any("bin" in one or one == "*" or ".py" in one for one in asked[1])


def test_transformers_missing_or_old(directory: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(require_transformers(), "__version__", "4.57.1")
    refused(directory("qwen3_5"), r"transformers 4\.57\.1 is too old for public models, 5\.18 is wanted: pip install")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(directory("qwen3_5"), "public models need transformers 5.18 or newer: " + INSTALL.replace("[", r"\["))


def test_a_template_that_places_no_video(broken: Path) -> None:
    (broken / "chat_template.jinja").write_text("{{ messages[0].role }}")
    vlm = load_vlm(broken)
    with pytest.raises(CheckpointError, match="places no video"):
        vlm.family.prompt.around("what?")
    (broken / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    with pytest.raises(CheckpointError, match="cannot be rendered"):
        load_vlm(broken).family.prompt.around("what?")
