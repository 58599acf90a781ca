"""`longtake bench step`: a step of the Token Turing Machine as the encoder runs it, beside eager and torch.compile."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from longtake.errors import InputError

# On one H200 with 16 lanes.
GOALS = {"eager": 3.0, "reduce_overhead": 1.3}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench step`."""
    parser = subparsers.add_parser(
        "step",
        help="a step of the Token Turing Machine combiner",
        description=(
            "Time read, process and write of a snippet for all lanes: with the kernels in one CUDA graph, in eager "
            "PyTorch, and under torch.compile's mode reduce-overhead."
        ),
    )
    parser.add_argument("--preset", default="base", metavar="NAME", help="tiny, base or mirasol_3b (base)")
    parser.add_argument("--lanes", type=int, default=16, metavar="N", help="videos side by side (16)")
    parser.add_argument("--out", metavar="FILE", help="write the figures there, as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, print, keep."""
    import torch

    from longtake.jobs.bench.record import write_record
    from longtake.operators.bench.step_cost import measure_step
    from longtake.operators.model import presets

    if args.lanes < 1:
        raise InputError(f"--lanes must be at least 1, not {args.lanes}")
    try:
        config = presets.by_name(args.preset)
    except ValueError as error:
        raise InputError(str(error)) from error
    cuda = torch.cuda.is_available()
    if not cuda:
        print("no GPU here: times of the CPU through the references, which say nothing of the kernels")
    cost = measure_step(config, torch.device("cuda" if cuda else "cpu"), lanes=args.lanes)
    figures = {"preset": args.preset, "lanes": args.lanes, "goals": GOALS, **dataclasses.asdict(cost)}
    write_record(args.out, "step", figures)
    print(summarise(figures))
    return 0


def summarise(figures: dict[str, Any]) -> str:
    """The figures for a person."""
    lines = [
        f"{figures['lanes']} lanes, {figures['tokens_in']} tokens in, a memory of {figures['memory']}: "
        f"eager {figures['eager']['ms']:.3f} ms"
    ]
    ours = figures["ours"]
    if ours is not None:
        lines.append(f"kernels in one CUDA graph {ours['ms']:.3f} ms")
        for name, goal in figures["goals"].items():
            ratio = figures[name]["ms"] / ours["ms"]
            reached = "reached" if ratio >= goal else "not reached"
            lines.append(f"{ratio:.2f} x {name.replace('_', '-')} (at least {goal} wanted: {reached})")
    return "\n".join(lines)
