"""`longtake bench compare`: two runs of `longtake bench kernels`, row by row."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtake.errors import InputError

# A kernel that takes so much longer than before has got slower.
REGRESSION = 0.05

# Op, case, dtype, direction.
Key = tuple[str, str, str, str]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench compare`."""
    parser = subparsers.add_parser(
        "compare",
        help="two runs of bench kernels beside each other",
        description=(
            "Print how the kernels' times changed from one run of `longtake bench kernels` to another. Ends with 1 "
            f"where one takes over {REGRESSION:.0%} longer, or is no longer exact enough to be timed."
        ),
    )
    parser.add_argument("before", metavar="A.json", help="the earlier run")
    parser.add_argument("after", metavar="B.json", help="the later run")


def run(args: argparse.Namespace) -> int:
    """Read, print."""
    from longtake.jobs.bench.text_table import text_table

    before, after = read(Path(args.before)), read(Path(args.after))
    for line in differences(before, after):
        print(line)
    rows_before, rows_after = by_key(before), by_key(after)
    changes = [Change.of(key, rows_before[key], rows_after[key]) for key in rows_before if key in rows_after]
    timed = [change for change in changes if change.before_ms is not None]
    if not timed:
        raise InputError(f"{args.before} and {args.after} have no timed kernel in common")
    columns = ("op", "case", "dtype", "direction", "before ms", "after ms", "change", "")
    print(text_table(columns, [change.line() for change in changes if change.tells()], left=4))
    for path, own, others in ((args.before, rows_before, rows_after), (args.after, rows_after, rows_before)):
        for key in own:
            if key not in others:
                print(f"only in {path}: {' '.join(key)}")
    slower = [change for change in changes if change.is_regression()]
    print(f"{len(timed)} kernels compared, {len(slower)} got slower by over {REGRESSION:.0%} or lost their time")
    return 1 if slower else 0


@dataclass(frozen=True, kw_only=True)
class Change:
    """A kernel's median time in two runs; None where it was not timed."""

    key: Key
    before_ms: float | None
    after_ms: float | None
    failed: bool

    @classmethod
    def of(cls, key: Key, before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
        """The change between two rows of one key."""
        check = after["check"]
        return cls(
            key=key,
            before_ms=before["ours"]["ms"] if before["ours"] is not None else None,
            after_ms=after["ours"]["ms"] if after["ours"] is not None else None,
            failed=check is not None and not check["ok"],
        )

    def share(self) -> float | None:
        """How much longer it takes: 0.1 for a tenth, below 0 where it got faster."""
        if self.before_ms is None or self.after_ms is None:
            return None
        return self.after_ms / self.before_ms - 1

    def is_regression(self) -> bool:
        """Whether it got slower by over `REGRESSION`, or is wrong now."""
        if self.before_ms is None or self.after_ms is None:
            return self.failed
        return self.after_ms > self.before_ms * (1 + REGRESSION)

    def tells(self) -> bool:
        """Whether either run timed it, or the later one found it wrong."""
        return self.before_ms is not None or self.after_ms is not None or self.failed

    def line(self) -> list[str]:
        """As one line of the table."""
        share = self.share()
        said = "" if share is None else f"{100 * share:+.1f} %"
        times = ["-" if ms is None else f"{ms:.4f}" for ms in (self.before_ms, self.after_ms)]
        flag = "FAILED ITS CHECK" if self.failed else "SLOWER" if self.is_regression() else ""
        return [*self.key, *times, said, flag]


def read(path: Path) -> dict[str, Any]:
    """A record of `longtake bench kernels`.

    Raises:
        InputError: it cannot be read, or is none.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: is no JSON: {error}") from error
    if not isinstance(kept, dict) or kept.get("benchmark") != "kernels":
        raise InputError(f"{path}: is no record of `longtake bench kernels`")
    return kept


def by_key(kept: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    """The rows by what makes two of them comparable."""
    return {(row["op"], row["case"], row["dtype"], row["direction"]): row for row in kept["rows"]}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What else than the kernels differs, as lines: the GPU, its driver, versions, the commit; a run cut short."""
    gpus = [kept["machine"].get("gpu") or {} for kept in (before, after)]
    versions = [kept["versions"] for kept in (before, after)]
    pairs = [(f"GPU {key}", gpus[0].get(key), gpus[1].get(key)) for key in ("name", "driver", "cuda", "hip")]
    packages = dict.fromkeys([*versions[0], *versions[1]])
    pairs += [(package, versions[0].get(package), versions[1].get(package)) for package in packages]
    pairs.append(("commit", before["commit"], after["commit"]))
    said = [f"{what}: {one} before, {other} after" for what, one, other in pairs if one != other]
    for which, kept in (("before", before), ("after", after)):
        if not kept["complete"]:
            said.append(f"the run {which} did not come to its end")
    return said
