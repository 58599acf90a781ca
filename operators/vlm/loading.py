"""From a model directory to a model that runs: which class it is, whether it is complete, whether it fits.

`transformers` is an extra: it is imported only when a public model is used.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from longtake.errors import CheckpointError
from longtake.operators.hub.class_loading import load_class
from longtake.operators.hub.locate import (
    locate,
    read_config,
    require_transformers,
    resolve_device,
    resolve_dtype,
)
from longtake.operators.hub.weights import check_memory, fingerprint, one_line, weight_files
from longtake.operators.vlm.family import Family
from longtake.operators.vlm.llava_onevision import LlavaOnevision
from longtake.operators.vlm.model import VLM
from longtake.operators.vlm.qwen2_5 import Qwen25Omni, Qwen25VL
from longtake.operators.vlm.qwen3_5 import Qwen35

# model_type of config.json: the class of transformers, and the family that drives it.
CLASSES: dict[str, tuple[str, type[Family]]] = {
    "qwen3_5": ("Qwen3_5ForConditionalGeneration", Qwen35),
    "qwen3_5_moe": ("Qwen3_5MoeForConditionalGeneration", Qwen35),
    "llava_onevision": ("LlavaOnevisionForConditionalGeneration", LlavaOnevision),
    "qwen2_5_omni": ("Qwen2_5OmniThinkerForConditionalGeneration", Qwen25Omni),
    "qwen2_5_omni_thinker": ("Qwen2_5OmniThinkerForConditionalGeneration", Qwen25Omni),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", Qwen25VL),
}


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
