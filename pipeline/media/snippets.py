"""A video's snippets in one process: the definition that every other way of running the stages must equal."""

from __future__ import annotations

from collections.abc import Iterator

from longtake.operators.config import ModelConfig
from longtake.operators.errors import MediaError
from longtake.pipeline.media.assemble import Assembler
from longtake.pipeline.media.decode import decode_segment
from longtake.pipeline.media.demux import demux, measure_end_ns
from longtake.pipeline.media.plan import SECOND_NS, Plan, Sampling, plan_budget, plan_rate
from longtake.pipeline.media.probe import MediaInfo
from longtake.pipeline.media.segment import Damage, Reader, Segment
from longtake.pipeline.media.snippet import Snippet

__all__ = ["Damage", "Snippet", "make_plan", "read_snippets"]


def make_plan(info: MediaInfo, sampling: Sampling, snippet_frames: int) -> Plan:
    """The plan of one video: deterministic for the same file, sampling and F.

    A fixed rate needs no length, except that a video shorter than half a period gets its one sample in its middle.
    A frame budget is spread over the length that the packets tell (read, not decoded): what containers state may be
    missing, be the sound's, or be wrong.

    Raises:
        MediaError: the file cannot be read, or is too short for the budget.
    """
    if sampling.rate_hz is not None:
        plan = plan_rate(sampling.rate_hz, snippet_frames)
        first_ns = plan.sample_ns(0)
        if info.duration_ns is not None and info.duration_ns > 2 * first_ns + SECOND_NS:
            return plan
        end_ns = measure_end_ns(info, at_least_ns=first_ns)
        return plan if end_ns > first_ns else plan_budget(1, end_ns, snippet_frames)
    frames = sampling.frames or 1
    end_ns = measure_end_ns(info)
    if end_ns < 2 * frames:
        raise MediaError(f"{info.path}: {end_ns} ns of video are too short for {frames} frames")
    return plan_budget(frames, end_ns, snippet_frames)


def read_snippets(
    info: MediaInfo,
    config: ModelConfig,
    sampling: Sampling,
    *,
    first: int = 0,
    reader: Reader = "auto",
    threads: int = 1,
) -> Iterator[Snippet | Damage]:
    """Read a video's snippets in order, and the damage that was met.

    Args:
        info: from `probe`.
        config: the model whose pictures and spectrograms are wanted.
        sampling: which moments are sampled.
        first: the first snippet to yield; those from there on are bitwise those of a reading from the start.
        reader: who decodes: "auto" follows the one visible rule (`decode.choose_route`), the others force it.
        threads: decoding threads.
    Raises:
        MediaError: the file can no longer be read at all.
    """
    plan = make_plan(info, sampling, config.video.frames)
    height, width = config.video.height, config.video.width
    assembler = Assembler(config, plan, has_sound=info.audio is not None, first=first)
    for item in demux(info, plan, height, width, first=first, reader=reader, threads=threads):
        if isinstance(item, Segment):
            yield from assembler.push(decode_segment(item, height, width, reader=reader, threads=threads))
        else:
            yield from assembler.push(item)
