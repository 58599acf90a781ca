"""What a model's directory is and what LongTake can do with it, from its files alone: no weights are loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtake.errors import CheckpointError
from longtake.operators.hub.card import Card, card_folder, read_card
from longtake.operators.hub.locate import read_config
from longtake.operators.hub.weights import header, weight_files
from longtake.operators.model.encoders import public_audio, public_vision
from longtake.operators.vlm.loading import CLASSES


@dataclass(frozen=True, kw_only=True)
class Described:
    """A model directory. `uses` is empty where LongTake has none for it, and `problem` says why it cannot be loaded.

    `parameters` and `size_bytes` are None where the weights are not on this machine.
    """

    name: str
    path: str
    model_class: str
    uses: tuple[str, ...]
    card: Card
    parameters: int | None
    size_bytes: int | None
    problem: str | None


def describe(path: str | Path) -> Described:
    """Look at a directory, or at a hub name, of which the config and the card are fetched and no weights.

    Raises:
        CheckpointError: there is neither.
    """
    folder = card_folder(path)
    problem, config = None, {}
    try:
        config = read_config(folder)
    except CheckpointError as error:
        problem = _reason(error, folder)
    model_class, uses = _recognise(config)
    if problem is None and not uses:
        problem = f"models of class {model_class} are not supported"
    parameters, size_bytes = None, None
    try:
        files = weight_files(folder)
        shapes = [tensor["shape"] for file in files for tensor in header(file).values()]
        parameters = sum(math.prod(map(int, shape)) for shape in shapes)
        size_bytes = sum(file.stat().st_size for file in files)
    except CheckpointError as error:
        if Path(path).expanduser().is_dir():
            problem = problem or _reason(error, folder)
    return Described(
        name=str(path),
        path=str(folder),
        model_class=model_class,
        uses=uses,
        card=read_card(folder),
        parameters=parameters,
        size_bytes=size_bytes,
        problem=problem,
    )


def _recognise(config: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The class that a config names, and its uses, each as the option that takes it."""
    kind = str(config.get("model_type", "-"))
    named = config.get("architectures")
    if "model_type" not in config and {"combiner", "latent", "text"} <= set(config):
        return "LongTake", ("--model PATH",)
    uses = [
        use
        for use, kinds in (
            ("--model vlm:PATH", CLASSES),
            ("--video-encoder PATH", public_vision.SOURCES),
            ("--audio-encoder PATH", public_audio.SOURCES),
        )
        if kind in kinds
    ]
    return str(named[0]) if isinstance(named, list) and named else kind, tuple(uses)


def _reason(error: CheckpointError, folder: Path) -> str:
    return str(error).removeprefix(f"{folder}: ")
