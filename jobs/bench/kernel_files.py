"""The CSV and the plot of a run of `longtake bench kernels`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtake.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "op", "case", "dtype", "fills", "direction", "way", "ms", "p20_ms", "p80_ms", "times_ours", "bytes", "flops",
    "limit_ms", "bound", "share_of_limit", "error",
)  # fmt: skip
OURS = "ours"
MARKS = "os^vDP*X"


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One line for each way of each row: ours and every rival.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(line for row in rows for line in _lines(row))
    except OSError as error:
        raise InputError(f"{path}: cannot write the figures: {error.strerror}") from error


def _lines(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    reason = row["note"]
    if row["check"] is not None and not row["check"]["ok"]:
        reason = row["check"]["reason"]
    yield {**row, **(row["ours"] or {"error": reason}), "way": OURS}
    for name, rival in row["rivals"].items():
        share = row["limit_ms"] / rival["ms"] if row["limit_ms"] is not None and "ms" in rival else None
        yield {**row, **rival, "way": name, "times_ours": row["ratios"].get(name), "share_of_limit": share}


def draw(path: Path, kept: dict[str, Any]) -> str | None:
    """Plot every time in units of the machine's own limit: 1 is as fast as this machine can be.

    Returns:
        Why there is no plot, or None.
    """
    rows = [row for row in kept["rows"] if row["ours"] is not None and row["limit_ms"]]
    if not rows:
        return "no kernel was timed"
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "matplotlib is not installed"
    figure = Figure(figsize=(10, 1.6 + 0.26 * len(rows)), layout="constrained")
    _plot(figure.add_subplot(), rows)
    gpu = kept["machine"]["gpu"]
    figure.suptitle(f"{gpu['name'] if gpu is not None else kept['device']}: time over the machine's own limit")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None


def _plot(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ways = [OURS, *dict.fromkeys(name for row in rows for name in row["rivals"])]
    for number, way in enumerate(ways):
        points = []
        for place, row in enumerate(rows):
            timing = row["ours"] if way == OURS else row["rivals"].get(way) or {}
            if "ms" in timing:
                points.append((timing["ms"] / row["limit_ms"], place))
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            linestyle="",
            marker=MARKS[number % len(MARKS)],
            markersize=8 if way == OURS else 5,
            zorder=3 if way == OURS else 2,
            label=way,
        )
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.5 / len(rows))
    axes.set_xlabel("time / limit (bytes over copy bandwidth, or operations over matmul rate); * fills the chip")
    names = [f"{row['op']} {row['case']} {row['direction']}{' *' if row['fills'] else ''}" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="x", which="both", linewidth=0.3)
    axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(ways), frameon=False)
