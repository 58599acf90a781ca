"""`longtake train --data`: the same command, learning from rows about one's own videos."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtake.errors import InputError
from longtake.jobs.bench.text_table import text_table
from longtake.jobs.train import encoders
from longtake.jobs.train.encoders import on_named_encoders

if TYPE_CHECKING:
    from longtake.operators.model.chat import ChatTokenizer
    from longtake.operators.model.config import ModelConfig
    from longtake.operators.model.model import LongTakeModel
    from longtake.operators.training.data_plan import DataPlan, TrainingData
    from longtake.pipeline.training.data import Telling
    from longtake.pipeline.training.rows import BadRows

# The names of a model's parts, here so that help needs no torch.
PARTS = ("video_encoder", "audio_encoder", "combiner", "latent_model", "text_decoder")
# Bad rows that are shown; the file lists all.
MOST_SHOWN = 10
# The peak learning rate at the width of `tiny`; wider models learn at a lower one, and so do trained ones.
RATE, RATE_WIDTH, TRAINED = 1.5e-3, 96, 1 / 3


# All that `add_options` adds, by their names as attributes.
OPTIONS = (
    *("from", "freeze", "train_encoders", "snippet_epochs", "epochs", "batch", "stretch", "most_snippets"),
    *("learning_rate", "max_bad_rows"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that only `--data` has."""
    group = parser.add_argument_group("with --data")
    group.add_argument("--from", metavar="MODEL", help="start from a checkpoint: a directory or a shipped model")
    group.add_argument("--freeze", metavar="PART,...", help=f"parts that do not learn: {', '.join(PARTS)}")
    group.add_argument(
        "--train-encoders",
        action="store_true",
        default=None,
        help="questions train encoders and combiner too; without, their tokens are cached then",
    )
    group.add_argument(
        "--snippet-epochs",
        metavar="N",
        type=int,
        help="times over the captions, in short stretches; 0 leaves them out (10, or what makes 1000 steps)",
    )
    group.add_argument(
        "--epochs", metavar="N", type=int, help="times over all rows, on whole videos (10, or what makes 1000 steps)"
    )
    group.add_argument("--batch", metavar="N", type=int, help="videos, or stretches of them, a step (8)")
    group.add_argument("--stretch", metavar="N", type=int, help="snippets of a short stretch (8)")
    group.add_argument("--most-snippets", metavar="N", type=int, help="the most that a question reads (512)")
    group.add_argument(
        "--learning-rate",
        metavar="R",
        type=float,
        help="its peak (0.0015 at tiny's width, less for wider models, a third of it with --from)",
    )
    group.add_argument(
        "--max-bad-rows",
        metavar="N",
        type=int,
        help="rows that may be unusable, else the run stops before training (a tenth of them, at least 10)",
    )


def run(args: argparse.Namespace) -> int:
    """Read the rows, decode or encode their videos, train."""
    import torch

    from longtake.jobs.console import counted, warn
    from longtake.jobs.train.progress import choose_device, train_with_progress
    from longtake.operators.training.data_trainer import DataTrainer, require_own_run
    from longtake.pipeline.training.data import prepare
    from longtake.pipeline.training.rows import read_rows

    _check(args)
    device = choose_device(args.device)
    out, path = Path(args.out), Path(args.data)
    torch.manual_seed(args.seed)
    model, tokenizer, start = _model(args)
    plan = _plan(args, model.config)
    require_own_run(out, plan, model, start)
    rows, bad = read_rows(path, args.max_bad_rows, out / "skipped.jsonl")
    try:
        data, tokenizer = prepare(
            rows, bad, plan, model, tokenizer, out, device=device, workers=args.workers, telling=_telling()
        )
    finally:
        _show(bad)
    say(
        f"{counted(len(data.rows), 'row')} about {counted(len(data.lengths), 'video')} of"
        f" {counted(sum(data.lengths), 'snippet')}"
        + (f"; {counted(len(bad.found), 'row')} skipped ({bad.listed})" if bad.found else "")
    )
    trainer = DataTrainer(model, tokenizer, plan, data, out, start=start, device=device)
    steps = {name: batches.steps for name, batches in trainer.batches.items()}
    _explain(plan, data, steps, out)
    if not start and all(plan.reads_tokens(stage) for stage in plan.stages()):
        warn("encoders and combiner never learn, and their weights are random: begin --from a checkpoint")
    train_with_progress(trainer, out, args.stop_after)
    return 0


