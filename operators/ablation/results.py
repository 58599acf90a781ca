"""What an ablation's runs found: rows, their summary over seeds, and the files that keep them.

A run is one variant trained with one seed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from longtake.errors import InputError
from longtake.operators.ablation.questions import TestSet

# What a record says of a run beside its notes.
_RUN = ("variant", "seed", "seconds", "cpu_seconds")
# What the commonest answer of a kind would score, in the place of a variant.
MAJORITY = "majority"
# Student's t for 95 %, by the number of seeds less one.
_T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True, kw_only=True)
class Row:
    """How many questions of a kind a run answered rightly in one test; `at` is where a sweep's test stands in it."""

    variant: str
    seed: int
    test: str
    snippets: int
    kind: str
    right: int
    total: int
    at: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run. `notes` are figures of its own: parameters, what its combiner learned, the end of its curve."""

    variant: str
    seed: int
    rows: tuple[Row, ...]
    seconds: float
    cpu_seconds: float
    notes: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The runs of a variant together: questions pooled over seeds, the mean over seeds and its 95 % interval.

    The interval over seeds is Student's t for as many seeds, cut to [0, 1]; None with one seed.
    """

    variant: str
    test: str
    snippets: int
    kind: str
    at: float | None
    right: int
    total: int
    seeds: int
    mean: float
    over_seeds: tuple[float, float] | None


def count_right(
    variant: str,
    seed: int,
    test: str,
    snippets: int,
    labels: Sequence[str],
    right_Q: Tensor,
    at: float | None = None,
) -> list[Row]:
    """A row for each label but the empty one."""
    answered = right_Q.tolist()
    rows = []
    for kind in dict.fromkeys(label for label in labels if label):
        of_kind = [ok for ok, label in zip(answered, labels, strict=True) if label == kind]
        rows.append(
            Row(
                variant=variant,
                seed=seed,
                test=test,
                snippets=snippets,
                kind=kind,
                right=sum(of_kind),
                total=len(of_kind),
                at=at,
            )
        )
    return rows


def majority_rows(test: TestSet, name: str, at: float | None = None) -> list[Row]:
    """A row for each kind that counts the commonest answer of that kind as given to all its questions."""
    counts: dict[str, Counter[str]] = {}
    for question, label in zip(test.asked, test.labels, strict=True):
        if label:
            counts.setdefault(label, Counter())[question.answer] += 1
    return [
        Row(
            variant=MAJORITY,
            seed=0,
            test=name,
            snippets=test.snippets,
            kind=kind,
            right=max(found.values()),
            total=found.total(),
            at=at,
        )
        for kind, found in counts.items()
    ]


def summarise(rows: Iterable[Row]) -> list[Summary]:
    """One summary for each variant, test, length, kind and place, in the order in which they first come."""
    groups: dict[tuple[str, str, int, str, float | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.variant, row.test, row.snippets, row.kind, row.at), []).append(row)
    found = []
    for (variant, test, snippets, kind, at), group in groups.items():
        shares = [row.right / row.total for row in group]
        mean = sum(shares) / len(shares)
        found.append(
            Summary(
                variant=variant,
                test=test,
                snippets=snippets,
                kind=kind,
                at=at,
                right=sum(row.right for row in group),
                total=sum(row.total for row in group),
                seeds=len(group),
                mean=mean,
                over_seeds=_over_seeds(shares),
            )
        )
    return found


def students_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean of a few independent values, by Student's t; None with fewer than two."""
    count = len(values)
    if count < 2:
        return None
    mean = sum(values) / count
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = _T_95.get(count - 1, 1.96) * deviation / math.sqrt(count)
    return mean - half, mean + half


def _over_seeds(shares: Sequence[float]) -> tuple[float, float] | None:
    interval = students_interval(shares)
    return interval and (max(0.0, interval[0]), min(1.0, interval[1]))


def write_result(path: Path, result: RunResult, plan: str) -> None:
    """Keep a finished run; `plan` is what it was trained with, as text."""
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps({"plan": plan, **dataclasses.asdict(result)}, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def take_over(path: Path, folder: Path, plan: str, variants: Collection[str]) -> list[RunResult]:
    """Keep the finished runs of another record, as `longtake ablate --json` writes it, among those of `folder`.

    Returns:
        the runs of the record that were not there yet.
    Raises:
        InputError: the file is no such record, or its runs were trained under another plan or an unknown one.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        its_plan = data.get("plan")
        rows = [Row(**{name: value for name, value in row.items() if name != "interval"}) for row in data["rows"]]
        results = [
            RunResult(
                variant=run["variant"],
                seed=run["seed"],
                rows=tuple(row for row in rows if (row.variant, row.seed) == (run["variant"], run["seed"])),
                seconds=run["seconds"],
                cpu_seconds=run["cpu_seconds"],
                notes={name: value for name, value in run.items() if name not in _RUN},
            )
            for run in data["runs"]
        ]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not a record of longtake ablate ({type(error).__name__}: {error})") from error
    if its_plan is None:
        raise InputError(f"{path}: says nothing of the plan its runs were trained under: an older version's record")
    # A variant's name becomes a file's.
    if its_plan != fingerprint(plan) or not {result.variant for result in results} <= set(variants):
        raise InputError(f"{path}: its runs were trained under another plan (track, budget, variants or weights)")
    new = [run for run in results if read_result(result_path(folder, run.variant, run.seed), plan) is None]
    for run in new:
        write_result(result_path(folder, run.variant, run.seed), run, plan)
    return new


def fingerprint(plan: str) -> str:
    """A plan's short name, for records."""
    return hashlib.sha256(plan.encode()).hexdigest()[:16]


def result_path(folder: Path, variant: str, seed: int) -> Path:
    """Where a run's result is kept."""
    return folder / "runs" / f"{variant}-{seed}.json"


def read_result(path: Path, plan: str) -> RunResult | None:
    """A run that is done already under this plan; None where there is none, or it had another plan."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("plan") != plan:
            return None
        return RunResult(**{**data, "rows": tuple(Row(**row) for row in data["rows"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
