"""A video's snippets in one process: the definition that every other way of running the stages must equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from longtake.operators.model.config import ModelConfig
from longtake.pipeline.media.assemble import Assembler
from longtake.pipeline.media.decode import decode_segment
from longtake.pipeline.media.demux import demux, make_plan
from longtake.pipeline.media.model_input import ModelInput, NativeInput
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.probe import MediaInfo
from longtake.pipeline.media.segment import Damage, Reader, Segment
from longtake.pipeline.media.snippet import Snippet

__all__ = ["Damage", "Snippet", "make_plan", "read_snippets"]


def read_snippets(
    info: MediaInfo,
    model: ModelInput | ModelConfig,
    sampling: Sampling,
    *,
    first: int = 0,
    reader: Reader = "auto",
    threads: int = 1,
) -> Iterator[Snippet | Damage]:
    """Read a video's snippets in order, and the damage that was met.

    Args:
        info: from `probe`.
        model: what the pictures and the sound are for; a config stands for its own model_input.
        sampling: which moments are sampled.
        first: the first snippet to yield; those from there on are bitwise those of a reading from the start.
        reader: who decodes: "auto" follows the one visible rule (`decode.choose_route`), the others force it.
        threads: decoding threads.
    Raises:
        MediaError: the file can no longer be read at all.
    """
    model_input = NativeInput(config=model) if isinstance(model, ModelConfig) else model
    plan, form = make_plan(info, sampling, model_input.frames), model_input.picture_format(info)
    assembler = Assembler(model_input, plan, form, has_sound=info.audio is not None, first=first)
    heard = info if model_input.hears else replace(info, audio=None)
    for item in demux(heard, plan, form, first=first, reader=reader, threads=threads):
        if isinstance(item, Segment):
            yield from assembler.push(decode_segment(item, reader=reader, threads=threads))
        else:
            yield from assembler.push(item)
