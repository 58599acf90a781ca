"""`longtake ask`: one question, a file of questions, or a prompt."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtake.errors import InputError, LongTakeError
from longtake.jobs.clock import parse_moment

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers
    from longtake.pipeline.answering.index import Index
    from longtake.pipeline.answering.question import StreamedAnswer, VideoAnswer

EXAMPLES = """\
examples:
  longtake ask archive.lt "what was shown when the border flashed?"
  longtake ask archive.lt "how many horns sounded?" --video v0003.mp4 --from 0:30 --to 1:30
  longtake ask archive.lt "which colour was on screen while the horn sounded?" --choices red,green,blue
  longtake ask archive.lt "what was shown last?" --votes 5 --json
  longtake ask archive.lt "who opens the door?" --video film.mkv --look-closer 8     an index of a public model
  longtake ask archive.lt --questions questions.txt        one question a line, or JSON lines
  longtake ask archive.lt                                  a prompt; :help lists what it knows

A row of JSON lines holds "question" and may hold "video", "from_s", "to_s", "choices", "votes", "limit" and
"look_closer". Several videos and no --video: each video gives its answer; on a terminal, the answer about one video is
printed while it is decoded. A video that is still being indexed can be asked; the answer says up to which moment it has
been seen.
"""

PROMPT_HELP = """\
type a question and press Enter, or
  :videos          list the videos
  :video NAME      ask only about one video; without a name: about all
  :span FROM TO    look only at that part, e.g. :span 0:30 1:30; without times: at everything
  :quit            leave (or Ctrl-D)"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question with its options, from the command line, a file's row or the prompt."""

    question: str
    video: str | None = None
    from_s: float | None = None
    to_s: float | None = None
    choices: tuple[str, ...] | None = None
    votes: int = 1
    limit: int | None = None
    look_closer: int | None = None

    def put_to(self, index: Index) -> list[VideoAnswer]:
        """Ask."""
        return index.ask(
            self.question,
            video=self.video,
            from_s=self.from_s,
            to_s=self.to_s,
            choices=self.choices,
            votes=self.votes,
            limit=self.limit,
            look_closer=self.look_closer,
        )

    def stream_from(self, index: Index) -> StreamedAnswer | None:
        """The answer in pieces, where there is one video to ask and one likeliest answer to decode."""
        if self.choices is not None or self.votes != 1:
            return None
        asked = [self.video] if self.video is not None else [row.uri for row in index.to_ask()]
        if len(asked) != 1:
            return None
        return index.stream(self.question, asked[0], self.from_s, self.to_s, self.limit, self.look_closer)


