"""What the preprocessor files of a model directory say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from longtake.errors import CheckpointError

# Where a directory may say how pictures are prepared, the more particular first.
FILES = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")


SECTIONS = ("video_processor", "image_processor")


def read_preprocessor(path: Path) -> dict[str, Any]:
    """What the preprocessor files of a model directory say, the more particular file winning.

    Raises:
        CheckpointError: there is none, or one is no JSON object.
    """
    merged: dict[str, Any] = {}
    found = [path / name for name in FILES if (path / name).is_file()]
    if not found:
        raise CheckpointError(f"{path}: no {FILES[1]} in this model directory; copy it from where the weights are from")
    for file in reversed(found):
        try:
            content = json.loads(file.read_text())
        except ValueError as error:
            raise CheckpointError(f"{file}: {error}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{file}: wanted a JSON object, not {type(content).__name__}")
        for section in reversed(SECTIONS):
            merged |= content.get(section) or {}
        merged |= {name: value for name, value in content.items() if value is not None}
    return merged
