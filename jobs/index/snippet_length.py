"""Whether snippets are as long as the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from longtake.errors import CheckpointError
from longtake.jobs.console import warn
from longtake.pipeline.table.metadata import is_vlm

if TYPE_CHECKING:
    from longtake.operators.model.config import ModelConfig
    from longtake.pipeline.indexing.index import IndexOptions
    from longtake.pipeline.media.plan import Sampling
    from longtake.pipeline.table.schema import VideoRow

# Lengths come from divisions; a trained range is not left by a rounding.
TOLERANCE = 1e-6


def outside_trained_range(snippet_s: float, config: ModelConfig) -> bool:
    """Whether a snippet of this many seconds is shorter or longer than what the model was trained on."""
    if config.snippet_s is None:
        return False
    shortest_s, longest_s = config.snippet_s
    return not shortest_s * (1 - TOLERANCE) <= snippet_s <= longest_s * (1 + TOLERANCE)


def warn_about_rate(options: IndexOptions) -> None:
    """Before the work: a fixed rate makes every snippet the same length."""
    sampling = _sampling(options)
    if sampling is None or sampling.rate_hz is None or is_vlm(options.model):
        return
    config = _config(options.model)
    snippet_s = config.video.frames / sampling.rate_hz
    if outside_trained_range(snippet_s, config):
        warn(
            f"at {sampling.describe()} a snippet of {config.video.frames} frames lasts {snippet_s:g} s; "
            f"{_trained(options.model, config)}, so answers may be wrong"
        )


def warn_about_videos(options: IndexOptions, rows: Sequence[VideoRow]) -> None:
    """After the work: a frame budget makes snippets as long as the video wants."""
    sampling = _sampling(options)
    if sampling is None or sampling.frames is None or is_vlm(options.model):
        return
    config = _config(options.model)
    lengths = [
        row.duration_s * config.video.frames / sampling.frames for row in rows if row.duration_s and row.snippets
    ]
    outside = [snippet_s for snippet_s in lengths if outside_trained_range(snippet_s, config)]
    if outside:
        spread = f"{min(outside):.3g}" + (f" to {max(outside):.3g}" if len(outside) > 1 else "")
        warn(
            f"with {sampling.describe()} a video, {len(outside)} of {len(lengths)} videos have snippets of {spread} s; "
            f"{_trained(options.model, config)}, so answers about them may be wrong"
        )


def _trained(model: str, config: ModelConfig) -> str:
    assert config.snippet_s is not None
    shortest_s, longest_s = config.snippet_s
    return f"model {model} was trained on snippets of {shortest_s:g} to {longest_s:g} s"


def _sampling(options: IndexOptions) -> Sampling | None:
    """The sampling that the job will use: the options', else the index's own; None is the model's own rate."""
    from longtake.pipeline.media.plan import Sampling
    from longtake.pipeline.table.metadata import IndexMetadata
    from longtake.pipeline.table.schema import open_table

    if options.sampling is not None or options.rebuild:
        return options.sampling
    table = open_table(options.into, "snippets")
    if table is None:
        return None
    told = IndexMetadata.from_schema(table.schema.metadata, options.into)
    return Sampling(rate_hz=told.rate_hz, frames=told.frames)


def _config(model: str) -> ModelConfig:
    from longtake.operators.model.checkpoint import CONFIG, locate
    from longtake.operators.model.config import ModelConfig

    path = locate(model) / CONFIG
    try:
        return ModelConfig.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
