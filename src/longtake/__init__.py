"""LongTake: index archives of long videos once, with picture and sound, and ask any number of questions about them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longtake.pipeline.answering.index import Index

__version__ = "0.2.0"
__all__ = ["__version__", "open_index"]


def open_index(path: str | os.PathLike[str], *, model: str | None = None) -> Index:
    """Open an index and ask it: `longtake.open_index("archive.lt").ask("how many horns sounded?", video="a.mp4")`.

    Args:
        path: what `longtake index --into` wrote, a directory or any URI that Lance opens.
        model: a checkpoint directory or a preset's name, or `vlm:` and where a public model lies; by default what the
            index was written with.
    Returns:
        `longtake.pipeline.answering.index.Index`, with `.ask(...)`, `.stream(...)`, `.videos()`, `.find(name)` and
        `.refresh()`.
    Raises:
        longtake.errors.InputError: there is no index at `path`.
        longtake.errors.IndexMismatchError: another format version wrote it.
    """
    # Torch and Lance take seconds to load; `import longtake` and `longtake --help` must not wait for them.
    from longtake.pipeline.answering.index import open_index as open_it

    return open_it(path, model=model)
