"""From a model directory to a model that runs: which class it is, whether it is complete, whether it fits.

`transformers` is an extra: nothing but this package and `operators/pretrained` imports it, and only when it is used.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch

from longtake.operators.errors import CheckpointError
from longtake.operators.vlm.class_loading import load_class
from longtake.operators.vlm.family import Family
from longtake.operators.vlm.llava_onevision import LlavaOnevision
from longtake.operators.vlm.model import VLM
from longtake.operators.vlm.qwen2_5 import Qwen25Omni, Qwen25VL
from longtake.operators.vlm.qwen3_5 import Qwen35
from longtake.operators.vlm.weights import check_memory, fingerprint, one_line, weight_files

# The oldest transformers whose classes were checked, and how to get it.
OLDEST, INSTALL = "5.18", 'pip install "longtake[pretrained]"'
# model_type of config.json: the class of transformers, and the family that drives it.
CLASSES: dict[str, tuple[str, type[Family]]] = {
    "qwen3_5": ("Qwen3_5ForConditionalGeneration", Qwen35),
    "qwen3_5_moe": ("Qwen3_5MoeForConditionalGeneration", Qwen35),
    "llava_onevision": ("LlavaOnevisionForConditionalGeneration", LlavaOnevision),
    "qwen2_5_omni": ("Qwen2_5OmniThinkerForConditionalGeneration", Qwen25Omni),
    "qwen2_5_omni_thinker": ("Qwen2_5OmniThinkerForConditionalGeneration", Qwen25Omni),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", Qwen25VL),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_vlm(path: str | Path, dtype: str | torch.dtype = "float32", device: str | torch.device = "cpu") -> VLM:
    """Load a public vision-language model, in evaluation mode.

    Args:
        path: a directory with `config.json`, `*.safetensors`, a tokenizer, a chat template and the preprocessor's
            files; or a hub name such as `Qwen/Qwen3.5-0.8B`, which huggingface_hub downloads once.
        dtype: float32, bfloat16 or float16 of the weights and of the computation.
    Raises:
        CheckpointError: transformers is missing or old, the class is unknown, a file is missing or damaged, the dtype
            is none of the above, quantised weights, or too little memory; one line that says what to do.
    """
    transformers = require_transformers()
    wanted = resolve_dtype(dtype)
    target = resolve_device(device)
    if target.type == "cpu":
        # It would warn of programs that are missing: those are for GPUs.
        logging.getLogger("transformers.integrations.hub_kernels").setLevel(logging.ERROR)
    folder = locate(path)
    config = read_config(folder)
    name, family = recognise(folder, config)
    files = weight_files(folder)
    check_memory(folder, files, wanted, target)
    tokenizer = _load_tokenizer(transformers, folder)
    model = load_class(transformers, name, folder, wanted)
    model = model.to(target).eval().requires_grad_(False)
    return VLM(
        family=family(model, tokenizer, folder),
        path=folder,
        fingerprint=fingerprint(folder, files),
        end_ids=_end_ids(folder, model, tokenizer),
    )


def require_transformers() -> Any:
    """The transformers module.

    Raises:
        CheckpointError: it is not installed, or too old.
    """
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError(f"public models need transformers {OLDEST} or newer: {INSTALL}") from error
    have = tuple(int(part) for part in re.findall(r"\d+", transformers.__version__)[:2])
    if have < tuple(int(part) for part in OLDEST.split(".")):
        raise CheckpointError(
            f"transformers {transformers.__version__} is too old for public models, {OLDEST} is wanted: {INSTALL}"
        )
    return transformers


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype of a name.

    Raises:
        CheckpointError: none of float32, bfloat16 and float16.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise CheckpointError(f"dtype {name}: a public model runs in {', '.join(DTYPES)}")
    return DTYPES[name]


def resolve_device(device: str | torch.device) -> torch.device:
    """A device that is there.

    Raises:
        CheckpointError: an unknown device, or a GPU that torch does not see.
    """
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise CheckpointError(f"device {device!r} is unknown; wanted cpu or cuda") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device {target}: torch sees no GPU here; use cpu")
    return target


def locate(path: str | Path) -> Path:
    """The directory of a path or of a hub name.

    Raises:
        CheckpointError: neither, or the hub cannot be reached.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise CheckpointError(f"{path}: not a model directory, and not a hub name like Qwen/Qwen3.5-0.8B")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.jinja", "*.txt", "*.safetensors", "README.md", "LICENSE*"]
    try:
        return Path(snapshot_download(str(path), allow_patterns=patterns))
    except Exception as error:  # the hub's client raises many classes
        raise CheckpointError(
            f"{path}: no such directory, and not to be had from the hub: {one_line(error)}"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """The directory's config.json.

    Raises:
        CheckpointError: missing, no JSON object, or of quantised weights.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder}: no config.json in this model directory")
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: wanted a JSON object, not {type(config).__name__}")
    if "quantization_config" in config:
        kind = dict(config["quantization_config"] or {}).get("quant_method", "unknown")
        raise CheckpointError(f"{folder}: weights quantised by {kind} are not supported; take the bfloat16 ones")
    return config


def recognise(folder: Path, config: dict[str, Any]) -> tuple[str, type[Family]]:
    """The class of transformers and the family of a config.

    Raises:
        CheckpointError: a class that is not supported.
    """
    kind = str(config.get("model_type"))
    if kind not in CLASSES:
        raise CheckpointError(f"{folder}: models of class {kind} are not supported; supported are {', '.join(CLASSES)}")
    return CLASSES[kind]


def _load_tokenizer(transformers: Any, folder: Path) -> Any:
    # Without either, transformers makes an empty tokenizer and says nothing.
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise CheckpointError(f"{folder}: no tokenizer.json in this model directory")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever the files led it to
        raise CheckpointError(f"{folder}: the tokenizer cannot be loaded: {one_line(error)}") from error


def _end_ids(folder: Path, model: Any, tokenizer: Any) -> frozenset[int]:
    """The token ids that end an answer."""
    named = model.generation_config.eos_token_id
    ids = {int(one) for one in (named if isinstance(named, list) else [named]) if one is not None}
    if tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    if not ids:
        raise CheckpointError(f"{folder}: neither generation_config.json nor the tokenizer says what ends an answer")
    return frozenset(ids)
