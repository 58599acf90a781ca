"""Checkpoints: a directory with `config.json`, `model.safetensors` and `tokenizer.json`. No pickle is ever loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.errors import CheckpointError
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.model import LongTakeModel, named_towers

SHIPPED = Path(__file__).resolve().parent.parent / "weights"
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to use; `fingerprint` changes with the config or any weight."""

    model: LongTakeModel
    tokenizer: ChatTokenizer
    config: ModelConfig
    fingerprint: str
    path: Path | None


def locate(name_or_path: str) -> Path:
    """The directory of a shipped model's name or of a path.

    Raises:
        CheckpointError: neither a shipped model nor a directory.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return path
    if name_or_path in shipped():
        return SHIPPED / name_or_path
    raise CheckpointError(
        f"{name_or_path}: not a model directory, and not a shipped model ({', '.join(shipped()) or 'there is none'})"
    )


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{WEIGHTS}"))


def load_model(name_or_path: str, *, encoders: bool = True) -> LoadedModel:
    """Load a checkpoint, float32 on the CPU, in evaluation mode.

    Args:
        encoders: off, a model on public encoders is loaded without these and without its combiner: they need not fit
            into memory to answer from stored tokens. Other models are always loaded as a whole.
    Raises:
        CheckpointError: a file is missing or damaged, or the weights are not what the config says.
    """
    path = locate(name_or_path)
    for name in (CONFIG, WEIGHTS, TOKENIZER):
        if not (path / name).is_file():
            raise CheckpointError(f"{path}: no {name} in this model directory")
    try:
        config = ModelConfig.from_json((path / CONFIG).read_text())
    except ValueError as error:
        raise CheckpointError(f"{path / CONFIG}: {error}") from error
    try:
        weights = load_file(path / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path / WEIGHTS}: {error}") from error
    if encoders or (config.video.pretrained is None and config.audio.pretrained is None):
        model = _whole_model(path, config, weights)
        printed = fingerprint(model)
    else:
        model, printed = _answering_model(path, config, weights)
    try:
        tokenizer = ChatTokenizer.load(path / TOKENIZER)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{path / TOKENIZER}: {error}") from error
    if len(tokenizer) > config.text.vocabulary:
        raise CheckpointError(
            f"{path / TOKENIZER}: {len(tokenizer)} tokens, but the config has room for {config.text.vocabulary}"
        )
    return LoadedModel(model=model.eval(), tokenizer=tokenizer, config=config, fingerprint=printed, path=path)


def _whole_model(path: Path, config: ModelConfig, weights: dict[str, Tensor]) -> LongTakeModel:
    try:
        towers = named_towers(config, path)
    except CheckpointError as error:
        raise CheckpointError(f"{path / CONFIG}: {error}") from error
    return _filled(path, weights, lambda: LongTakeModel(config, towers))


def _answering_model(path: Path, config: ModelConfig, weights: dict[str, Tensor]) -> tuple[LongTakeModel, str]:
    """What answers of a model on public encoders, and the whole model's fingerprint."""
    from longtake.operators.model.encoders.towers import by_fingerprint, tower_fingerprints

    try:
        named = by_fingerprint(config, tower_fingerprints(config, path))
    except CheckpointError as error:
        raise CheckpointError(f"{path / CONFIG}: {error}") from error
    parts = ("latent_model.", "text_decoder.")
    own = {name: value for name, value in weights.items() if name.startswith(parts)}
    return _filled(path, own, lambda: LongTakeModel(config, encoders=False)), _digest(named, weights)


def _filled(path: Path, weights: dict[str, Tensor], build: Callable[[], LongTakeModel]) -> LongTakeModel:
    """The model that `build` makes, with these weights.

    Raises:
        CheckpointError: there is no such model, or its weights are others.
    """
    try:
        with torch.device("meta"):
            model = build()
    except (ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"{path / CONFIG}: no model can be built from it: {error}") from error
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if wanted != found:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise CheckpointError(f"{path / WEIGHTS}: {len(wrong)} tensors are not what the config says, first {wrong[0]}")
    # Built a second time for its fixed buffers, which a meta device cannot compute.
    model = build()
    model.load_state_dict(weights)
    return model


def save_model(path: Path, model: LongTakeModel, tokenizer: ChatTokenizer) -> None:
    """Write a checkpoint directory; weights in float32. Of a frozen public encoder only the projection is written."""
    path.mkdir(parents=True, exist_ok=True)
    (path / CONFIG).write_text(model.config.to_json())
    tokenizer.save(path / TOKENIZER)
    save_file(
        {name: value.detach().float().contiguous().cpu() for name, value in model.state_dict().items()}, path / WEIGHTS
    )


def fingerprint(model: LongTakeModel) -> str:
    """Sixteen hex digits of the config and of every weight.

    A public encoder counts by its own fingerprint, wherever its directory lies.
    """
    config = model.config
    if config.video.pretrained is not None or config.audio.pretrained is not None:
        from longtake.operators.model.encoders.tower_encoder import TowerEncoder
        from longtake.operators.model.encoders.towers import by_fingerprint

        encoders = {"video": model.video_encoder, "audio": model.audio_encoder}
        config = by_fingerprint(
            config,
            {part: encoder.fingerprint for part, encoder in encoders.items() if isinstance(encoder, TowerEncoder)},
        )
    return _digest(config, model.state_dict())


def _digest(config: ModelConfig, weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(config.to_json().encode())
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
