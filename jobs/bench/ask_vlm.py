"""`longtake bench ask --model vlm:PATH`: answering from an index beside the plain call of transformers, frame by frame.

Two indexes of the same frames are asked: one that keeps all tokens, which must give the plain call's logits before any
clock starts, and one that keeps 16 a frame, as `longtake index` does by default. Each way runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longtake.errors import InputError, LongTakeError
from longtake.jobs.bench.index import index_job, make_clips

RATE_HZ = 2.0
# Of logits from all tokens, as a share of the largest.
CLOSE = 1e-5
TARGET = 20.0
TARGET_FRAMES = 256
# Stored bytes at 16 tokens a frame, as a share of those of all tokens, where a frame has so many.
BYTES_TARGET = 1 / 12
BYTES_TOKENS = 192
# Enough for the tables' own share of the bytes to be small.
BYTES_FRAMES = 512
WAYS = {"all": ("--combiner", "none", "--tokens", "float32"), "16": ()}


def run(args: argparse.Namespace) -> int:
    """Measure, print, keep."""
    from longtake.jobs.bench.record import write_record
    from longtake.jobs.console import messages, output
    from longtake.jobs.index.index import absolute_model
    from longtake.pipeline.bench.loop_clip import loop_clip
    from longtake.pipeline.table.metadata import vlm_path

    if args.threads < 1:
        raise InputError(f"--threads must be at least 1, not {args.threads}")
    model, counts, say = absolute_model(args.model), read_frames(args.frames), messages()
    with tempfile.TemporaryDirectory(prefix="longtake-bench-") as name:
        folder = Path(name)
        clip = Path(args.video) if args.video else make_clips(folder, 1, width=128, height=96, seconds=32)[0]
        videos = [folder / f"{count}{clip.suffix}" for count in counts]
        for count, video in zip(counts, videos, strict=True):
            loop_clip(clip, video, count / RATE_HZ, sound=False, cut=True)
        indexes = {}
        for way, options in WAYS.items():
            say.print(f"indexing with {'all tokens' if way == 'all' else '16 tokens a frame'}")
            indexes[way] = folder / f"{way}.lt"
            _, summary = index_job(videos, indexes[way], model, "--rate", f"{RATE_HZ:g}", *options)
            if summary["failed"] or summary["frames"] != sum(counts):
                raise LongTakeError(
                    f"{summary['frames']} frames of {clip} were indexed and {summary['failed']} videos failed; "
                    f"{sum(counts)} frames are wanted"
                )
        rows, picture = [], {}
        for count, video in zip(counts, videos, strict=True):
            frames = _write_frames(video, indexes["all"], model)
            picture = frames.pop("picture")
            work = {"model": vlm_path(model), "video": str(video), "threads": args.threads, **frames}
            say.print(f"{count} frames: checking that both ways give the same logits")
            checked = _process(folder, {**work, "way": "check", "index": str(indexes["all"])})
            require_close(checked, count)
            say.print(f"{count} frames: timing")
            row = {"frames": count, "check": checked, "plain": _process(folder, {**work, "way": "plain"})}
            for way, index in indexes.items():
                row[way] = _process(folder, {**work, "way": "stored", "index": str(index)})
            rows.append(row)
        say.print("measuring what is stored")
        stored = _stored_bytes(folder, Path(args.video) if args.video else None, model)
    figures = {
        "input": {
            "video": clip.name,
            "frames_a_second": RATE_HZ,
            "model": args.model,
            "threads": args.threads,
            **picture,
        },
        "rows": rows,
        "stored": stored,
        "ratio": tenth_ratio(rows, TARGET_FRAMES),
        "target_ratio": TARGET,
    }
    write_record(args.out, "ask_vlm", figures)
    output().print(summarise(figures))
    return 0


def read_frames(text: str) -> list[int]:
    """`64,256` as numbers.

    Raises:
        InputError: no list of different even numbers above 0.
    """
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--frames {text}: numbers with commas between are wanted") from error
    if len(set(counts)) < len(counts) or any(count < 2 or count % 2 for count in counts):
        raise InputError(f"--frames {text}: different even numbers from 2 on are wanted")
    return counts


def require_close(checked: dict[str, Any], count: int) -> None:
    """Refuse to time two ways that differ.

    Raises:
        LongTakeError: the logits are further apart than `CLOSE` times the largest, or no numbers.
    """
    if not checked["difference"] <= CLOSE * checked["largest"]:
        raise LongTakeError(
            f"{count} frames: the logits from the index differ by {checked['difference']:.2e} from those of the plain "
            f"call, whose largest is {checked['largest']:.3g}: nothing to compare"
        )


def tenth_ratio(rows: Sequence[dict[str, Any]], count: int) -> float | None:
    """How many times the plain call takes what the 10th question takes, at 16 tokens a frame; None if not measured."""
    found = [row["plain"]["tenth_s"] / row["16"]["tenth_s"] for row in rows if row["frames"] == count]
    return round(found[0], 1) if found else None


def _write_frames(video: Path, index: Path, model: str) -> dict[str, Any]:
    """The frames that were indexed, read once more by the same stages, in a file; with their times."""
    import numpy as np

    from longtake.pipeline.indexing.model import vlm_input
    from longtake.pipeline.media.plan import Sampling
    from longtake.pipeline.media.probe import probe
    from longtake.pipeline.media.snippet import Snippet
    from longtake.pipeline.media.snippets import make_plan, read_snippets
    from longtake.pipeline.table.schema import IndexReader

    info, sampling = probe(video), Sampling(rate_hz=RATE_HZ)
    model_input = vlm_input(IndexReader.open(str(index)).metadata, model)
    read = [one for one in read_snippets(info, model_input, sampling) if isinstance(one, Snippet)]
    frames_FHWC = np.concatenate([one.frames_FHWC[one.frame_mask_F] for one in read])
    plan = make_plan(info, sampling, model_input.frames)
    path = video.with_suffix(".npy")
    np.save(path, frames_FHWC)
    times_s = [plan.sample_ns(number) / 1e9 for number in range(len(frames_FHWC))]
    picture = {"height": frames_FHWC.shape[1], "width": frames_FHWC.shape[2]}
    return {"frames": str(path), "times_s": times_s, "picture": picture}


def _process(folder: Path, work: dict[str, Any]) -> dict[str, Any]:
    """One way in a process of its own."""
    path = folder / "work.json"
    path.write_text(json.dumps(work), encoding="utf-8")
    command = [sys.executable, "-m", "longtake.jobs.bench.ask_process", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise LongTakeError(f"{work['way']}: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    made: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return made


def _stored_bytes(folder: Path, video: Path | None, model: str) -> dict[str, Any]:
    """Bytes an hour of the snippets tables of large pictures, with all tokens and with 16 a frame, both as int8."""
    from longtake.pipeline.bench.loop_clip import loop_clip
    from longtake.pipeline.table.schema import IndexReader, table_uri

    clip = video or make_clips(folder, 1, width=640, height=480, seconds=16)[0]
    long = folder / f"stored{clip.suffix}"
    loop_clip(clip, long, BYTES_FRAMES / RATE_HZ, sound=False, cut=True)
    sizes, tokens = {}, {}
    for way, options in (("all", ("--combiner", "none")), ("16", ())):
        into = folder / f"stored-{way}.lt"
        index_job([long], into, model, "--rate", f"{RATE_HZ:g}", *options)
        data = Path(table_uri(str(into), "snippets")) / "data"
        sizes[way] = sum(file.stat().st_size for file in data.iterdir())
        reader = IndexReader.open(str(into))
        (row,) = reader.videos()
        tokens[way] = len(reader.video_tokens(row.video_id)[0].tokens_SD) / row.frames
    hours = BYTES_FRAMES / RATE_HZ / 3600
    return {
        "frames": BYTES_FRAMES,
        "tokens_a_frame": round(tokens["all"], 1),
        "tokens_a_frame_kept": round(tokens["16"], 1),
        "bytes_an_hour_all": round(sizes["all"] / hours),
        "bytes_an_hour_16": round(sizes["16"] / hours),
        "share": round(sizes["16"] / sizes["all"], 4),
        "target_share": round(BYTES_TARGET, 4),
    }


def summarise(figures: dict[str, Any]) -> str:
    """The figures for a person."""
    given, stored = figures["input"], figures["stored"]
    lines = [
        f"input    {given['video']}, {given['frames_a_second']:g} frames/s of {given['width']} x {given['height']}"
    ]
    for row in figures["rows"]:
        plain = row["plain"]
        lines.append(
            f"{row['frames']:5} frames, {plain['tokens']} tokens: the plain call, the index with all, with 16 a frame"
        )
        ways = [plain, row["all"], row["16"]]
        for label, key in (("1st question", "first_s"), ("10th question", "tenth_s"), ("loading weights", "load_s")):
            lines.append(f"  {label:16}" + "".join(f"{1000 * way[key]:12.1f} ms" for way in ways))
        lines.append(f"  {'peak memory':16}" + "".join(f"{way['peak_bytes'] / 2**20:11.0f} MiB" for way in ways))
        above = [(way["peak_bytes"] - way["loaded_bytes"]) / 2**20 for way in ways]
        lines.append(f"  {'  of it for this':16}" + "".join(f"{more:11.0f} MiB" for more in above))
    if figures["ratio"] is not None:
        verdict = "met" if figures["ratio"] >= figures["target_ratio"] else "missed"
        lines.append(
            f"ratio    the 10th question at {TARGET_FRAMES} frames: {figures['ratio']:.0f} x faster than the plain "
            f"call (at least {figures['target_ratio']:.0f} wanted: {verdict})"
        )
    enough = stored["tokens_a_frame"] >= BYTES_TOKENS
    verdict = "met" if stored["share"] <= stored["target_share"] else "missed"
    wanted = f"at most 1/12 wanted: {verdict}" if enough else f"1/12 is wanted where a frame has {BYTES_TOKENS} tokens"
    sizes = [
        f"{stored[size] / 1e6:.1f} MB with {stored[tokens]:g} tokens a frame"
        for size, tokens in (("bytes_an_hour_all", "tokens_a_frame"), ("bytes_an_hour_16", "tokens_a_frame_kept"))
    ]
    lines.append(f"stored   an hour takes {' and '.join(sizes)}: 1/{1 / stored['share']:.1f} ({wanted})")
    return "\n".join(lines)