def say(message: str) -> None:
    """One line about the work."""
    print(f"longtake: {message}", file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    least = {"snippet_epochs": 0, "epochs": 0, "workers": 0, "max_bad_rows": 0, "batch": 1, "stretch": 1}
    for name, low in {**least, "most_snippets": 1, "stop_after": 1}.items():
        value = getattr(args, name)
        if value is not None and value < low:
            raise InputError(f"--{name.replace('_', '-')} must be at least {low}, not {value}")
    if args.learning_rate is not None and not 0 < args.learning_rate < 1:
        raise InputError(f"--learning-rate must lie between 0 and 1, not {args.learning_rate:g}")


def start_from(args: argparse.Namespace) -> str | None:
    """The checkpoint to start from, whose option's name is a word of Python."""
    start: str | None = getattr(args, "from")
    return start


def _model(args: argparse.Namespace) -> tuple[LongTakeModel, ChatTokenizer | None, str]:
    """The model to train, its tokenizer where it comes with one, and the fingerprint of what it came from."""
    from longtake.operators.model import presets
    from longtake.operators.model.checkpoint import load_model
    from longtake.operators.model.encoders.towers import with_places
    from longtake.operators.model.model import LongTakeModel

    try:
        config = None if args.preset is None else presets.by_name(args.preset)
    except ValueError as error:
        raise InputError(str(error)) from error
    start = start_from(args)
    if start is None:
        return LongTakeModel(on_named_encoders(config or presets.tiny(), args)), None, ""
    for name in encoders.OPTIONS:
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} makes a new model; a checkpoint has encoders of its own")
    loaded = load_model(start)
    if config is not None and config != loaded.config:
        raise InputError(
            f"--from {start} is a model of its own config, {loaded.config.name}, which is not --preset"
            f" {args.preset}; give one of them"
        )
    assert loaded.path is not None
    # What the run writes lies elsewhere.
    loaded.model.config = with_places(loaded.config, loaded.path)
    return loaded.model.train(), loaded.tokenizer, loaded.fingerprint


def _plan(args: argparse.Namespace, config: ModelConfig) -> DataPlan:
    from longtake.operators.training.data_plan import DataPlan

    frozen = tuple(part.strip() for part in (args.freeze or "").split(",") if part.strip())
    if unknown := [part for part in frozen if part not in PARTS]:
        raise InputError(f"--freeze {unknown[0]}: there is no such part; there are {', '.join(PARTS)}")
    rate = RATE * (RATE_WIDTH / config.width) ** 0.5 * (1.0 if start_from(args) is None else TRAINED)
    both: dict[str, Any] = {"rate": round(args.learning_rate or rate, 6)}
    if args.batch is not None:
        both["batch"] = args.batch
    short, whole = dict(both), dict(both)
    for changes, name, value in (
        (short, "epochs", args.snippet_epochs),
        (short, "most", args.stretch),
        (whole, "epochs", args.epochs),
        (whole, "most", args.most_snippets),
    ):
        if value is not None:
            changes[name] = value
    usual = DataPlan()
    return DataPlan(
        seed=args.seed,
        snippets=dataclasses.replace(usual.snippets, **short),
        questions=dataclasses.replace(usual.questions, **whole),
        frozen=tuple(part for part in PARTS if part in frozen),
        train_encoders=bool(args.train_encoders),
    )


def _telling() -> Telling:
    """What `prepare` tells, on standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from longtake.jobs.console import messages
    from longtake.jobs.index.progress import Display
    from longtake.pipeline.indexing import index
    from longtake.pipeline.training.data import Telling

    @contextmanager
    def decoding(videos: int) -> Iterator[Callable[[int], None]]:
        say("decoding the videos, once")
        console = messages()
        columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("decoding", total=videos)
            yield lambda done: progress.update(task, completed=done)

    @contextmanager
    def shown() -> Iterator[Callable[[index.Progress], None]]:
        with Display(messages()) as display:
            yield display.update

    return Telling(say=say, decoding=decoding, indexing=shown)


def _explain(plan: DataPlan, data: TrainingData, steps: dict[str, int], out: Path) -> None:
    """One line a stage: what it learns from, and how long."""
    from longtake.jobs.console import counted

    if steps["snippets"]:
        if data.captions and data.captions[0].caption:
            text = counted(len(data.captions), "caption")
        elif data.captions:
            text = f"no captions; {counted(len(data.captions), 'question')} about at most {plan.snippets.most} snippets"
        else:
            text = f"no captions and no question about at most {plan.snippets.most} snippets: reconstruction alone"
        say(f"stage snippets: {counted(steps['snippets'], 'step')}, {text}{_reads(plan, 'snippets', out)}")
    if steps["questions"]:
        known = sum(row.evidence is not None for row in data.rows)
        say(
            f"stage questions: {counted(steps['questions'], 'step')}, {counted(len(data.rows), 'row')}"
            f" ({known} with evidence){_reads(plan, 'questions', out)}"
        )


def _reads(plan: DataPlan, stage: str, out: Path) -> str:
    if not plan.reads_tokens(stage):
        return f"; trains {', '.join(plan.learns(stage))}"
    return (
        f"; encoders and combiner are frozen: tokens from {out / 'tokens.lt'}, no decoding, only tokens reconstructed"
    )


def _show(bad: BadRows) -> None:
    """The first bad rows as a table."""
    if not bad.found:
        return
    rows = bad.in_order()
    say(f"{len(rows)} of {bad.rows} rows cannot be used:")
    shown = [(str(row.line), row.video or "-", row.reason) for row in rows[:MOST_SHOWN]]
    print(text_table(("line", "video", "reason"), shown, left=3), file=sys.stderr)
    if len(rows) > MOST_SHOWN:
        say(f"... and {len(rows) - MOST_SHOWN} more, see {bad.listed}")
