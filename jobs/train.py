"""`longtake train`: train a model on the made world, on the CPU or a GPU."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers

EXAMPLES = """\
examples:
  longtake train --preset tiny --out runs/tiny                  the shipped model's run, some 90 minutes on two cores
  longtake train --preset tiny --out runs/tiny                  again: goes on where it was stopped
  longtake train --preset tiny --out runs/quick --snippet-steps 200 --long-steps 200 --polish-steps 0
  longtake index world --into world.lt --model runs/tiny/model

DIR gets state.* (to resume), curves.csv, curves.png, and at the end model/, a checkpoint directory.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train a model on the made world",
        description="Train on made videos rendered straight to tensors: single snippets first, then long videos.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", metavar="NAME", default="tiny", help="the model's size (tiny)")
    parser.add_argument("--out", metavar="DIR", required=True, help="the run's folder; a stopped run in it goes on")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="fixes weights and data (0)")
    parser.add_argument(
        "--snippet-steps", metavar="N", type=int, help="steps on single snippets, encoders and combiner"
    )
    parser.add_argument(
        "--long-steps", metavar="N", type=int, help="steps on long videos, latent model and text decoder"
    )
    parser.add_argument("--polish-steps", metavar="N", type=int, help="steps on the longest videos, at a lower rate")
    parser.add_argument(
        "--pool-videos", metavar="N", type=int, help="made videos whose snippets long videos are made of"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (auto)")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="processes that render (1)")
    parser.add_argument("--stop-after", metavar="N", type=int, help="stop after so many steps; run again to go on")


def run(args: argparse.Namespace) -> int:
    """Train, with a progress bar; draw the curves at the end."""
    import dataclasses

    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from longtake.jobs.console import messages, output
    from longtake.operators import presets
    from longtake.operators.errors import InputError
    from longtake.operators.training.curves import draw_curves
    from longtake.operators.training.trainer import Plan, Report, Trainer

    try:
        config = presets.by_name(args.preset)
    except ValueError as error:
        raise InputError(str(error)) from error
    for option in ("snippet_steps", "long_steps", "polish_steps", "workers"):
        value = getattr(args, option)
        if value is not None and value < 0:
            raise InputError(f"--{option.replace('_', '-')} must be at least 0, not {value}")
    for option in ("pool_videos", "stop_after"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise InputError(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    plan = Plan(seed=args.seed)
    for name, value in (
        ("snippet_steps", args.snippet_steps),
        ("long_steps", args.long_steps),
        ("polish_steps", args.polish_steps),
    ):
        if value is not None:
            plan = dataclasses.replace(plan, **{name: value})
    if args.pool_videos is not None:
        plan = dataclasses.replace(plan, pool=dataclasses.replace(plan.pool, videos=args.pool_videos))
    cuda = torch.cuda.is_available()
    device = args.device if args.device != "auto" else "cuda" if cuda else "cpu"
    if device not in (("cpu", "cuda") if cuda else ("cpu",)):
        raise InputError(f"--device {device}: this machine can train on {'cpu or cuda' if cuda else 'cpu only'}")
    out = Path(args.out)
    trainer = Trainer(config, plan, out, device=device, workers=args.workers)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  right {task.fields[exact]:.0%}"),
        TimeRemainingColumn(),
    )
    say = messages()
    # Where nobody looks, a bar is only empty lines around the messages; the curves tell.
    with Progress(*columns, console=say, disable=not say.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def show(report: Report) -> None:
            if report.stage not in tasks:
                tasks[report.stage] = progress.add_task(report.stage, total=report.steps, loss=0.0, exact=0.0)
            loss, exact = report.values["loss"], report.values["exact"]
            progress.update(tasks[report.stage], completed=report.step, loss=loss, exact=exact)

        trainer.run(show, stop_after=args.stop_after)
    console = output()
    # A run that was stopped before its first row has none to draw.
    if (out / "curves.csv").is_file():
        console.print(f"curves: {draw_curves(out)}")
    if trainer.stage == "done":
        console.print(f"model: {out / 'model'} ({trainer.seconds / 60:.0f} minutes of training)")
    else:
        console.print(f"stopped in stage {trainer.stage} at step {trainer.step}; the same command goes on")
    return 0
