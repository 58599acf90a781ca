"""From a model directory to the one tower of it that is wanted, cut after the layer that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from longtake.errors import CheckpointError
from longtake.operators.hub.class_loading import load_class
from longtake.operators.hub.locate import locate, read_config, require_transformers, resolve_device, resolve_dtype
from longtake.operators.hub.weights import check_memory, fingerprint, weight_files


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a class of transformers keeps its tower.

    `loaded` is the class, `inner` the tower's place in it (empty where it is the tower itself). Within the tower are
    `layers` and the last `norm` (empty where the last hidden state has none); `tied` says that the class names the
    normalised state as the last of its `hidden_states`. `layers` is empty where a tower cannot be cut.
    """

    loaded: str
    inner: str = ""
    layers: str = ""
    norm: str = ""
    tied: bool = False


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A tower in evaluation mode, with its own config, its model_type, its directory and its fingerprint."""

    model: Any
    config: Any
    kind: str
    folder: Path
    fingerprint: str


def load_tower(
    path: str | Path,
    sources: Mapping[str, Source],
    what: str,
    *,
    layer: int | None,
    dtype: str | torch.dtype,
    device: str | torch.device,
) -> Loaded:
    """Load a directory's tower, by `model_type` of its config.json.

    Raises:
        CheckpointError: as `load_vlm`; `what` names the kind of model that was wanted; or there is no such layer.
    """
    transformers = require_transformers()
    wanted, target = resolve_dtype(dtype), resolve_device(device)
    folder = locate(path)
    kind = str(read_config(folder).get("model_type"))
    if kind not in sources:
        raise CheckpointError(f"{folder}: models of class {kind} are no {what}; supported are {', '.join(sources)}")
    source = sources[kind]
    files = weight_files(folder)
    check_memory(folder, files, wanted, target)
    model = load_class(transformers, source.loaded, folder, wanted, inner=source.inner)
    tower = model.get_submodule(source.inner)
    if source.layers:
        cut(tower, source, layer, folder)
    return Loaded(
        model=tower.to(target).eval(),
        config=tower.config,
        kind=kind,
        folder=folder,
        fingerprint=fingerprint(folder, files, wanted),
    )


def cut(tower: nn.Module, source: Source, layer: int | None, folder: Path) -> None:
    """Make `hidden_states[layer]` the tower's last hidden state: what lies behind it is neither kept nor run.

    None keeps the last hidden state itself, behind the last norm where the class has one.

    Raises:
        CheckpointError: there is no such layer.
    """
    if layer is None:
        return
    at, _, name = source.layers.rpartition(".")
    owner = tower.get_submodule(at)
    layers = getattr(owner, name)
    count = resolve_layer(layer, len(layers), folder)
    setattr(owner, name, nn.ModuleList(list(layers)[:count]))
    if source.norm and not (source.tied and count == len(layers)):
        setattr(tower, source.norm, nn.Identity())


def resolve_layer(layer: int, layers: int, folder: Path) -> int:
    """How many layers lie before hidden state `layer`, which may count from the end.

    Raises:
        CheckpointError: there is no such hidden state.
    """
    if not -layers - 1 <= layer <= layers:
        raise CheckpointError(
            f"{folder}: there is no layer {layer}; hidden states are 0 to {layers}, or -{layers + 1} to -1 from the end"
        )
    return layer % (layers + 1)
