"""`longtake models`: the sizes that can be built, the weights that come with the package, and models of one's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers

EXAMPLES = """\
examples:
  longtake models                  presets and shipped weights, with parameter counts
  longtake models ~/models/*       what these directories are, under which licence, and which option takes them
  longtake models Qwen/Qwen3.5-0.8B
  longtake models --json

A preset is a size that `longtake train --preset` builds; weights are what `longtake index --model` loads. Of a hub name
the config and the card are fetched, and no weights.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `models` to the command line."""
    parser = subparsers.add_parser(
        "models",
        help="list presets and shipped weights, or look at models",
        description="List the presets and the weights that come with LongTake, or say what models are good for.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", metavar="PATH", nargs="*", help="a model's directory or hub name to look at")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """List them."""
    if args.paths:
        return _look(args.paths, as_json=args.json)
    from longtake.jobs.console import output, print_json, table
    from longtake.operators.model import checkpoint
    from longtake.operators.model.presets import PRESETS

    presets: list[dict[str, Any]] = [
        {"name": name, "about": _first_line(make.__doc__), **_parameters(name)} for name, make in PRESETS.items()
    ]
    weights = [_weights(name, checkpoint.locate(name)) for name in checkpoint.shipped()]
    if args.json:
        print_json({"presets": presets, "weights": weights})
        return 0
    out = output()
    parts = [key for key in presets[0] if key not in ("name", "about", "parameters")]
    heads = {part: part.replace("_", " ") for part in parts}
    shown = table("preset", "parameters", *heads.values(), "what for", right=("parameters", *heads.values()))
    for preset in presets:
        counts = [_count(preset[key]) for key in ("parameters", *parts)]
        shown.add_row(preset["name"], *counts, preset["about"])
    out.print(shown)
    out.print()
    if not weights:
        out.print("no weights come with this installation")
        return 0
    shown = table("weights", "parameters", "size", "licence", "card", right=("parameters", "size"))
    for row in weights:
        size = f"{row['size_bytes'] / 1e6:.1f} MB"
        shown.add_row(row["name"], _count(row["parameters"]), size, row["licence"], row["card"])
    out.print(shown)
    return 0


def _look(paths: list[str], *, as_json: bool) -> int:
    """Say of each model what it is. What is none ends the command only where nothing else was given."""
    import dataclasses

    from longtake.errors import CheckpointError
    from longtake.jobs.console import output, print_json, table, warn
    from longtake.operators.inspect_model import Described, describe

    found: list[Described] = []
    errors: list[CheckpointError] = []
    for path in paths:
        try:
            found.append(describe(path))
        except CheckpointError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    for refused in errors:
        warn(str(refused))
    if as_json:
        print_json({"models": [dataclasses.asdict(one) for one in found]})
        return 0
    shown = table("model", "class", "parameters", "size", "licence", "use", right=("parameters", "size"))
    for one in found:
        use = " or ".join(one.uses)
        if one.problem is not None:
            use = f"{use} ({one.problem})" if use else f"none: {one.problem}"
        size = "-" if one.size_bytes is None else f"{one.size_bytes / 1e6:.1f} MB"
        count = "-" if one.parameters is None else _count(one.parameters)
        shown.add_row(one.name, one.model_class, count, size, one.card.licence, use)
    output().print(shown)
    return 0


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().splitlines()[0] if docstring else ""


def _count(number: int) -> str:
    """`1.53 M` rather than 1528302."""
    for unit, size in (("B", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _parameters(preset: str) -> dict[str, int]:
    """The preset's parameters, in all and by part; built without memory for them."""
    import torch

    from longtake.operators.model.model import LongTakeModel
    from longtake.operators.model.presets import by_name

    with torch.device("meta"):
        model = LongTakeModel(by_name(preset))
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    return {"parameters": sum(p.numel() for p in model.parameters()), **parts}


def _weights(name: str, folder: Path) -> dict[str, Any]:
    """What the files of a shipped checkpoint say: read from their headers, nothing is loaded."""
    import math

    from safetensors import safe_open

    from longtake.operators.hub.card import read_card
    from longtake.operators.model.checkpoint import WEIGHTS

    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        parameters = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    card = read_card(folder)
    return {
        "name": name,
        "parameters": parameters,
        "size_bytes": (folder / WEIGHTS).stat().st_size,
        "licence": card.licence,
        "card": card.about,
        "path": str(folder),
    }
