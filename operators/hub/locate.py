"""From a model directory's path or hub name to its files: transformers at hand, the directory, its config."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from longtake.errors import CheckpointError
from longtake.operators.hub.weights import one_line

# The oldest transformers whose classes were checked, and how to get it.
OLDEST, INSTALL = "5.18", 'pip install "longtake[pretrained]"'


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
