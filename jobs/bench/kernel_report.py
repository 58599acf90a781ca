"""What a run of `longtake bench kernels` found, in words: a table an op, one summary line a kernel, and the goals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from longtake.jobs.bench.text_table import text_table
from longtake.kernels.bench.measure import COMPILE, EAGER, MAX_AUTOTUNE

# One row of a record, as `longtake.kernels.bench.measure.Row.as_dict` makes it.
RowDict = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What an op is to reach on one H200 in bfloat16, at the sizes that fill it.

    `case` is how the names of its cases start, where an op has several ways. `ratio` is against the faster of
    torch.compile's modes, `share` of the limit that the machine itself showed in the same run.
    """

    op: str
    direction: str
    ratio: float
    share: float
    case: str = ""


GOALS = (
    Goal(op="token_summary", direction="forward", ratio=2.0, share=0.60),
    Goal(op="token_summary", direction="backward", ratio=1.5, share=0.45),
    Goal(op="combine_attention", direction="forward", ratio=1.3, share=0.50),
    Goal(op="combine_attention", direction="backward", ratio=1.0, share=0.50),
    Goal(op="tube_embed", direction="forward", ratio=2.0, share=0.50),
    Goal(op="token_codec", direction="forward", ratio=1.0, share=0.80, case="encode"),
    Goal(op="token_codec", direction="forward", ratio=1.0, share=0.80, case="decode"),
)


def compile_ratio(row: RowDict) -> float | None:
    """The time of torch.compile's faster mode over ours; None where either has none."""
    return min((row["ratios"][name] for name in (COMPILE, MAX_AUTOTUNE) if name in row["ratios"]), default=None)


def geometric_mean(values: Iterable[float]) -> float | None:
    """None of no values."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def make_tables(rows: Sequence[RowDict]) -> str:
    """Every row, an op a table: times in ms, the rivals' in their order, then why there is no time."""
    parts = []
    for op in dict.fromkeys(row["op"] for row in rows):
        mine = [row for row in rows if row["op"] == op]
        rivals = list(dict.fromkeys(name for row in mine for name in row["rivals"]))
        columns = [op, "ours ms", *(f"{name} ms" for name in rivals), "x compile", "limit ms", "share"]
        parts.append(text_table(columns, [_line(row, rivals) for row in mine]))
        parts += [f"  {row_name(row)}: {reason}" for row in mine for reason in reasons(row)]
        parts.append("")
    return "\n".join(parts).rstrip()


def row_name(row: RowDict) -> str:
    """`fills` marks the cases whose figures count."""
    return f"{row['case']} {row['dtype']} {row['direction']}{' *' if row['fills'] else ''}"


def reasons(row: RowDict) -> list[str]:
    """Why a row, or a rival of it, has no time."""
    said = [f"{rival}: {found['error']}" for rival, found in row["rivals"].items() if "error" in found]
    if row["check"] is not None and not row["check"]["ok"]:
        said.insert(0, f"FAILED ITS CHECK, not timed: {row['check']['reason']}")
    return [row["note"], *said] if row["note"] else said


def _line(row: RowDict, rivals: Sequence[str]) -> list[str]:
    times = [_ms((row["rivals"].get(rival) or {}).get("ms")) for rival in rivals]
    share = "-" if row["share_of_limit"] is None else f"{100 * row['share_of_limit']:.0f} %"
    ratio = compile_ratio(row)
    compared = ["-" if ratio is None else f"{ratio:.2f}", _ms(row["limit_ms"]), share]
    return [row_name(row), _ms(row["ours"]["ms"] if row["ours"] else None), *times, *compared]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def make_summary(rows: Sequence[RowDict]) -> list[str]:
    """One line a kernel: geometric means over its bfloat16 cases that fill the chip, beside its goals."""
    counted = [row for row in rows if row["fills"] and row["dtype"] == "bfloat16"]
    lines = []
    seen = {(row["op"], row["direction"]): True for row in counted}
    for op, direction in seen:
        mine = [row for row in counted if (row["op"], row["direction"]) == (op, direction)]
        goals = [goal for goal in GOALS if (goal.op, goal.direction) == (op, direction)]
        for goal in goals or [Goal(op=op, direction=direction, ratio=0.0, share=0.0)]:
            of_goal = [row for row in mine if row["case"].startswith(goal.case)]
            lines.append(_summary_line(goal, of_goal))
    return lines


def _summary_line(goal: Goal, rows: Sequence[RowDict]) -> str:
    ratios = [ratio for row in rows if (ratio := compile_ratio(row)) is not None]
    shares = [row["share_of_limit"] for row in rows if row["share_of_limit"] is not None]
    eager = geometric_mean(row["ratios"][EAGER] for row in rows if EAGER in row["ratios"])
    said = [
        _against_goal(geometric_mean(ratios), goal.ratio, "{:.2f} x torch.compile"),
        _against_goal(geometric_mean(shares), goal.share, "{:.0%} of its limit"),
        f"{eager:.2f} x eager" if eager is not None else "eager not measured",
    ]
    what = " ".join(word for word in (goal.op, goal.case, goal.direction) if word)
    return f"{what:<28} {'; '.join(said)}; {len(ratios)} of {len(rows)} large cases compared"


def _against_goal(found: float | None, goal: float, form: str) -> str:
    said = form.format(found) if found is not None else f"{form.split('} ')[1]} not measured"
    if not goal:
        return said
    verdict = "" if found is None else ": reached" if found >= goal else ": not reached"
    return f"{said} (goal {form.format(goal).split(' ')[0]}{verdict})"
