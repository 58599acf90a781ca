"""`longtake models`: the sizes that can be built, and the weights that come with the package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers

EXAMPLES = """\
examples:
  longtake models                  presets and shipped weights, with parameter counts
  longtake models --json

A preset is a size that `longtake train --preset` builds; weights are what `longtake index --model` loads.
"""

CARD = "README.md"


def add_parser(subparsers: Subparsers) -> None:
    """Add `models` to the command line."""
    parser = subparsers.add_parser(
        "models",
        help="list presets and shipped weights",
        description="List the model presets with their parameter counts, and the weights that come with LongTake.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """List them."""
    from longtake.jobs.console import output, print_json, table
    from longtake.operators import checkpoint
    from longtake.operators.presets import PRESETS

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

    from longtake.operators.model import LongTakeModel
    from longtake.operators.presets import by_name

    with torch.device("meta"):
        model = LongTakeModel(by_name(preset))
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    return {"parameters": sum(p.numel() for p in model.parameters()), **parts}


def _weights(name: str, folder: Path) -> dict[str, Any]:
    """What the files of a shipped checkpoint say: read from their headers, nothing is loaded."""
    import math

    from safetensors import safe_open

    from longtake.operators.checkpoint import WEIGHTS

    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        parameters = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    licence, card = _read_card(folder / CARD)
    return {
        "name": name,
        "parameters": parameters,
        "size_bytes": (folder / WEIGHTS).stat().st_size,
        "licence": licence,
        "card": card,
        "path": str(folder),
    }


def _read_card(path: Path) -> tuple[str, str]:
    """The licence and the first sentence of a model card: `license:` or `Licence:` and the first line of prose."""
    if not path.is_file():
        return ("not stated", "no model card")
    licence, prose = "not stated", ""
    inside_header = False
    for line in map(str.strip, path.read_text(encoding="utf-8").splitlines()):
        if line == "---":
            inside_header = not inside_header
        key, _, value = line.lstrip("*-# ").partition(":")
        if key.strip("* ").lower() in ("license", "licence") and value:
            licence = value.strip("* ").rstrip(".")
        elif line and not inside_header and not prose and line[0] not in "#-|*`!<":
            prose = line
    return (licence, prose)
