"""`longtake bench binaries`: registers, spills and shared memory of every Triton program on every machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from longtake.errors import InputError

if TYPE_CHECKING:
    from longtake.kernels.bench.binaries import Binary

MOST_WORKERS = 8


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench binaries`."""
    parser = subparsers.add_parser(
        "binaries",
        help="registers, spills and shared memory of the Triton programs, without a GPU",
        description=(
            "Compile every Triton program with every setting that it is shipped with, for every machine it has "
            "settings for, and read from the binaries what each takes. No GPU is needed. Ends with 1 where a program "
            "does not compile, takes more shared memory than the machine has, or spills registers on sm_90."
        ),
    )
    parser.add_argument("--op", action="append", metavar="O", help="this op only (may be repeated)")
    parser.add_argument("--target", action="append", metavar="T", help="this machine only, such as sm_90")
    parser.add_argument("--out", metavar="FILE", help="write the figures there, as JSON")


def run(args: argparse.Namespace) -> int:
    """Compile, print, keep."""
    from longtake.jobs.bench.record import write_record
    from longtake.kernels.bench.binaries import compile_programs
    from longtake.kernels.bench.suites import cases_module, op_names
    from longtake.kernels.targets import TARGETS

    ops = chosen("--op", args.op, op_names())
    targets = [target for target in TARGETS if target in chosen("--target", args.target, TARGETS)]
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    binaries = compile_programs({op: cases_module(op) for op in ops}, targets, workers=workers, report=_progress)
    faults = faults_of(binaries)
    write_record(args.out, "binaries", {"faults": faults, "programs": [asdict(binary) for binary in binaries]})
    print(make_table(binaries))
    print()
    for fault in faults:
        print(fault)
    print(f"{len(binaries)} programs for {', '.join(targets)}: {len(faults) or 'no'} faults")
    return 1 if faults else 0


def chosen(option: str, wanted: Sequence[str] | None, there: Sequence[str]) -> list[str]:
    """What of `there` an option names, all of it without the option.

    Raises:
        InputError: a name that is not there.
    """
    for name in wanted or ():
        if name not in there:
            raise InputError(f"{option} {name}: one of {', '.join(there)} is wanted")
    return [name for name in there if not wanted or name in wanted]


def faults_of(binaries: Sequence[Binary]) -> list[str]:
    """One line for each program that may not be shipped."""
    return [f"{b.op} {b.function} [{b.program}] {b.target}: {fault}" for b in binaries if (fault := b.fault())]


def make_table(binaries: Sequence[Binary]) -> str:
    """The figures for a person."""
    from longtake.jobs.bench.text_table import text_table

    columns = (
        "op", "program", "function", "target", "warps", "stages", "registers", "spilled B", "shared B",
        "of B", "code B",
    )  # fmt: skip
    return text_table(columns, [_line(binary) for binary in binaries], left=4)


def _line(binary: Binary) -> list[str]:
    settings: list[Any] = [binary.op, binary.program, binary.function, binary.target, binary.warps, binary.stages]
    figures: list[Any] = ["-"] * 3
    if binary.error is None:
        figures = [binary.registers, binary.spilled_bytes, binary.shared_bytes]
    code = binary.code_bytes if binary.error is None else "-"
    return [str(value) for value in (*settings, *figures, binary.shared_limit_bytes, code)]


def _progress(binary: Binary) -> None:
    said = "failed" if binary.error is not None else f"{binary.compile_s:.1f} s"
    print(f"{binary.op} {binary.function} [{binary.program}] {binary.target}: {said}", file=sys.stderr)
