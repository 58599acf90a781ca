"""Timing an op's cases: ours behind the gate, beside plain PyTorch, torch.compile and the libraries' ways."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import torch

from longtake.kernels.bench.case import Call, Case, Inputs, Suite
from longtake.kernels.bench.evaluation import (
    DeadDeviceError,
    as_tuple,
    differentiable,
    first_line,
    leaves,
    random_like,
    release,
    require_alive,
)
from longtake.kernels.bench.gate import Verdict, check
from longtake.kernels.bench.timing import Act, Ceilings, Timer, Timing, dtype_name, limit_of

Compiler: TypeAlias = Callable[[Call], Call]

EAGER = "eager"
COMPILE = "torch.compile"
MAX_AUTOTUNE = "torch.compile max-autotune"
TIME_IS_UP = "left out: the time of this run was up"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a run takes place and what of it is wanted there.

    `ours` says what becomes of our kernels: timed behind the gate, only sent through the gate, or left out. Without
    `ceilings` no share of a limit is told. `compilers` are by the rival's name: the first for all cases, the others,
    which take long, for those that fill the chip.
    """

    device: torch.device
    timer: Timer
    ceilings: Ceilings | None = None
    ours: Literal["timed", "checked", "left out"] = "timed"
    compilers: Mapping[str, Compiler] = field(default_factory=dict)
    libraries: bool = True


@dataclass(kw_only=True)
class Row:
    """What was found of one case in one direction. A rival is a timing, or a text that says why there is none."""

    op: str
    case: str
    sizes: dict[str, int]
    dtype: str
    fills: bool
    direction: str
    bytes: int
    flops: int
    limit_ms: float | None = None
    bound: str | None = None
    check: Verdict | None = None
    ours: Timing | None = None
    rivals: dict[str, Timing | str] = field(default_factory=dict)
    note: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON keeps it, with our share of the limit, and each rival's time in units of ours."""
        ours = self.ours.ms if self.ours is not None else None
        timed = {name: rival for name, rival in self.rivals.items() if isinstance(rival, Timing)}
        rivals = {name: {"error": rival} for name, rival in self.rivals.items() if isinstance(rival, str)}
        return {
            **asdict(self),
            "rivals": {**{name: asdict(rival) for name, rival in timed.items()}, **rivals},
            "ratios": {name: rival.ms / ours for name, rival in timed.items()} if ours is not None else {},
            "share_of_limit": self.limit_ms / ours if self.limit_ms is not None and ours is not None else None,
        }


def torch_compilers(*, patient: bool) -> dict[str, Compiler]:
    """PyTorch's own compiler, for fixed sizes; `patient` adds the mode that tries many kernels."""
    made: dict[str, Compiler] = {COMPILE: lambda call: torch.compile(call, dynamic=False)}
    if patient:
        # CUDA graphs, which plain max-autotune adds, would copy every input at every call.
        mode = "max-autotune-no-cudagraphs"
        made[MAX_AUTOTUNE] = lambda call: torch.compile(call, dynamic=False, mode=mode)
    return made


def measure_suite(
    suite: Suite,
    cases: Sequence[Case],
    machine: Machine,
    *,
    until: float | None = None,
    report: Callable[[str, list[Row]], None] = lambda what, rows: None,
) -> list[Row]:
    """Gate and time some cases of one op, those that fill the chip first, and what is slow to compile last.

    Args:
        until: from this time (of `time.monotonic`) on nothing new is begun; what is left out is noted.
        report: called after each step with what was done, in words, and the case's rows so far.
    Raises:
        DeadDeviceError: the device takes no more work in this process. What was found until then was reported.
        ValueError: two cases have one name.
    """
    runs = [_CaseRun(suite, case, machine) for case in sorted(cases, key=lambda case: not case.fills)]
    if len({run.case.name for run in runs}) < len(runs):
        raise ValueError(f"{suite.op}: two cases have one name")

    def late() -> bool:
        return until is not None and time.monotonic() >= until

    def take(run: _CaseRun, what: str, step: Callable[[], None]) -> None:
        try:
            step()
        except DeadDeviceError as error:
            raise DeadDeviceError(f"{run.case.name}, {what}: {error}") from error
        report(what, run.rows)

    with fair_settings():
        for run in runs:
            take(run, "check and first times", run.leave_out if late() else run.measure)
        fills = [run for run in runs if run.case.fills]
        others = [run for run in runs if not run.case.fills]
        names = list(machine.compilers)
        for name, chosen in [*((name, fills) for name in names), *((name, others) for name in names[:1])]:
            for run in chosen:
                take(run, name, partial(run.measure_compiled, name, late))
    return [row for run in runs for row in run.rows]


