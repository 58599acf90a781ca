"""The `longtake` command: one clear line for an error, and an exit code that says which kind.

Exit codes: 0 done, 1 the work failed, 2 what was given cannot be used, 130 stopped with Ctrl-C.

Modules of subcommands hold `add_parser(subparsers)` and `run(args) -> int`, and stand in `COMMANDS`. They import torch,
Ray, Lance and the decoders inside `run` only, so that `longtake --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol, TypeAlias, cast

import longtake
from longtake.errors import InputError, LongTakeError

# What argparse hands to `add_parser` has no public name.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

# Every module of commands in this folder and what it adds, in the order of the help text.
COMMANDS = {
    "index.index": ("index",),
    "ask.main": ("ask",),
    "index.status": ("status",),
    "index.failures": ("failures",),
    "evaluate": ("evaluate",),
    "world": ("world",),
    "train.main": ("train",),
    "ablate.main": ("ablate",),
    "models": ("models",),
    "random_model": ("random-model",),
    "demo.main": ("demo",),
    "bench.main": ("bench",),
    "cluster": ("submit", "jobs", "logs", "stop"),
}

EXAMPLES = """\
examples:
  longtake index ~/videos --into archive.lt            index every video of a folder, once
  longtake ask archive.lt "what was shown when the border flashed?"
  longtake ask archive.lt                              open a prompt and ask many questions
  longtake status archive.lt                           what is indexed, and how far
  longtake demo --out demo-out                         made videos, questions, answers and a page to look at

`longtake COMMAND --help` shows the options and examples of one command.
"""


class Command(Protocol):
    """What a module of a subcommand holds."""

    def add_parser(self, subparsers: Subparsers) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


class Parser(argparse.ArgumentParser):
    """Argparse with this program's one-line errors instead of a usage dump, and no guessing of shortened options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"longtake: error: {message} (see '{self.prog} --help')\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, every subcommand included."""
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")
    parser = Parser(
        prog="longtake",
        description=longtake.__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[debug],
    )
    parser.add_argument("--version", action="version", version=f"longtake {longtake.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for path, commands in COMMANDS.items():
        module = cast(Command, importlib.import_module(f"longtake.jobs.{path}"))
        module.add_parser(cast(Any, subparsers))
        for command in commands:
            subparser = subparsers.choices[command]
            subparser.add_argument(
                "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
            )
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return its exit code."""
    # Lance's own log lines (a table that is made anew is a "WARN") would come between ours.
    os.environ.setdefault("LANCE_LOG", "error")
    words = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser()
    if not words:
        parser.print_help(sys.stderr)
        return EXIT_BAD_INPUT
    try:
        args = parser.parse_args(words)
    except SystemExit as stop:
        # Argparse has printed the help or the error already.
        return stop.code if isinstance(stop.code, int) else 0
    debug = getattr(args, "debug", False)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (head, less) has what it wanted. Without this the interpreter complains once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("longtake: stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except LongTakeError as error:
        if debug:
            traceback.print_exc()
        print(f"longtake: error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT if isinstance(error, InputError) else EXIT_FAILED
    except Exception as error:
        # The edge of the program: an error that nobody foresaw still ends in one line.
        if debug:
            traceback.print_exc()
        hint = "" if debug else " (--debug shows where)"
        print(f"longtake: error: {type(error).__name__}: {' '.join(str(error).split())}{hint}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
