"""The kernel benchmark's gate and flow, on a CPU with an op made for these tests, and on a bare machine."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.jobs.bench import kernel_files, kernels
from longtake.jobs.bench.kernel_report import geometric_mean, make_summary, make_tables
from longtake.jobs.main import main
from longtake.kernels.bench import measure
from longtake.kernels.bench.case import Case, Inputs, Suite, Work
from longtake.kernels.bench.gate import check, judge
from longtake.kernels.bench.measure import COMPILE, EAGER, MAX_AUTOTUNE, TIME_IS_UP, Machine, Row, measure_suite
from longtake.kernels.bench.suites import op_names
from longtake.kernels.bench.timing import Ceilings, Timing, cpu_timer, limit_of, measure_ceilings
from longtake.kernels.bench.tolerance import closeness

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
CEILINGS = Ceilings(copy_bytes_per_s=1e9, matmul_flops_per_s={"bfloat16": 1e12})


# The op of these tests: y = x * sigmoid(x) * w, and a boolean mask.
def gated(inputs: Inputs) -> Tensor:
    x, w = inputs["x"], inputs["w"]
    y: Tensor = x * torch.sigmoid(x) * w
    return y.masked_fill(~inputs["mask"], 0)


def gated_elsewhere(inputs: Inputs) -> Tensor:
    """The same computed in float32: closer to the exact result than PyTorch in bfloat16 is."""
    wide = {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}
    return gated(wide).to(inputs["x"].dtype)


def make(device: torch.device, seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 33, generator=generator).to(device, torch.bfloat16).requires_grad_()
    w = torch.randn(33, generator=generator).to(device, torch.bfloat16).requires_grad_()
    return {"x": x, "w": w, "mask": torch.rand(64, 1, generator=generator).to(device) > 0.2}


def case(name: str, *, fills: bool = False, backward: bool = True) -> Case:
    return Case(
        name=name,
        sizes={"N": 64, "D": 33},
        dtype=torch.bfloat16,
        make=make,
        forward=Work(bytes=1_000_000, flops=1_000_000),
        backward=Work(bytes=1_000, flops=4_000_000_000) if backward else None,
        fills=fills,
    )


def suite(ours: Callable[[Inputs], Any] = gated_elsewhere, **other: Any) -> Suite:
    cases = (case("small"), case("large", fills=True))
    return Suite(op="gated", ours=ours, reference=gated, compiled=gated, cases=cases, small_cases=cases, **other)


def refuse(inputs: Inputs) -> Tensor:
    raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB\nand more lines")


def fake_timer(act: Callable[[], object]) -> Timing:
    """What is timed runs, and 2 ms are what it took."""
    act()
    return Timing(ms=2.0, p20_ms=1.5, p80_ms=3.0)


def machine(**settings: Any) -> Machine:
    compilers = {COMPILE: lambda call: torch.compile(call, backend="aot_eager")}
    given = {"device": CPU, "timer": fake_timer, "ceilings": CEILINGS, "compilers": compilers}
    return Machine(**{**given, **settings})


def test_a_neighbour_is_close_and_two_steps_are_not() -> None:
    exact = torch.tensor([1.0, 100.0], dtype=torch.float64)
    plain = exact.to(torch.bfloat16)
    assert closeness(plain, plain, exact).ok
    assert closeness(torch.tensor([1.0, 100.5], dtype=torch.bfloat16), plain, exact).ok
    assert not closeness(torch.tensor([1.0, 101.0], dtype=torch.bfloat16), plain, exact).ok
    lost = closeness(torch.tensor([float("nan"), 100.0], dtype=torch.bfloat16), plain, exact)
    assert not lost.ok and lost.error == float("inf")
    whole = torch.tensor([-128, 127], dtype=torch.int8)
    assert closeness(whole + torch.tensor([1, 0], dtype=torch.int8), whole, whole).ok
    assert not closeness(whole + torch.tensor([0, -2], dtype=torch.int8), whole, whole).ok
    assert not closeness(torch.tensor([-128, -128], dtype=torch.int8), whole, whole).ok, "no wrapping around"


def test_the_gate_opens_for_a_right_kernel() -> None:
    verdicts = check(suite(), case("a"), make(CPU, 0), CPU)
    assert verdicts.keys() == {"forward", "backward"}
    for verdict in verdicts.values():
        assert verdict.ok and verdict.against == "float64" and verdict.error is not None and verdict.error > 0
    assert check(suite(), case("a", backward=False), make(CPU, 0), CPU).keys() == {"forward"}


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 1.1


def unwritten(inputs: Inputs) -> Tensor:
    y = torch.empty_like(inputs["x"])
    y[:-1] = gated_elsewhere(inputs)[:-1]
    return y


@pytest.mark.parametrize(
    ("ours", "forward", "backward"),
    [
        (lambda inputs: gated_elsewhere(inputs) * 1.05, "result 0: error", "the forward failed"),
        (lambda inputs: WrongGradient.apply(gated_elsewhere(inputs)), None, "gradient of x: error"),
        (unwritten, "result 0: error inf", "the forward failed"),
        (lambda inputs: gated(inputs).float(), "result 0: float32 (64, 33) instead of bfloat16", "the forward failed"),
        (lambda inputs: (gated(inputs), gated(inputs)), "ValueError: 1 results require a gradient", "the forward"),
        (lambda inputs: gated(inputs).detach(), "ValueError: no result requires a gradient", "the forward failed"),
        (refuse, "OutOfMemoryError: Tried to allocate 20.00 GiB", "the forward failed"),
    ],
)
def test_the_gate_shuts_with_the_reason(ours: Any, forward: str | None, backward: str) -> None:
    verdicts = check(suite(ours), case("a"), make(CPU, 0), CPU)
    assert verdicts["forward"].ok == (forward is None)
    assert (verdicts["forward"].reason or "").startswith(forward or "")
    assert not verdicts["backward"].ok and (verdicts["backward"].reason or "").startswith(backward)


def test_of_several_results_the_worst_is_told() -> None:
    exact = {name: torch.ones(4, dtype=torch.float64) for name in "ab"}
    plain = {name: value.float() for name, value in exact.items()}
    ours = {"a": plain["a"], "b": plain["b"] + 1e-7}
    assert judge(ours, plain, exact, "float64").result == "b"
    assert judge({**ours, "a": plain["a"] + 1}, plain, exact, "float64").result == "a"
    assert judge({"a": plain["a"]}, plain, exact, "float64").reason == "results: a, wanted: a, b"


def test_float32_stands_in_where_float64_takes_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    def small_memory(inputs: Inputs) -> Tensor:
        return refuse(inputs) if inputs["x"].dtype == torch.float64 else gated(inputs)

    one = replace(suite(), reference=small_memory)
    assert check(one, case("a"), make(CPU, 0), CPU)["backward"].against == "float32"
    huge = replace(case("a"), forward=Work(bytes=1, flops=10**14))
    assert check(suite(), huge, make(CPU, 0), CPU)["forward"].against == "float32"
    # Against itself float32 would prove nothing.
    in_float32 = replace(case("a"), dtype=torch.float32)
    verdict = check(one, in_float32, make(CPU, 0), CPU)["forward"]
    assert not verdict.ok and (verdict.reason or "").startswith("OutOfMemoryError")


def test_rows_hold_times_limits_and_ratios() -> None:
    rows = measure_suite(suite(libraries={"library": gated}), suite().cases, machine())
    assert [(row.case, row.direction) for row in rows] == [
        ("large", "forward"), ("large", "backward"), ("small", "forward"), ("small", "backward"),
    ]  # fmt: skip
    for row in rows:
        assert row.check is not None and row.check.ok and row.ours is not None
        assert list(row.rivals) == [EAGER, "library", COMPILE]
        assert all(isinstance(rival, Timing) for rival in row.rivals.values()), row.rivals
    forward, backward = rows[0].as_dict(), rows[1].as_dict()
    # 1 MB at 1 GB/s, and 4 GFLOP at 1 TFLOP/s.
    assert (forward["limit_ms"], forward["bound"], forward["share_of_limit"]) == (1.0, "bytes", 0.5)
    assert (backward["limit_ms"], backward["bound"]) == (4.0, "flops")
    assert forward["ratios"] == {EAGER: 1.0, "library": 1.0, COMPILE: 1.0}
    assert json.loads(json.dumps(forward)) == forward


def test_a_wrong_kernel_is_not_timed() -> None:
    wrong = suite(lambda inputs: gated_elsewhere(inputs) * 1.05)
    for row in measure_suite(wrong, wrong.cases, machine()):
        assert row.check is not None and not row.check.ok
        assert row.ours is None and row.rivals == {}


def test_a_rival_that_fails_is_told_and_the_run_goes_on() -> None:
    def no_compiler(call: Any) -> Any:
        raise RuntimeError("no compiler here")

    one = suite(libraries={"library": refuse})
    rows = measure_suite(one, one.cases, machine(compilers={COMPILE: no_compiler, MAX_AUTOTUNE: lambda call: call}))
    for row in rows:
        assert row.rivals["library"] == "OutOfMemoryError: Tried to allocate 20.00 GiB"
        assert row.rivals[COMPILE] == "RuntimeError: no compiler here"
        assert isinstance(row.rivals[EAGER], Timing) and row.ours is not None
        # What takes long is tried at the sizes that count.
        assert (MAX_AUTOTUNE in row.rivals) == row.fills
    assert rows[0].as_dict()["rivals"][COMPILE] == {"error": "RuntimeError: no compiler here"}


def test_when_the_time_is_up_nothing_new_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(measure, "time", clock)
    rows = measure_suite(suite(), suite().cases, machine(), until=0.0)
    assert all(row.note == TIME_IS_UP and row.ours is None and not row.rivals for row in rows)

    calls = []

    def timer(act: Callable[[], object]) -> Timing:
        calls.append(act)
        # The first case is through: 2 directions of ours and eager.
        if len(calls) == 4:
            clock.now = 1.0
        return fake_timer(act)

    rows = measure_suite(suite(), suite().cases, machine(timer=timer), until=1.0)
    assert [row.note for row in rows] == [None, None, TIME_IS_UP, TIME_IS_UP]
    assert rows[0].rivals[COMPILE] == rows[1].rivals[COMPILE] == TIME_IS_UP
    assert rows[0].ours is not None


def test_two_cases_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="gated: two cases have one name"):
        measure_suite(suite(), [case("a"), case("a")], machine())


def test_the_machine_is_measured_in_both_ways() -> None:
    found = measure_ceilings(CPU, fake_timer, [torch.bfloat16, torch.uint8])
    assert found.copy_bytes_per_s == 2 * (1 << 21) / 2e-3
    assert found.matmul_flops_per_s == {"bfloat16": 2 * 128**3 / 2e-3}
    assert limit_of(Work(bytes=1, flops=10**15), torch.uint8, found).bound == "bytes", "no rate, no limit by operations"
    timing = cpu_timer(lambda: time.sleep(0.002))
    assert 2 <= timing.p20_ms <= timing.ms <= timing.p80_ms


def run_bench(out: Path, one: Suite, **settings: Any) -> tuple[int, dict[str, Any]]:
    code = kernels.bench([one], {one.op: list(one.cases)}, machine(**settings), out / "kernels", until=math.inf)
    return code, json.loads((out / "kernels.json").read_text())


def test_a_run_writes_json_csv_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, kept = run_bench(tmp_path / "deep", suite(libraries={"library": refuse}))
    assert code == 0 and kept["complete"] and kept["note"] is None and len(kept["rows"]) == 4
    assert kept["ceilings"]["copy_bytes_per_s"] == 1e9
    assert kept["versions"]["triton"] and kept["machine"]["gpu"] is None and kept["at"] and kept["command"]
    with (tmp_path / "deep/kernels.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 * 4 and {line["way"] for line in lines} == {"ours", EAGER, "library", COMPILE}
    assert lines[0]["share_of_limit"] == "0.5" and lines[1]["times_ours"] == "1.0"
    assert all(line["error"].startswith("OutOfMemoryError") for line in lines if line["way"] == "library")
    assert (tmp_path / "deep/kernels.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr()
    assert "small bfloat16 forward" in said.out and "library: OutOfMemoryError: Tried" in said.out
    assert "copy 0.00 TB/s, matmul 1 TFLOP/s bfloat16" in said.out
    assert said.out.splitlines()[-1].endswith("kernels.json, kernels.csv, kernels.png")
    assert kept["summary"][0] in said.out and kept["summary"][0].startswith("gated forward")
    assert "gated: large: torch.compile" in said.err, "progress goes to standard error"


def test_a_wrong_kernel_ends_the_run_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, kept = run_bench(tmp_path, suite(lambda inputs: gated_elsewhere(inputs) * 1.05))
    assert code == 1 and kept["complete"] and all(row["ours"] is None for row in kept["rows"])
    said = capsys.readouterr()
    assert "FAILED ITS CHECK, not timed: result 0: error" in said.out
    assert said.out.splitlines()[-1].endswith("no plot: no kernel was timed")
    assert "gated: large forward: failed its check, not timed: result 0: error" in said.err


def test_a_dead_gpu_ends_the_run_and_keeps_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from longtake.kernels.bench import measure
    from longtake.kernels.bench.evaluation import DeadDeviceError

    def dies(device: torch.device) -> None:
        raise DeadDeviceError("CUDA error: an illegal memory access was encountered")

    # What PyTorch tells after such an error: no machine that must not break can be made to say it.
    monkeypatch.setattr(measure, "require_alive", dies)
    others = [suite(libraries={"library": refuse}), replace(suite(), op="later")]
    chosen = {one.op: list(one.cases) for one in others}
    code = kernels.bench(others, chosen, machine(), tmp_path / "kernels", until=math.inf)
    kept = json.loads((tmp_path / "kernels.json").read_text())
    assert code == 1 and not kept["complete"]
    assert kept["died"] == (
        "gated: the GPU takes no more work in this process: large, check and first times: CUDA error: an illegal memory"
        " access was encountered; not measured: --op later"
    )
    assert kept["died"] in capsys.readouterr().err


def test_without_matplotlib_there_is_a_line_instead_of_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row.as_dict() for row in measure_suite(suite(), suite().cases, machine())]
    kept = {"rows": rows, "machine": {"gpu": {"name": "GPU"}}, "device": "cuda"}
    assert kernel_files.draw(tmp_path / "a.png", kept) is None and (tmp_path / "a.png").exists()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert kernel_files.draw(tmp_path / "b.png", kept) == "matplotlib is not installed"
    assert not (tmp_path / "b.png").exists()


def as_row(op: str, name: str, direction: str, ms: float, compiled_ms: float | None, limit_ms: float) -> dict[str, Any]:
    timings = {EAGER: Timing(ms=9.0, p20_ms=9.0, p80_ms=9.0)}
    if compiled_ms is not None:
        timings[COMPILE] = Timing(ms=compiled_ms, p20_ms=1.0, p80_ms=1.0)
        timings[MAX_AUTOTUNE] = Timing(ms=2 * compiled_ms, p20_ms=1.0, p80_ms=1.0)
    return Row(
        op=op, case=name, sizes={}, dtype="bfloat16", fills=True, direction=direction, bytes=1, flops=1,
        limit_ms=limit_ms, ours=Timing(ms=ms, p20_ms=ms, p80_ms=ms), rivals=dict(timings),
    ).as_dict()  # fmt: skip


def test_the_summary_means_over_large_cases_and_names_the_goals() -> None:
    rows = [
        as_row("token_summary", "a", "forward", 1.0, 2.0, 0.5),
        as_row("token_summary", "b", "forward", 1.0, 4.5, 0.5),
        as_row("token_summary", "c", "forward", 1.0, None, 0.5),
        {**as_row("token_summary", "d", "forward", 1.0, 99.0, 0.9), "fills": False},
        {**as_row("token_summary", "e", "forward", 1.0, 99.0, 0.9), "dtype": "float32"},
        as_row("token_codec", "encode 1", "forward", 1.0, 0.9, 0.8),
        as_row("token_codec", "decode 1", "forward", 1.0, None, 0.7),
        as_row("new_op", "a", "backward", 1.0, 2.0, 0.5),
    ]
    assert [" ".join(line.split()) for line in make_summary(rows)] == [
        "token_summary forward 3.00 x torch.compile (goal 2.00: reached); 50% of its limit (goal 60%: not reached); "
        "9.00 x eager; 2 of 3 large cases compared",
        "token_codec encode forward 0.90 x torch.compile (goal 1.00: not reached); 80% of its limit (goal 80%: "
        "reached); 9.00 x eager; 1 of 1 large cases compared",
        "token_codec decode forward x torch.compile not measured (goal 1.00); 70% of its limit (goal 80%: not "
        "reached); 9.00 x eager; 0 of 1 large cases compared",
        "new_op backward 2.00 x torch.compile; 50% of its limit; 9.00 x eager; 1 of 1 large cases compared",
    ]
    assert make_summary([]) == [] and geometric_mean([]) is None
    assert "limit ms" in make_tables(rows)


PROGRAM = """
import sys
blocked = {"ray", "lance", "av", "decord", "rich", "matplotlib", "pyarrow", "PIL", "tokenizers", "safetensors"}
blocked |= {"psutil"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is blocked here")
sys.meta_path.insert(0, Refuse())
from longtake.jobs.main import main
code = main(sys.argv[1:])
assert not blocked & set(sys.modules)
sys.exit(code)
"""


@pytest.mark.parametrize("interpreted", [False, True])
def test_a_bare_machine_runs_the_references(tmp_path: Path, interpreted: bool) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    env.pop("TRITON_INTERPRET", None)
    if interpreted:
        env["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-c", PROGRAM, "bench", "kernels", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    kept = json.loads((tmp_path / "kernels.json").read_text())
    assert kept["complete"] and kept["device"] == "cpu" and kept["ceilings"] is None
    assert {row["op"] for row in kept["rows"]} == set(op_names())
    assert all(row["ours"] is None and row["rivals"][EAGER]["ms"] > 0 for row in kept["rows"])
    assert all((row["check"] is not None) == interpreted for row in kept["rows"])
    assert kernels.CPU_NOTE in done.stdout and kept["note"] == kernels.CPU_NOTE
    assert ("In Triton's interpreter" in done.stdout) == interpreted
    assert (tmp_path / "kernels.csv").exists() and not (tmp_path / "kernels.png").exists()


def test_options_that_cannot_be_used_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", "--op", "no_such_op"]) == 2
    assert "--op no_such_op: one of " in capsys.readouterr().err
    assert main(["bench", "kernels", "--minutes", "0"]) == 2
    assert "--minutes must be above 0, not 0" in capsys.readouterr().err
