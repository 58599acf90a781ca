"""What a model's directory says of itself: its licence, and the first sentence of its card."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from longtake.errors import CheckpointError
from longtake.operators.hub.weights import one_line

CARD = "README.md"
NOT_STATED = "not stated"


@dataclass(frozen=True, kw_only=True)
class Card:
    """`licence` is the name that the card or the licence's text gives; `about` is the card's first line of prose."""

    licence: str
    about: str


def read_card(folder: Path) -> Card:
    """From README.md (its YAML header, or a line `Licence: ...`), and else from the first line of a LICENSE file."""
    card = folder / CARD
    licence, about = (None, "no model card")
    if card.is_file():
        licence, about = _read(card.read_text(encoding="utf-8", errors="replace"))
    if licence is None:
        files = sorted(path for path in folder.glob("LICEN[SC]E*") if path.is_file())
        texts = (path.read_text(encoding="utf-8", errors="replace").splitlines() for path in files)
        licence = next((line.strip() for lines in texts for line in lines if line.strip()), None)
    return Card(licence=licence or NOT_STATED, about=about)


def card_folder(path: str | Path) -> Path:
    """A directory that holds a model's config and card: the model's own, or what of a hub name's is needed for these.

    Raises:
        CheckpointError: neither a directory nor a hub name, or the hub cannot be reached.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise CheckpointError(f"{path}: not a model directory, and not a hub name like Qwen/Qwen3.5-0.8B")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path), allow_patterns=["config.json", CARD, "LICEN[SC]E*"]))
    except Exception as error:  # the hub's client raises many classes
        raise CheckpointError(
            f"{path}: no such directory, and not to be had from the hub: {one_line(error)}"
        ) from error


def _read(text: str) -> tuple[str | None, str]:
    stated: dict[str, str] = {}
    about = ""
    inside_header = False
    key = ""
    for line in map(str.strip, text.splitlines()):
        if line == "---":
            inside_header = not inside_header
            continue
        if inside_header and line.startswith("- "):
            # One value of a list under the key before it.
            stated.setdefault(key, line[2:].strip())
            continue
        name, colon, value = line.lstrip("*-# ").partition(":")
        key, value = name.strip("* ").lower(), value.strip("*. '\"")
        if colon and value and key in ("license", "licence", "license_name"):
            stated.setdefault(key, value)
        elif line and not inside_header and not about and line[0] not in "#-|*`!<":
            about = line
    licence = stated.get("license", stated.get("licence"))
    # Licences without a common name are stated as "other", and named beside it.
    return stated.get("license_name", licence) if licence == "other" else licence, about