class _CaseRun:
    """One case on one machine, and its rows: one a direction."""

    def __init__(self, suite: Suite, case: Case, machine: Machine) -> None:
        self.suite = suite
        self.case = case
        self.machine = machine
        work = {"forward": case.forward, "backward": case.backward}
        self.rows = [
            Row(
                op=suite.op,
                case=case.name,
                sizes=dict(case.sizes),
                dtype=dtype_name(case.dtype),
                fills=case.fills,
                direction=direction,
                bytes=needed.bytes,
                flops=needed.flops,
            )
            for direction, needed in work.items()
            if needed is not None
        ]
        for row in self.rows:
            if machine.ceilings is not None:
                limit = limit_of(work[row.direction] or case.forward, case.dtype, machine.ceilings)
                row.limit_ms, row.bound = limit.ms, limit.bound

    def leave_out(self) -> None:
        for row in self.rows:
            row.note = TIME_IS_UP

    def measure(self) -> None:
        """The gate, then everything that needs no compiling; where the gate is shut there is nothing to compare."""
        machine = self.machine
        inputs = self._make()
        if inputs is None:
            return
        if machine.ours != "left out":
            verdicts = check(self.suite, self.case, inputs, machine.device)
            for row in self.rows:
                row.check = verdicts[row.direction]
        for row in self.rows:
            if not self._open(row):
                continue
            if machine.ours == "timed":
                timing = self._time(self.suite.ours, inputs, row.direction)
                if isinstance(timing, str):
                    row.check = Verdict(ok=False, reason=f"timing failed: {timing}")
                    continue
                row.ours = timing
            row.rivals[EAGER] = self._time(self.suite.reference, inputs, row.direction)
            for name, call in self.suite.libraries.items() if machine.libraries else ():
                row.rivals[name] = self._time(call, inputs, row.direction)

    def measure_compiled(self, name: str, late: Callable[[], bool]) -> None:
        wanted = [row for row in self.rows if self._open(row)]
        inputs = self._make() if wanted and not late() else None
        for row in wanted:
            if inputs is None or late():
                row.rivals[name] = TIME_IS_UP
                continue
            # Each size gets a compilation of its own: after a second one PyTorch would go over to unknown sizes.
            torch._dynamo.reset()
            compiler = self.machine.compilers[name]
            row.rivals[name] = self._time(self.suite.compiled, inputs, row.direction, compiler)

    def _open(self, row: Row) -> bool:
        return row.note is None and (row.check is None or row.check.ok)

    def _make(self) -> Inputs | None:
        try:
            return self.case.make(self.machine.device, 0)
        except torch.OutOfMemoryError as error:
            for row in self.rows:
                row.check = Verdict(ok=False, reason=f"the inputs: {first_line(error)}")
            return None

    def _time(self, call: Call, inputs: Inputs, direction: str, compiler: Compiler = lambda call: call) -> Timing | str:
        """The time of one way, or why it has none: one that fails must not end the run of the others."""
        found: Timing | str
        try:
            found = self.machine.timer(_act(compiler(call), inputs, direction))
        except Exception as error:
            found = first_line(error)
        if isinstance(found, str):
            require_alive(self.machine.device)
        release(self.machine.device)
        return found


def _act(call: Call, inputs: Inputs, direction: str) -> Act:
    """What is timed: a forward as in use, without gradients; a backward alone, through one graph again and again."""
    if direction == "forward":

        def forward() -> object:
            with torch.no_grad():
                return call(inputs)

        return forward
    outputs = differentiable(as_tuple(call(inputs)))
    wanted, upstream = list(leaves(inputs).values()), random_like(outputs)
    return lambda: torch.autograd.grad(outputs, wanted, upstream, retain_graph=True, allow_unused=True)


@contextmanager
def fair_settings() -> Iterator[None]:
    """One set of rules for all: float32 in full, cuDNN chooses by trying, compiled graphs run backward repeatedly."""
    import torch._dynamo
    import torch._functorch.config

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    try:
        with torch._functorch.config.patch(donated_buffer=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark = before
