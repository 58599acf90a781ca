"""`longtake bench memory`: memory while indexing an hour of video, beside five minutes of the same."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from longtake.errors import InputError, LongTakeError

TARGET = 1.2


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench memory`."""
    parser = subparsers.add_parser(
        "memory",
        help="peak memory on a long file beside a short one",
        description=(
            "Index a long file and a short one, made by repeating the packets of one clip, and compare the peaks of "
            "memory of all processes together (PSS)."
        ),
    )
    parser.add_argument("video", nargs="?", metavar="VIDEO", help="the clip (default: a made one of 1280 x 720)")
    parser.add_argument("--long", type=float, default=60.0, metavar="MIN", help="minutes of the long file (default 60)")
    parser.add_argument("--short", type=float, default=5.0, metavar="MIN", help="of the short file (default 5)")


def run(args: argparse.Namespace) -> int:
    """Measure, print, keep."""
    from longtake.jobs.bench.index import index_job, make_clips
    from longtake.jobs.bench.record import write_record
    from longtake.jobs.console import messages, output
    from longtake.pipeline.bench.loop_clip import loop_clip
    from longtake.pipeline.media.probe import probe

    if not 0 < args.short < args.long:
        raise InputError(f"{args.short:g} and {args.long:g} minutes: a short file and a longer one are wanted")
    say = messages()
    jobs: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="longtake-bench-") as name:
        folder = Path(name)
        clip = Path(args.video) if args.video else make_clips(folder, 1, width=1280, height=720, seconds=30)[0]
        video = probe(clip).video
        for which, minutes in (("short", args.short), ("long", args.long)):
            path = folder / f"{which}{clip.suffix}"
            loop_clip(clip, path, 60 * minutes)
            say.print(f"indexing {minutes:g} minutes")
            usage, summary = index_job([path], folder / f"{which}.lt", args.model)
            if summary["failed"] or summary["video_seconds"] < 59.9 * minutes:
                raise LongTakeError(f"{path}: only {summary['video_seconds']:.0f} s of it were indexed")
            jobs[which] = {
                "video_s": round(summary["video_seconds"], 1),
                "size_bytes": path.stat().st_size,
                "frames": summary["frames"],
                "wall_s": round(usage.seconds, 1),
                "cpu_s": round(usage.cpu_s, 1),
                "peak_pss_bytes": usage.peak_pss_bytes,
                "most_processes": usage.most_processes,
            }
            path.unlink()
    figures = {
        "input": {"from": clip.name, "width": video.width, "height": video.height, "codec": video.codec},
        **jobs,
        "ratio": round(jobs["long"]["peak_pss_bytes"] / jobs["short"]["peak_pss_bytes"], 3),
        "target_ratio": TARGET,
    }
    write_record(args.out, "memory", figures)
    output().print(summarise(figures))
    return 0


def summarise(figures: dict[str, Any]) -> str:
    """The figures for a person."""
    made = figures["input"]
    verdict = "met" if figures["ratio"] <= figures["target_ratio"] else "missed"
    lines = [f"input   {made['from']}: {made['width']} x {made['height']} {made['codec']}"]
    for which in ("short", "long"):
        job = figures[which]
        lines.append(
            f"{which:7} {job['video_s'] / 60:.1f} min: {job['peak_pss_bytes'] / 2**20:.0f} MiB at most (PSS of up to "
            f"{job['most_processes']} processes), {job['cpu_s']:.0f} CPU s in {job['wall_s']:.0f} s"
        )
    lines.append(f"ratio   {figures['ratio']:.2f} (at most {figures['target_ratio']} wanted: {verdict})")
    return "\n".join(lines)
