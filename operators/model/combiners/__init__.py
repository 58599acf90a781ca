"""Combiners: a snippet's video and audio features to a few tokens. `build` chooses one by its name in the config."""

from longtake.operators.model.combiners.base import Combiner, Features
from longtake.operators.model.combiners.build import build

__all__ = ["Combiner", "Features", "build"]
