"""`longtake bench model`: the cost of encoding and combining against a video's length, beside joint attention."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtake.errors import InputError
from longtake.jobs.bench.text_table import text_table

if TYPE_CHECKING:
    from longtake.operators.bench.model_cost import Cost

LONGEST = 4096
# Of the measured matmul rate: what `base` is to reach on one H200 in bfloat16.
SHARE_GOAL = 0.4
# Without a GPU the figures are only for the shape of the curve.
LONGEST_ON_CPU = {"tiny": 512, "base": 64, "mirasol_3b": 32}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench model`."""
    parser = subparsers.add_parser(
        "model",
        help="encode + combine against the number of frames, beside joint attention",
        description=(
            "Time a model of random weights from pictures and sound to tokens, for videos of more and more frames, and "
            "beside it the baseline that has all tokens of a video in one sequence and no combiner."
        ),
    )
    parser.add_argument("--preset", default="base", metavar="NAME", help="tiny, base or mirasol_3b (base)")
    parser.add_argument("--lanes", type=int, metavar="N", help="videos side by side (16 on a GPU, 1 on a CPU)")
    parser.add_argument("--frames", type=int, metavar="N", help="the longest video (4096; less on a CPU)")
    parser.add_argument("--out", metavar="FILE", help="write the figures there, as JSON")
    parser.add_argument("--compile", action="store_true", help="let torch.compile have the encoders")


def run(args: argparse.Namespace) -> int:
    """Measure, print, keep."""
    import torch

    from longtake.jobs.bench.record import record, write_json
    from longtake.operators.bench.model_cost import ModelBench
    from longtake.operators.model import presets

    try:
        config = presets.by_name(args.preset)
    except ValueError as error:
        raise InputError(str(error)) from error
    cuda = torch.cuda.is_available()
    lanes = args.lanes if args.lanes is not None else 16 if cuda else 1
    longest = args.frames if args.frames is not None else LONGEST if cuda else LONGEST_ON_CPU[args.preset]
    first = config.video.frames
    if lanes < 1:
        raise InputError(f"--lanes must be at least 1, not {lanes}")
    if longest < first:
        raise InputError(f"--frames must be at least a snippet's, which are {first}, not {longest}")
    lengths = [first << power for power in range((longest // first).bit_length())]
    if not cuda:
        print("no GPU here: times of the CPU through the references, which say nothing of the kernels")
    bench = ModelBench(config, torch.device("cuda" if cuda else "cpu"), lanes=lanes, compiled=args.compile)
    gate = bench.check()
    print(f"gate: tokens as the references give them, to cosine {gate:.6f}")
    # Written after every length, so that a run that is cut off keeps what it had.
    figures: dict[str, Any] = {
        "complete": False,
        "preset": args.preset,
        "device": "cuda" if cuda else "cpu",
        "compiled": args.compile,
        "lanes": lanes,
        "frames_a_snippet": first,
        "flops_a_snippet": bench.flops_a_snippet,
        "matmul_flops_per_s": bench.matmul_flops_per_s,
        "gate_cosine": round(gate, 6),
        "rows": [],
    }
    kept = record("model", figures)
    costs: list[Cost] = []
    for frames in lengths:
        costs.append(bench.measure(frames))
        kept["rows"].append(costs[-1].as_dict())
        kept["complete"] = len(costs) == len(lengths)
        if args.out is not None:
            write_json(Path(args.out), kept)
        print(_line(costs[-1]), flush=True)
    print("\n" + summarise(costs))
    if cuda:
        best = max(cost.share_of_matmul for cost in costs)
        verdict = "reached" if best >= SHARE_GOAL else "not reached"
        print(
            f"encode + combine at {100 * best:.1f} % of the matmul rate (at least {SHARE_GOAL:.0%} wanted: {verdict})"
        )
    return 0


def _line(cost: Cost) -> str:
    joint = cost.joint_us_a_frame
    beside = f"{joint:.1f} us with joint attention" if joint is not None else f"joint attention: {cost.joint_error}"
    return f"{cost.frames} frames: {cost.us_a_frame:.1f} us a frame, {beside}"


def summarise(costs: list[Cost]) -> str:
    """The table, and how both costs grow from the shortest to the longest video."""

    def memory(held: int | None) -> str:
        return f"{held / 2**30:.2f}" if held is not None else "-"

    columns = ["frames", "snippets/s", "frames/s", "us/frame", "of matmul rate", "GiB", "joint us/frame", "joint GiB"]
    rows = [
        [
            str(cost.frames),
            f"{cost.snippets_per_s:.1f}",
            f"{cost.frames_per_s:.0f}",
            f"{cost.us_a_frame:.1f}",
            f"{100 * cost.share_of_matmul:.1f} %",
            memory(cost.peak_bytes),
            f"{cost.joint_us_a_frame:.1f}" if cost.joint_us_a_frame is not None else "-",
            memory(cost.joint_peak_bytes),
        ]
        for cost in costs
    ]
    text = text_table(columns, rows)
    first, last = costs[0], costs[-1]
    if last is first:
        return text
    grown = (
        f"from {first.frames} to {last.frames} frames a frame's cost grew {last.us_a_frame / first.us_a_frame:.2f} x"
    )
    timed: list[Any] = [cost for cost in costs if cost.joint_us_a_frame is not None]
    if timed:
        times = timed[-1].joint_us_a_frame / timed[0].joint_us_a_frame
        grown += f", with joint attention {times:.2f} x up to {timed[-1].frames} frames"
    return f"{text}\n{grown}"
