"""`longtake bench kernels`: the Triton programs beside plain PyTorch, torch.compile, the libraries and the machine."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtake.errors import InputError

if TYPE_CHECKING:
    from longtake.kernels.bench.case import Case, Suite
    from longtake.kernels.bench.measure import Machine, Row

DEFAULT_OUT = "bench-kernels"
DEFAULT_MINUTES = 8.0
# Of each timing: what a run has time for, and what is enough to see whether everything works.
REP_MS, QUICK_REP_MS = 100, 30

CPU_NOTE = (
    "CPU figures of the references in plain PyTorch, at small sizes: the kernels were not timed, that takes a GPU."
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench kernels`."""
    parser = subparsers.add_parser(
        "kernels",
        help="the Triton programs beside torch.compile and the machine's limits",
        description=(
            "Check every kernel against its definition in float64, then time it, forward and backward, beside plain "
            "PyTorch, torch.compile and the libraries' own ways, and measure the GPU's copy bandwidth and matmul rate "
            "in the same run. Needs a GPU; elsewhere small sizes run through the definitions. Writes JSON, CSV and, "
            "with matplotlib, a plot. Ends with 1 where a kernel is not exact enough; it is not timed then."
        ),
    )
    parser.add_argument("--op", action="append", metavar="O", help="this op only (may be repeated)")
    parser.add_argument(
        "--out", metavar="DIR", default=DEFAULT_OUT, help=f"where the figures go (default {DEFAULT_OUT})"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="two sizes an op, and no max-autotune")
    size.add_argument("--product", action="store_true", help="the sizes that the presets have, and no max-autotune")
    parser.add_argument(
        "--minutes",
        type=float,
        default=DEFAULT_MINUTES,
        metavar="M",
        help=f"begin nothing new after so long; the largest sizes come first (default {DEFAULT_MINUTES:g})",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, keep."""
    from longtake.jobs.bench.binaries import chosen
    from longtake.kernels.bench.suites import load_suite, op_names
    from longtake.kernels.dispatch import VARIABLE

    if args.minutes <= 0:
        raise InputError(f"--minutes must be above 0, not {args.minutes:g}")
    began = time.monotonic()
    ops = chosen("--op", args.op, op_names())
    # A kernel that cannot run must say so here, and not hand over to what it is compared with.
    os.environ[VARIABLE] = "triton"
    suites = [load_suite(op) for op in ops]
    on_gpu, machine = choose_machine(suites, quick=args.quick, product=args.product)
    cases = {suite.op: choose_cases(suite, on_gpu, quick=args.quick, product=args.product) for suite in suites}
    name = "kernels" if len(ops) == len(op_names()) else "kernels-" + "-".join(ops)
    return bench(suites, cases, machine, Path(args.out) / name, until=began + 60 * args.minutes)


def choose_machine(suites: Sequence[Suite], *, quick: bool, product: bool) -> tuple[bool, Machine]:
    """Whether there is a GPU to time on, and what a run does there, or else on the CPU."""
    import torch

    from longtake.kernels.bench.measure import Machine, torch_compilers
    from longtake.kernels.bench.timing import cpu_timer, gpu_timer, measure_ceilings
    from longtake.kernels.dispatch import is_interpreted

    if not torch.cuda.is_available() or is_interpreted():
        cpu = Machine(device=torch.device("cpu"), timer=cpu_timer, ours="left out", libraries=False)
        return False, replace(cpu, ours="checked") if is_interpreted() else cpu
    device = torch.device("cuda", torch.cuda.current_device())
    timer = gpu_timer(QUICK_REP_MS if quick else REP_MS)
    _say("measuring the copy bandwidth and the matmul rate")
    ceilings = measure_ceilings(device, timer, {case.dtype for suite in suites for case in suite.cases})
    compilers = torch_compilers(patient=not quick and not product)
    return True, Machine(device=device, timer=timer, ceilings=ceilings, compilers=compilers)


def choose_cases(suite: Suite, on_gpu: bool, *, quick: bool, product: bool) -> list[Case]:
    """A quick run takes the first case, and the first of those that fill the chip."""
    if not on_gpu:
        return list(suite.small_cases)
    if product:
        return list(suite.product_cases)
    if not quick:
        return list(suite.cases)
    small = [case for case in suite.cases if not case.fills][:1]
    return [*small, *[case for case in suite.cases if case.fills][:1]]


def bench(suites: Sequence[Suite], cases: dict[str, list[Case]], machine: Machine, out: Path, *, until: float) -> int:
    """Measure suites, keep the figures at `out` with the suffixes .json, .csv and .png, and print them.

    Args:
        cases: by the op's name.
        until: from this time (of `time.monotonic`) on nothing new is begun on a GPU.
    Returns:
        The command's exit code: 1 where a kernel is not exact enough.
    """
    from longtake.jobs.bench.kernel_files import draw, write_csv
    from longtake.jobs.bench.kernel_report import make_summary, make_tables
    from longtake.jobs.bench.record import write_json

    path = out.with_name(f"{out.name}.json")
    kept = measure(suites, cases, machine, path, until)
    rows = kept["rows"]
    kept["summary"] = make_summary(rows) if machine.ours == "timed" else []
    write_json(path, kept)
    write_csv(out.with_name(f"{out.name}.csv"), rows)
    no_plot = draw(out.with_name(f"{out.name}.png"), kept)
    print(make_tables(rows))
    print()
    print(_machine_line(kept))
    for line in kept["summary"]:
        print(line)
    print(f"written: {path}, {out.name}.csv" + (f", {out.name}.png" if no_plot is None else f"; no plot: {no_plot}"))
    wrong = [row for row in rows if row["check"] is not None and not row["check"]["ok"]]
    for row in wrong:
        _say(f"{row['op']}: {row['case']} {row['direction']}: failed its check, not timed: {row['check']['reason']}")
    if kept["died"] is not None:
        _say(kept["died"])
    return 1 if wrong or kept["died"] is not None else 0


def measure(
    suites: Sequence[Suite], cases: dict[str, list[Case]], machine: Machine, path: Path, until: float
) -> dict[str, Any]:
    """The record of a run. It is written after every step, so that a run that is cut off keeps what it had."""
    from longtake.jobs.bench.record import record, write_json
    from longtake.kernels.bench.evaluation import DeadDeviceError
    from longtake.kernels.bench.measure import measure_suite

    kept: dict[str, Any] = record(
        "kernels",
        {
            "complete": False,
            "died": None,
            "device": machine.device.type,
            "note": None if machine.ours == "timed" else CPU_NOTE,
            "ceilings": asdict(machine.ceilings) if machine.ceilings is not None else None,
            "rows": [],
        },
    )
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    began = time.monotonic()

    def report(what: str, rows: list[Row]) -> None:
        for row in rows:
            found[row.op, row.case, row.direction] = row.as_dict()
        kept["rows"] = list(found.values())
        write_json(path, kept)
        _say(f"{time.monotonic() - began:5.0f} s  {rows[0].op}: {rows[0].case}: {what}")

    for number, suite in enumerate(suites):
        # What an op leaves of its share of the time goes to those behind it.
        now = time.monotonic()
        share = now + (until - now) / (len(suites) - number)
        limit = share if machine.ours == "timed" else None
        try:
            measure_suite(suite, cases[suite.op], machine, until=limit, report=report)
        except DeadDeviceError as error:
            kept["died"] = f"{suite.op}: the GPU takes no more work in this process: {error}"
            for other in suites[number + 1 :]:
                kept["died"] += f"; not measured: --op {other.op}"
            return kept
    kept["complete"] = True
    return kept


def _machine_line(kept: dict[str, Any]) -> str:
    ceilings = kept["ceilings"]
    if ceilings is None:
        checked = [row["check"]["ok"] for row in kept["rows"] if row["check"] is not None]
        gate = (
            f" In Triton's interpreter {sum(checked)} of {len(checked)} results were exact enough." if checked else ""
        )
        return CPU_NOTE + gate
    rates = ", ".join(f"{rate / 1e12:.0f} TFLOP/s {dtype}" for dtype, rate in ceilings["matmul_flops_per_s"].items())
    gpu = kept["machine"]["gpu"]
    where = gpu["name"] if gpu is not None else "this machine"
    return f"{where}: copy {ceilings['copy_bytes_per_s'] / 1e12:.2f} TB/s, matmul {rates}; * fills the chip"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
