"""`longtake bench index`: what a whole indexing job costs in CPU, beside bare decoding and bare encoding."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtake.errors import InputError, LongTakeError

if TYPE_CHECKING:
    from longtake.jobs.bench.process_tree import Usage
    from longtake.pipeline.bench.bare_stages import BareCost

TARGET = 1.3
MADE_SECONDS = 64


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench index`."""
    parser = subparsers.add_parser(
        "index",
        help="a whole job's CPU seconds beside decoding and encoding alone",
        description=(
            "Run `longtake index` and add up the CPU seconds of all of its processes, Ray's included; then decode and "
            "encode the same frames in one bare loop each. The cost of starting up is measured by a job of one "
            "second of video, and reported apart. The three follow each other in every round, so that a machine that "
            "changes its speed does so for all of them; the round with the median ratio counts."
        ),
    )
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="repeated to the wanted length (default: made ones)")
    parser.add_argument("--minutes", type=float, default=30.0, metavar="M", help="of input, at least (default 30)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="times everything is measured (default 3)")


def run(args: argparse.Namespace) -> int:
    """Measure, print, keep."""
    from longtake.jobs.bench.record import write_record
    from longtake.jobs.console import messages, output
    from longtake.operators.model.checkpoint import load_model
    from longtake.pipeline.bench.bare_stages import measure_bare
    from longtake.pipeline.media.plan import Sampling

    if args.minutes <= 0:
        raise InputError(f"--minutes must be above 0, not {args.minutes:g}")
    if args.rounds < 1:
        raise InputError(f"--rounds must be at least 1, not {args.rounds}")
    say = messages()
    loaded = load_model(args.model)
    sampling = Sampling(rate_hz=loaded.config.rate_hz)
    rounds = []
    with tempfile.TemporaryDirectory(prefix="longtake-bench-") as name:
        folder = Path(name)
        say.print("making the input")
        sources = [Path(video) for video in args.videos] or make_clips(folder, 2)
        videos = lengthen(sources, folder, 60 * args.minutes)
        second = _second(folder)
        for number in range(args.rounds):
            say.print(f"round {number + 1} of {args.rounds}: a job of one second, the whole job, the bare loops")
            startup, _ = index_job([second], folder / f"startup-{number}.lt", args.model)
            whole, summary = index_job(videos, folder / f"whole-{number}.lt", args.model)
            bare = _add_up([measure_bare(video, loaded, sampling) for video in videos])
            _require_same(summary, bare)
            rounds.append(_round(whole, startup, bare))
    figures = {
        "input": {
            "from": [source.name for source in sources],
            "videos": summary["videos"],
            "seconds": round(summary["video_seconds"], 1),
        },
        "snippets": bare.snippets,
        "frames_sampled": bare.frames,
        "frames_decoded": bare.decoded,
        **median_round(rounds),
        "ratios": [one["ratio"] for one in rounds],
        "target_ratio": TARGET,
    }
    write_record(args.out, "index", figures)
    output().print(summarise(figures))
    return 0


def median_round(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The round whose ratio is the median; of an even number, the upper one of the two in the middle."""
    return sorted(rounds, key=lambda one: float(one["ratio"]))[len(rounds) // 2]


def _add_up(costs: Sequence[BareCost]) -> BareCost:
    total = costs[0]
    for cost in costs[1:]:
        total = total + cost
    return total


def _require_same(summary: dict[str, Any], bare: BareCost) -> None:
    """Both ways must have done the same before their times are compared."""
    if summary["failed"] or (summary["snippets"], summary["frames"]) != (bare.snippets, bare.frames):
        raise LongTakeError(
            f"the job indexed {summary['snippets']} snippets of {summary['frames']} frames with {summary['failed']} "
            f"failures, and the bare loops {bare.snippets} of {bare.frames}: nothing to compare"
        )


def make_clips(
    folder: Path, count: int, *, width: int = 256, height: int = 192, seconds: int = MADE_SECONDS
) -> list[Path]:
    """Made videos to measure with."""
    from longtake.operators.synthetic.script import write_script
    from longtake.pipeline.synthetic.write_videos import WorldOptions, write_video

    options = WorldOptions(out=folder, videos=count, snippets=seconds, width=width, height=height, bitrate=250_000)
    paths = [folder / f"made-{number}-{width}x{height}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        write_video(write_script(number, seconds), path, options)
    return paths


def _second(folder: Path) -> Path:
    return make_clips(folder, 1, seconds=1)[0].rename(folder / "second.mp4")


def lengthen(sources: Sequence[Path], folder: Path, seconds: float) -> list[Path]:
    """Each source repeated so that they are `seconds` together, all equally long."""
    from longtake.pipeline.bench.loop_clip import loop_clip

    targets = [folder / f"long-{number}{source.suffix}" for number, source in enumerate(sources)]
    for source, target in zip(sources, targets, strict=True):
        loop_clip(source, target, seconds / len(sources))
    return targets


def index_job(videos: Sequence[Path], into: Path, model: str, *options: str) -> tuple[Usage, dict[str, Any]]:
    """Run `longtake index` as a user would, with more of its options, and measure all of its processes."""
    from longtake.jobs.bench.process_tree import measure

    words = ["index", *map(str, videos), "--into", str(into), "--model", model, "--json", *options]
    # Nobody's cluster, and Ray's own choice of everything.
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    usage = measure([sys.executable, "-m", "longtake.jobs.main", *words], env=env)
    summary: dict[str, Any] = json.loads(usage.output.strip().splitlines()[-1])
    return usage, summary


def _round(whole: Usage, startup: Usage, bare: BareCost) -> dict[str, Any]:
    return {
        "whole_job": _usage(whole),
        "startup": _usage(startup),
        "bare_cpu_s": {
            "pictures": round(bare.pictures_s, 2),
            "sound": round(bare.sound_s, 2),
            "log_mel": round(bare.log_mel_s, 2),
            "encode": round(bare.encode_s, 2),
            "total": round(bare.total_s, 2),
        },
        "ratio": round(ratio(whole.cpu_s, startup.cpu_s, bare.total_s), 3),
        "ratio_with_startup": round(whole.cpu_s / bare.total_s, 3),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "cpu_s": round(usage.cpu_s, 2),
        "seen_cpu_s": round(usage.seen_cpu_s, 2),
        "reaped_cpu_s": round(usage.reaped_cpu_s, 2),
        "wall_s": round(usage.seconds, 2),
        "peak_pss_bytes": usage.peak_pss_bytes,
        "most_processes": usage.most_processes,
    }


def ratio(whole_s: float, startup_s: float, bare_s: float) -> float:
    """What a job costs beyond starting up, in units of the bare work.

    Raises:
        ValueError: the bare work took no time.
    """
    if bare_s <= 0:
        raise ValueError(f"bare work of {bare_s} s")
    return (whole_s - startup_s) / bare_s


def summarise(figures: dict[str, Any]) -> str:
    """The figures for a person."""
    whole, startup, bare = figures["whole_job"], figures["startup"], figures["bare_cpu_s"]
    verdict = "met" if figures["ratio"] <= figures["target_ratio"] else "missed"
    ratios = figures["ratios"]
    return "\n".join(
        (
            f"input          {figures['input']['seconds'] / 60:.1f} min of {', '.join(figures['input']['from'])}: "
            f"{figures['frames_decoded']} frames decoded, {figures['frames_sampled']} sampled",
            f"bare loops     {bare['total']:.2f} CPU s: pictures {bare['pictures']:.2f}, sound {bare['sound']:.2f}, "
            f"log-mel {bare['log_mel']:.2f}, encoding {bare['encode']:.2f}",
            f"whole job      {whole['cpu_s']:.2f} CPU s in {whole['wall_s']:.1f} s, of which starting up "
            f"{startup['cpu_s']:.2f} CPU s in {startup['wall_s']:.1f} s",
            f"ratio          {figures['ratio']:.2f} without starting up (at most {figures['target_ratio']} wanted: "
            f"{verdict}; {len(ratios)} rounds gave {min(ratios):.2f} to {max(ratios):.2f}), "
            f"{figures['ratio_with_startup']:.2f} with it",
            f"memory         {whole['peak_pss_bytes'] / 2**20:.0f} MiB at most (PSS of up to {whole['most_processes']} "
            "processes)",
        )
    )
