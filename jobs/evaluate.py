"""`longtake evaluate`: the answers of an index against known truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers
    from longtake.pipeline.evaluation.evaluate import Evaluation, Score

EXAMPLES = """\
examples:
  longtake world --out world --videos 20 --seed 7        made videos whose truth is known
  longtake index world --into world.lt
  longtake evaluate world.lt world/questions.jsonl
  longtake evaluate world.lt world/questions.jsonl --json --answers answers.jsonl

Rows of the question file: video, question, answer, kind, start_s, stop_s (the evidence), from_s, to_s (the span); where
it matters also about (what questions in other words share), voice (trained or unseen; scored apart) and tolerance_s (an
answer in seconds is right within it).
Intervals are 95 % Wilson intervals. "majority" is the commonest answer of each kind; "question only" is the best
guess of someone who reads the other videos' questions and answers but sees nothing. "top moment" counts how often the
strongest moment overlaps the true one; "chance" is how often a moment as long would, put anywhere.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `evaluate` to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure an index's answers against known truth",
        description="Ask an index every question of a file and print the accuracy by kind, with baselines beside it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("index", metavar="INDEX", help="what `longtake index --into` wrote")
    parser.add_argument("questions", metavar="QUESTIONS", help="a questions.jsonl, as `longtake world` writes it")
    parser.add_argument("--answers", metavar="FILE", help="also write every answer beside its truth, as JSON lines")
    parser.add_argument("--model", metavar="M", help="checkpoint directory, where the index's own one has moved")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")


def run(args: argparse.Namespace) -> int:
    """Ask, score, print."""
    from longtake.pipeline.evaluation.evaluate import evaluate, read_questions

    questions = read_questions(args.questions)

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    import longtake
    from longtake.jobs.console import messages, print_json

    index = longtake.open_index(args.index, model=args.model)
    columns = (TextColumn("questions"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages(), transient=True) as progress:
        task = progress.add_task("questions", total=len(questions))
        result = evaluate(index, questions, on_answer=lambda done: progress.update(task, completed=done))
    if args.answers is not None:
        _write_answers(Path(args.answers), result)
    if args.json:
        print_json(result.to_dict())
    else:
        _print_table(result)
    return 0


def _write_answers(path: Path, result: Evaluation) -> None:
    import json

    from longtake.errors import InputError

    lines = [json.dumps(row, ensure_ascii=False) for row in result.to_dict(with_answers=True)["judged"]]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot write the answers: {error}") from error


def _print_table(result: Evaluation) -> None:
    from longtake.jobs.console import output, table

    numbers = ("right", "of", "accuracy", "95 % interval", "majority", "question only", "chance")
    shown = table("kind", *numbers, right=numbers)
    for section in (result.kinds, result.groups, result.moments):
        if shown.row_count and section:
            shown.add_row()
        for score in section:
            shown.add_row(*_cells(score))
    output().print(shown)
    output().print(f"{len(result.judged)} questions about {result.videos} videos")


def _cells(score: Score) -> list[str]:
    from longtake.jobs.console import percent

    guesses = [
        percent(guess) if guess is not None else "" for guess in (score.majority, score.question_only, score.chance)
    ]
    interval = f"{100 * score.low:.1f} - {percent(score.high)}"
    return [score.name, str(score.correct), str(score.count), percent(score.accuracy), interval, *guesses]