def add_parser(subparsers: Subparsers) -> None:
    """Add `ask` to the command line."""
    parser = subparsers.add_parser(
        "ask",
        help="ask questions about indexed videos",
        description="Ask questions about indexed videos. Answers come from the index; no video is read again.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("index", metavar="INDEX", help="what `longtake index --into` wrote")
    parser.add_argument("question", nargs="?", help="in quotes; without one a prompt opens")
    parser.add_argument("--questions", metavar="FILE", help="answer a file of questions: text lines or JSON lines")
    parser.add_argument("--video", metavar="V", help="only this video: path, file name, or the start of its id")
    parser.add_argument("--from", dest="from_s", type=parse_moment, metavar="S", help="look only from this moment on")
    parser.add_argument("--to", dest="to_s", type=parse_moment, metavar="S", help="look only up to this moment")
    parser.add_argument("--choices", metavar="A,B,C", type=_choices, help="the answer is the likeliest of these")
    parser.add_argument("--votes", type=int, default=1, metavar="N", help="sample N answers and take the commonest")
    parser.add_argument("--limit", type=int, metavar="N", help="public models: an answer has at most N tokens (256)")
    parser.add_argument(
        "--look-closer", type=int, metavar="K", help="public models: look at all briefly, then at K snippets in full"
    )
    parser.add_argument("--model", metavar="M", help="where the index's own model has moved: a directory, or vlm:PATH")
    parser.add_argument("--json", action="store_true", help="print one JSON object a question")


def _choices(text: str) -> tuple[str, ...]:
    return tuple(choice.strip() for choice in text.split(","))


def run(args: argparse.Namespace) -> int:
    """Answer, and return the exit code: 2 when any question of a file could not be asked."""
    if args.question is not None and args.questions is not None:
        raise InputError("give a question or --questions, not both")
    base = Request(
        question=args.question or "",
        video=args.video,
        from_s=args.from_s,
        to_s=args.to_s,
        choices=args.choices,
        votes=args.votes,
        limit=args.limit,
        look_closer=args.look_closer,
    )
    # A bad file of questions is noticed before anything is loaded.
    requests = list(_read_requests(Path(args.questions), base)) if args.questions is not None else []

    import longtake

    index = longtake.open_index(args.index, model=args.model)
    if args.question is not None:
        _answer(index, base, as_json=args.json)
        return 0
    if args.questions is not None:
        return _answer_all(index, requests, as_json=args.json)
    return _prompt(index, base, as_json=args.json)


def _read_requests(path: Path, base: Request) -> Iterator[Request]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the questions: {error}") from error
    found = False
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        found = True
        try:
            yield _from_row(json.loads(line), base) if line.startswith("{") else replace(base, question=line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    if not found:
        raise InputError(f"{path}: holds no question")


_ROW_TYPES: dict[str, tuple[type, ...]] = {
    "question": (str,),
    "video": (str,),
    "from_s": (int, float),
    "to_s": (int, float),
    "choices": (list,),
    "votes": (int,),
    "limit": (int,),
    "look_closer": (int,),
}


def _from_row(row: dict[str, Any], base: Request) -> Request:
    """A row's own values over those of the command line; other fields (an evaluation's truth) are ignored."""
    if "question" not in row:
        raise ValueError('the row has no "question"')
    given = {key: row[key] for key in _ROW_TYPES if row.get(key) is not None}
    for key, value in given.items():
        if not isinstance(value, _ROW_TYPES[key]) or isinstance(value, bool):
            raise ValueError(f"{key} must be {' or '.join(kind.__name__ for kind in _ROW_TYPES[key])}, not {value!r}")
    if "choices" in given:
        given["choices"] = tuple(map(str, given["choices"]))
    return replace(base, **given)


def _answer(index: Index, request: Request, *, as_json: bool) -> None:
    """Ask and print: the answers, and warnings about what they do not cover."""
    from longtake.jobs.ask.output import make_warnings, show, show_pieces
    from longtake.jobs.console import print_json, warn

    stream = request.stream_from(index) if sys.stdout.isatty() and not as_json else None
    if stream is not None:
        answers = [show_pieces(stream)]
    else:
        answers = request.put_to(index)
    warnings = make_warnings(index, answers, all_videos=request.video is None)
    if as_json:
        shown = {"question": request.question, "answers": [item.to_dict() for item in answers], "warnings": warnings}
        print_json(shown)
    elif stream is None:
        for answer in answers:
            show(answer)
    for warning in warnings:
        warn(warning)


def _answer_all(index: Index, requests: list[Request], *, as_json: bool) -> int:
    code = 0
    for number, request in enumerate(requests):
        if not as_json:
            print(("\n" if number else "") + request.question)
        code = max(code, _try(index, request, as_json=as_json))
    return code


def _try(index: Index, request: Request, *, as_json: bool) -> int:
    """Ask one of many: an error is told and the next question follows."""
    from longtake.jobs.console import print_json

    try:
        _answer(index, request, as_json=as_json)
    except LongTakeError as error:
        if as_json:
            print_json({"question": request.question, "error": str(error)})
        sys.stdout.flush()
        print(f"longtake: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


def _prompt(index: Index, request: Request, *, as_json: bool) -> int:
    """Read questions until the input ends. Typed errors cost nothing; of a pipe the exit code tells them."""
    from longtake.jobs.console import counted

    typed = sys.stdin.isatty()
    if typed:
        # Importing it gives `input` a history and line editing.
        import readline  # noqa: F401

        print(
            f"{counted(len(index.videos()), 'video')} in {index.path}; :help lists what you can type", file=sys.stderr
        )
    code = 0
    while True:
        try:
            line = input("? " if typed else "").strip()
        except EOFError:
            return 0 if typed else code
        if line in (":quit", ":q", ":exit"):
            return 0 if typed else code
        if not line:
            continue
        try:
            # A video that is still being indexed has grown since the last question.
            index.refresh()
            if line.startswith(":"):
                request = _obey(line, index, request)
            else:
                _answer(index, replace(request, question=line), as_json=as_json)
        except LongTakeError as error:
            print(f"longtake: error: {error}", file=sys.stderr)
            code = max(code, 2 if isinstance(error, InputError) else 1)


def _obey(line: str, index: Index, request: Request) -> Request:
    """A command of the prompt; returns what the following questions start from."""
    word, *rest = line.split()
    if word == ":help":
        print(PROMPT_HELP)
    elif word == ":videos":
        for row in index.videos():
            print(f"{row.video_id[:8] or '-':8}  {row.status:8}  {row.snippets:6} snippets  {row.uri}")
    elif word == ":video":
        return replace(request, video=index.find(line[len(word) :]).uri if rest else None)
    elif word == ":span":
        if len(rest) not in (0, 2):
            raise InputError(":span wants two moments, or none")
        try:
            from_s, to_s = map(parse_moment, rest) if rest else (None, None)
        except argparse.ArgumentTypeError as error:
            raise InputError(str(error)) from error
        return replace(request, from_s=from_s, to_s=to_s)
    else:
        raise InputError(f"{word} is nothing that the prompt knows; :help lists what it does")
    return request
