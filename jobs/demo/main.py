"""`longtake demo`: made videos indexed, questions answered beside their truth, and a page to look at."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longtake.errors import IndexMismatchError, InputError

if TYPE_CHECKING:
    from longtake.jobs.demo.page.content import Asked, Shown
    from longtake.jobs.demo.questions import MadeQuestion
    from longtake.jobs.main import Subparsers
    from longtake.pipeline.answering.index import Index
    from longtake.pipeline.indexing.index import IndexSummary

EXAMPLES = """\
examples:
  longtake demo --out demo-out                        three made videos, a dozen questions, demo-out/demo.html
  longtake demo --out demo-out --video holiday.mp4    and your own video beside them

Made videos show coloured shapes and sound horns and bells at known moments, so each answer can be judged. The shipped
model knows this made world only: asked about real footage it should say "nothing" and "no".
"""

# Videos that no training has seen: a world is fixed by its seed.
SEED = 20_261_122
NOTES = {
    "tiny": (
        'Your own video. The model "tiny" was trained on the made world only: shapes, colours, six sounds and a '
        'flashing border. In real footage it should find none of these, and say "nothing" and "no".'
    )
}
OTHER_NOTE = "Your own video. What is true of it is not known here: judge the answers by their moments."


def add_parser(subparsers: Subparsers) -> None:
    """Add `demo` to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="see it work: made videos, questions, answers and a page",
        description="Make a few videos whose truth is known, index them, ask a dozen questions, and write a page.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the videos, the index and demo.html")
    parser.add_argument(
        "--video", nargs="+", action="extend", default=[], metavar="FILE", help="your own videos, to be indexed too"
    )
    parser.add_argument("--model", default="tiny", metavar="M", help="shipped model or checkpoint directory")
    parser.add_argument("--videos", type=int, default=3, metavar="N", help="how many videos to make (default 3)")
    parser.add_argument(
        "--seconds", type=int, default=64, metavar="S", help="how long each is: 8 pictures a second (default 64)"
    )


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What was asked, by video, and how long the answers took."""

    by_uri: dict[str, list[Asked]]
    first_s: float
    median_s: float


def run(args: argparse.Namespace) -> int:
    """Make, index, ask, show."""
    out = Path(args.out).absolute()
    own = [_own_video(name) for name in args.video]
    if args.videos < 1 or args.seconds < 8:
        raise InputError(f"{args.videos} videos of {args.seconds} s: at least 1 of 8 s is wanted")

    # Everything from here on loads torch, Ray and decoders, which takes a few seconds.
    import longtake
    from longtake.jobs.console import messages, output
    from longtake.jobs.demo.questions import choose_questions, read_made_questions

    say = messages()
    began = time.monotonic()
    say.print(f"1 of 4: making {args.videos} videos of {args.seconds} s whose truth is known")
    made = _make_world(out, args.videos, args.seconds)
    questions = choose_questions(read_made_questions(made / "questions.jsonl"))
    say.print(f"2 of 4: indexing them{' and your own' if own else ''}")
    videos = [*sorted(map(str, made.glob("v*.mp4"))), *map(str, own)]
    summary = _index(videos, out / "index.lt", args.model)
    for failure in summary.failures:
        say.print(f"failed: {failure.message}")
    say.print(f"3 of 4: asking {len(questions)} questions" + " and some general ones about your own" * bool(own))
    index = longtake.open_index(out / "index.lt")
    answered = _ask(index, made, questions, own)
    _print_table(answered)
    say.print("4 of 4: writing the page")
    page = _write_page(out / "demo.html", index, answered, summary, args.model, own)
    judged = [asked for all_asked in answered.by_uri.values() for asked in all_asked if asked.truth is not None]
    right = sum(bool(asked.right) for asked in judged)
    output().print(f"{right} of {len(judged)} right, after {time.monotonic() - began:.0f} s; look at {page}")
    return 0


def _own_video(name: str) -> Path:
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        raise InputError(f"{name}: no such file")
    return path


def _make_world(out: Path, videos: int, seconds: int) -> Path:
    """The folder of made videos; those of an earlier run are kept, since the same seed gives the same."""
    from longtake.pipeline.synthetic.write_videos import WorldOptions, write_world

    folder = out / f"made-{videos}x{seconds}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot make this folder: {error.strerror}") from error
    # The questions are written last: with them, the folder is whole.
    if not (folder / "questions.jsonl").is_file():
        write_world(
            WorldOptions(
                out=folder,
                videos=videos,
                snippets=seconds,
                seed=SEED,
                width=256,
                height=192,
                questions_per_kind=max(2, -(-6 // videos)),
                bitrate=250_000,
            )
        )
    return folder


def _index(videos: Sequence[str], into: Path, model: str) -> IndexSummary:
    from longtake.jobs.console import messages
    from longtake.jobs.index.progress import Display
    from longtake.pipeline.indexing.index import IndexOptions, index

    name = str(Path(model).absolute()) if Path(model).is_dir() else model
    options = IndexOptions(into=str(into), model=name)
    with Display(messages()) as display:
        try:
            return index(videos, options, on_progress=display.update)
        except IndexMismatchError:
            # The demo's own index, of an earlier run with another model.
            return index(videos, IndexOptions(into=str(into), model=name, rebuild=True), on_progress=display.update)


def _ask(index: Index, made: Path, questions: Sequence[MadeQuestion], own: Sequence[Path]) -> Answered:
    from statistics import median

    from longtake.jobs.demo.page.gather import judge
    from longtake.jobs.demo.questions import GENERAL

    by_uri: dict[str, list[Asked]] = {}
    took: list[float] = []
    indexed = {row.uri for row in index.videos() if row.snippets}
    for question in questions:
        uri = str(made / question.video)
        began = time.perf_counter()
        [answer] = index.ask(question.question, video=uri, from_s=question.from_s, to_s=question.to_s)
        took.append(time.perf_counter() - began)
        by_uri.setdefault(uri, []).append(judge(answer, question))
    for path in own:
        for text in GENERAL if str(path) in indexed else ():
            [answer] = index.ask(text, video=str(path))
            by_uri.setdefault(str(path), []).append(judge(answer, None))
    return Answered(by_uri=by_uri, first_s=took[0], median_s=median(took))


def _print_table(answered: Answered) -> None:
    from longtake.jobs.clock import format_moment, format_span
    from longtake.jobs.console import output, table

    shown = table("", "video", "question", "answer", "truth", "moment")
    signs = {True: "✓", False: "✗", None: ""}
    for uri, all_asked in answered.by_uri.items():
        for asked in all_asked:
            words = asked.question
            if asked.from_s is not None and asked.to_s is not None:
                words += f" ({format_span(asked.from_s, asked.to_s)})"
            moments = [f"{format_moment(m.start_s)}-{format_moment(m.stop_s)}" for m in asked.moments[:2]]
            truth = asked.truth if asked.truth is not None else "not known"
            moment = ", ".join(moments) or "none"
            shown.add_row(signs[asked.right], Path(uri).name, words, asked.answer or "(no answer)", truth, moment)
    output().print(shown)


def _write_page(
    path: Path, index: Index, answered: Answered, summary: IndexSummary, model: str, own: Sequence[Path]
) -> Path:
    from longtake.jobs.demo.page.content import Page
    from longtake.jobs.demo.page.gather import show_video
    from longtake.jobs.demo.page.render import render
    from longtake.pipeline.table.schema import IndexReader

    reader = IndexReader.open(index.path)
    rows = {row.uri: row for row in reader.videos()}
    model_name = Path(model).name
    shown: list[Shown] = [
        show_video(reader, rows[uri], asked, path, NOTES.get(model, OTHER_NOTE) if Path(uri) in own else "")
        for uri, asked in answered.by_uri.items()
    ]
    facts = [
        (str(len(shown)), "videos"),
        (f"{sum(rows[uri].snippets for uri in answered.by_uri):,}", "snippets"),
        (f"{sum(rows[uri].frames for uri in answered.by_uri):,}", "frames seen"),
        (f"{reader.metadata.tokens} x {reader.metadata.width}", "numbers a snippet"),
    ]
    if summary.indexed:
        facts.append((f"{summary.seconds:.1f} s", f"to index, {summary.startup_s:.1f} s of it starting up"))
    facts += [(f"{1000 * answered.median_s:.0f} ms", "an answer, median"), (model_name, "model")]
    notes = (
        "Written by “longtake demo”. The questions were chosen by their kind before anything was answered: each kind "
        "twice, some about a span, some about what never happened.",
        "The made videos were drawn from a seed that no training used. The page holds everything that it shows and "
        "fetches nothing; larger videos are linked.",
    )
    path.write_text(render(Page(shown=tuple(shown), facts=tuple(facts), notes=notes)), encoding="utf-8")
    return path
