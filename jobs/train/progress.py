"""How a training looks while it runs, and what it leaves: a bar a stage, then curves and model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from longtake.errors import InputError

if TYPE_CHECKING:
    from longtake.operators.training.run import Report, TrainingRun


def choose_device(wanted: str) -> str:
    """The device that `--device` names.

    Raises:
        InputError: this machine has none.
    """
    import torch

    cuda = torch.cuda.is_available()
    device = wanted if wanted != "auto" else "cuda" if cuda else "cpu"
    if device not in (("cpu", "cuda") if cuda else ("cpu",)):
        raise InputError(f"--device {device}: this machine can train on {'cpu or cuda' if cuda else 'cpu only'}")
    return device


def train_with_progress(trainer: TrainingRun, out: Path, stop_after: int | None) -> None:
    """Train with a progress bar; draw the curves at the end, and say what is where."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from longtake.jobs.console import messages, output
    from longtake.operators.training.curves import draw_curves

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    say = messages()
    # Where nobody looks, a bar is only empty lines around the messages; the curves tell.
    with Progress(*columns, console=say, disable=not say.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def show(report: Report) -> None:
            if report.stage not in tasks:
                tasks[report.stage] = progress.add_task(report.stage, total=report.steps, told="")
            told = "videos"
            if report.values:
                right = f"  right {report.values['exact']:.0%}" if "exact" in report.values else ""
                told = f"loss {report.values['loss']:.3f}{right}"
            progress.update(tasks[report.stage], completed=report.step, told=told)

        trainer.run(show, stop_after=stop_after)
    console = output()
    # A run that was stopped before its first row has none to draw.
    if (out / "curves.csv").is_file():
        console.print(f"curves: {draw_curves(out)}")
    if trainer.stage == "done":
        console.print(f"model: {out / 'model'} ({trainer.seconds / 60:.0f} minutes of training)")
    else:
        console.print(f"stopped in stage {trainer.stage} at step {trainer.step}; the same command goes on")
