"""A class of transformers from a directory: what it prints while it loads, and what it left out, as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from longtake.errors import CheckpointError
from longtake.operators.hub.weights import one_line


def load_class(transformers: Any, name: str, folder: Path, dtype: torch.dtype, *, inner: str = "") -> Any:
    """The class `name` with the weights of a directory, on the CPU.

    Args:
        inner: the part whose weights must all be there; empty for the whole model.
    Raises:
        CheckpointError: it cannot be loaded, or a tensor is missing or of another shape, and would be left random.
    """
    try:
        with _no_progress_bars(transformers):
            model, report = getattr(transformers, name).from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False,
                output_loading_info=True,
            )  # fmt: skip
    except Exception as error:  # transformers raises whatever the config or the files led it to
        raise CheckpointError(
            f"{folder}: {name} cannot be loaded: {type(error).__name__}: {one_line(error)}"
        ) from error
    wrong = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    wrong = sorted(key for key in wrong if not inner or key.startswith(inner + "."))
    if wrong:
        raise CheckpointError(f"{folder}: {len(wrong)} tensors are not what config.json says, first {wrong[0]}")
    return model


@contextmanager
def _no_progress_bars(transformers: Any) -> Iterator[None]:
    """Loading a local file needs none, and it would stand between the lines of a command or of a worker's log."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
