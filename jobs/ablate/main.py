"""`longtake ablate`: train every variant of a track alike, and say what each part is worth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers
    from longtake.operators.ablation.results import RunResult
    from longtake.operators.ablation.track import Step

EXAMPLES = """\
examples:
  longtake ablate coverage --quick             six variants, one seed, some 20 minutes on two cores
  longtake ablate coverage --device cuda       every variant, three seeds
  longtake ablate coverage --device cuda       again: what is done is not trained again
  longtake ablate coverage --quick --variants full,no_sound
  longtake ablate memory --quick --seeds 3 --variants all
  longtake ablate memory --add other-machine.json   what was trained there under the same plan is not trained here

tracks:
  coverage    the made world's questions at 64, 128 and 256 snippets; a needle grid; sound out of step
  memory      the decoder may read 16, 32 or 64 tokens, written before the question is known; 64 to 512 snippets
  tracking    where an object is after 0 to 16 swaps that only sounds told of

DIR gets features/ (of the frozen encoders, computed once), runs/ (a file a variant and seed), results.json and
results.png. Variants are trained side by side, a process a core; on a GPU one after another.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `ablate` to the command line."""
    parser = subparsers.add_parser(
        "ablate",
        help="train variants without one part each, and compare them",
        description="Train every variant of a track alike, on the frozen features of the shipped model, and compare.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("track", choices=("coverage", "memory", "tracking"), help="which question to ask")
    parser.add_argument("--quick", action="store_true", help="one seed, fewer variants, a smaller budget")
    parser.add_argument("--seeds", metavar="N", type=int, help="runs of each variant (3; 1 with --quick)")
    parser.add_argument("--variants", metavar="A,B", help="these variants, or all")
    parser.add_argument(
        "--add", metavar="FILE", action="append", help="take over the finished runs of a record (--json); repeatable"
    )
    parser.add_argument("--report", action="store_true", help="train nothing: report the runs that are done")
    parser.add_argument("--out", metavar="DIR", help="the track's folder (runs/ablate-TRACK, -quick with --quick)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (auto)")
    parser.add_argument("--processes", metavar="N", type=int, help="variants at a time (cores; 1 on a GPU)")
    parser.add_argument("--json", metavar="FILE", help="write the record to this file too")


def run(args: argparse.Namespace) -> int:
    """Train, with a bar for each run under way; print the tables and what they show; write JSON and PNG."""
    import os

    import torch

    from longtake.errors import InputError
    from longtake.jobs.ablate.report import figures, print_report
    from longtake.jobs.bench.record import write_record
    from longtake.jobs.console import messages, output
    from longtake.operators.ablation.plots import draw
    from longtake.operators.ablation.results import summarise, take_over
    from longtake.operators.ablation.tracks import done_runs, run_all, track_by_name

    cuda = torch.cuda.is_available()
    device = args.device if args.device != "auto" else "cuda" if cuda else "cpu"
    if device not in (("cpu", "cuda") if cuda else ("cpu",)):
        raise InputError(f"--device {device}: this machine can train on {'cpu or cuda' if cuda else 'cpu only'}")
    cores = len(os.sched_getaffinity(0))
    processes = args.processes if args.processes is not None else (cores if device == "cpu" else 1)
    seeds = args.seeds if args.seeds is not None else (1 if args.quick else 3)
    for option, value in (("processes", processes), ("seeds", seeds)):
        if value < 1:
            raise InputError(f"--{option} must be at least 1, not {value}")
    out = Path(args.out or f"runs/ablate-{args.track}{'-quick' if args.quick else ''}")
    track = track_by_name(args.track, out, args.quick, device, cores)
    known = track.variants
    names = list(track.quick if args.quick else known)
    if args.variants is not None:
        names = [name.strip() for name in args.variants.split(",") if name.strip()]
        names = list(known) if names == ["all"] else names
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise InputError(f"--variants {args.variants}: the track {args.track} has {', '.join(known)}")
    for path in args.add or ():
        taken = take_over(Path(path), out, track.plan, known)
        messages().print(f"{path}: {len(taken)} runs taken over")
    if args.report:
        results = done_runs(track, out, names, range(seeds))
        if not results:
            raise InputError(f"--report: no run of {', '.join(names)} is done in {out} under this plan")
    else:
        progress = _Progress()
        with progress:
            results = run_all(
                track,
                out,
                names,
                range(seeds),
                processes=processes,
                report=progress.show,
                on_result=progress.done,
            )
    rows = [row for result in results for row in result.rows]
    summaries = summarise(rows)
    baseline = summarise(track.baseline())
    found = figures(args.track, args.quick, track.plan, known, results, summaries, baseline)
    print_report(args.track, known, results, summaries, baseline)
    for path in (str(out / "results.json"), args.json):
        write_record(path, f"ablate {args.track}", found)
    console = output()
    console.print(f"figures: {out / 'results.json'}")
    console.print(f"plot: {draw(args.track, summaries, out / 'results.png')}")
    return 0


class _Progress:
    """A bar for each run under way on a terminal, and a line for each that is done anywhere."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

        from longtake.jobs.console import messages

        self.console = messages()
        columns: Sequence[Any] = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[stage]}  loss {task.fields[loss]:.3f}  right {task.fields[exact]:.0%}"),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.tasks: dict[tuple[str, int], TaskID] = {}

    def __enter__(self) -> _Progress:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def show(self, step: Step) -> None:
        """Move the bar of a run."""
        one = (step.variant, step.seed)
        if one not in self.tasks:
            self.tasks[one] = self.progress.add_task(
                f"{step.variant} {step.seed}", total=step.steps, stage=step.stage, loss=0.0, exact=0.0
            )
        self.progress.update(
            self.tasks[one],
            completed=step.step,
            total=step.steps,
            stage=step.stage,
            loss=step.loss,
            exact=step.exact,
        )

    def done(self, result: RunResult, kept: bool) -> None:
        """Say that a run is done."""
        task = self.tasks.pop((result.variant, result.seed), None)
        if task is not None:
            self.progress.remove_task(task)
        how = "was done already" if kept else f"{result.seconds / 60:.1f} minutes"
        self.console.print(f"{result.variant}, seed {result.seed}: {how}")
