"""What the commands print with: results go to standard output, everything about the work to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

# Rich measures a pipe as 80 columns and would fold a table's cells there; a program wants a line a row.
PIPE_WIDTH = 1000


def output() -> Console:
    """The console of results. Words are printed as they are: no markup, no colour in a pipe."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=sys.stdout, markup=False, highlight=False, soft_wrap=True, width=width)


def messages() -> Console:
    """The console of progress bars and messages."""
    return Console(file=sys.stderr, markup=False, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """One line about something that the user should know and that stops nothing."""
    print(f"longtake: warning: {' '.join(message.split())}", file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON value on one line, so that a program can read results line by line."""
    print(json.dumps(value, ensure_ascii=False, default=str), flush=True)


def table(*columns: str, right: Sequence[str] = (), title: str | None = None) -> Table:
    """An empty table in the commands' one look; the columns named in `right` hold numbers."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def percent(share: float) -> str:
    """A share of 1 as `97.5 %`."""
    return f"{100 * share:.1f} %"


def counted(number: int, thing: str) -> str:
    """`1 video`, `2 videos`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
