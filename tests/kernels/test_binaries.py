"""Every Triton program compiles for every machine and fits there; what would not is reported."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from longtake.errors import LongTakeError
from longtake.kernels.bench.binaries import Binary, assembly_figures, code_bytes, compile_programs
from longtake.kernels.bench.suites import cases_module, op_names
from longtake.kernels.targets import SHARED_MEMORY, TARGETS, TargetName

# Programs of all kinds, among them some that must not be shipped. Where a label says so the process dies of it.
MODULE = """
import os
import triton
import triton.language as tl
from longtake.kernels.targets import Program

@triton.jit
def scale(x_ptr, y_ptr, mask_ptr, n, factor, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    if mask_ptr is not None:
        x = x * tl.load(mask_ptr + i, mask=i < n)
    tl.store(y_ptr + i, x * factor, mask=i < n)

@triton.jit
def centre(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, x - tl.sum(x) / BLOCK)

@triton.jit
def product(x_ptr, y_ptr, z_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    sum = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, n, BLOCK):
        x = tl.load(x_ptr + i[:, None] * n + k + i[None, :])
        y = tl.load(y_ptr + (k + i[:, None]) * n + i[None, :])
        sum += tl.dot(x, y)
    tl.store(z_ptr + i[:, None] * BLOCK + i[None, :], sum)

@triton.jit
def wrong(x_ptr):
    tl.store(x_ptr, tl.arange(0, 3))

class Deadly:
    __name__ = "deadly"

    @property
    def arg_names(self):
        print("Assertion failed", file=__import__("sys").stderr, flush=True)
        os._exit(7)

def programs(target):
    x = {"x_ptr": "*bf16", "y_ptr": "*bf16"}
    both = {**x, "z_ptr": "*fp32", "n": "i32"}
    blank = dict(warps=4, stages=2)
    yield Program(scale, "masked", {**x, "mask_ptr": "*bf16", "n": "i32", "factor": "fp32"}, {"BLOCK": 1024}, **blank)
    yield Program(
        scale, "plain", {**x, "n": "i32", "factor": "fp32"}, {"mask_ptr": None, "BLOCK": 1024}, **blank,
        divisible=frozenset({"n"}),
    )
    yield Program(Deadly(), "dies", {}, {}, **blank)
    yield Program(centre, "too wide", {"x_ptr": "*fp32", "y_ptr": "*fp32"}, {"BLOCK": 16384}, warps=1, stages=1)
    even = dict(warps=4, divisible=frozenset({"n"}))
    yield Program(product, "odd width", both, {"BLOCK": 64}, warps=4, stages=3)
    yield Program(product, "fits", both, {"BLOCK": 64}, stages=3, **even)
    yield Program(product, "too deep", both, {"BLOCK": 64}, stages=18, **even)
    yield Program(wrong, "no power of two", {"x_ptr": "*i32"}, {}, **blank)
    yield Program(wrong, "forgets", {}, {}, **blank)
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled anew: an earlier run's binaries would hide that a program no longer compiles."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


def by_name(binaries: list[Binary], target: TargetName) -> dict[str, Binary]:
    return {f"{b.function} {b.program}": b for b in binaries if b.target == target}


def test_what_may_not_be_shipped_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_programs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    told: list[Binary] = []
    targets: list[TargetName] = ["sm_90", "gfx942"]
    binaries = compile_programs({"made": "made_programs"}, targets, workers=2, report=told.append)
    assert len(binaries) == 18 and sorted(map(repr, binaries)) == sorted(map(repr, told))

    hopper = by_name(binaries, "sm_90")
    plain = hopper["scale plain"]
    assert plain.fault() is None and plain.warps == 4 and plain.stages == 2
    assert 8 <= plain.registers <= 64 and plain.spilled_bytes == plain.shared_bytes == 0 and plain.code_bytes > 128
    # A mask is one more input to load; that there is none is known when compiling.
    assert hopper["scale masked"].code_bytes > plain.code_bytes

    # Two tiles of 64 x 64 bfloat16 a stage; rows that are not known to begin at 16 bytes cannot be fetched ahead.
    fits, deep = hopper["product fits"], hopper["product too deep"]
    assert fits.fault() is None and 2 * 8192 * 2 <= fits.shared_bytes <= 3 * 8192 * 2 + 1024
    assert hopper["product odd width"].shared_bytes < 2 * 8192 * 2
    assert deep.fault() == f"{deep.shared_bytes} bytes of shared memory, and sm_90 has {227 * 1024}"

    wide = hopper["centre too wide"]
    assert wide.spilled_bytes > 0 and wide.fault() == f"{wide.spilled_bytes} bytes a thread spilled"
    assert (hopper["deadly dies"].fault() or "") == "the compiler died with 7: Assertion failed"
    assert "power of 2" in (hopper["wrong no power of two"].fault() or "")
    assert (hopper["wrong forgets"].fault() or "") == (
        "ValueError: the function takes x_ptr, and the program gives nothing"
    )

    amd = by_name(binaries, "gfx942")
    assert amd["scale plain"].fault() is None and amd["scale plain"].code_bytes > 128
    assert amd["product fits"].fault() is None and amd["product fits"].registers > 16
    # That machine has twice the registers, and warps of 64.
    assert amd["centre too wide"].fault() is None and amd["centre too wide"].registers > 255
    assert (amd["product too deep"].fault() or "").endswith(f"and gfx942 has {64 * 1024}")


def test_a_module_that_cannot_be_imported_is_an_error() -> None:
    with pytest.raises(LongTakeError, match="compiling ended with 1: ModuleNotFoundError"):
        compile_programs({"made": "longtake.kernels.no_such_op"}, ["sm_90"])


def test_tensor_memory_counts_and_spills_count_on_sm_90() -> None:
    blank = Binary(op="o", program="p", function="f", target="sm_100", warps=4, stages=2, shared_limit_bytes=1)
    assert blank.fault() is None
    full = replace(blank, tensor_memory_columns=513)
    assert full.fault() == "513 columns of tensor memory, and sm_100 has 512"
    assert replace(blank, spilled_bytes=8).fault() is None
    assert replace(blank, target="sm_90", spilled_bytes=8).fault() == "8 bytes a thread spilled"


def test_an_assembly_without_its_figures_is_refused() -> None:
    text = "s_endpgm\n; codeLenInByte = 544\n; TotalNumVgprs: 11\n; ScratchSize: 12\n"
    assert assembly_figures(text) == {"registers": 11, "spilled_bytes": 12, "code_bytes": 544}
    with pytest.raises(ValueError, match="no comment ScratchSize"):
        assembly_figures(text.replace("ScratchSize", "Scratch"))


def test_code_is_measured_in_an_elf() -> None:
    names = b"\0.text.f\0.data\0.shstrtab\0"
    sizes = ((1, 100), (9, 50), (15, len(names)))
    head = b"\x7fELF\x02" + bytes(0x28 - 5) + struct.pack("<Q", 64 + len(names)) + bytes(10)
    head += struct.pack("<3H", 64, len(sizes), 2)
    headers = b"".join(struct.pack("<2I4Q", name, 1, 0, 0, 64, size) + bytes(24) for name, size in sizes)
    assert code_bytes(head + names + headers) == 100
    with pytest.raises(ValueError, match="64-bit ELF"):
        code_bytes(b"\x7fELF\x01")


@pytest.mark.parametrize("op", op_names())
def test_every_program_fits_its_machine(op: str) -> None:
    binaries = compile_programs({op: cases_module(op)}, workers=2)
    assert [f"{b.function} [{b.program}] {b.target}: {b.fault()}" for b in binaries if b.fault()] == []
    labels = [(b.function, b.program, b.target) for b in binaries]
    assert len(set(labels)) == len(labels), "two programs have one name"
    for target in TARGETS:
        mine = [b for b in binaries if b.target == target]
        assert mine and all(b.shared_bytes <= SHARED_MEMORY[target] for b in mine)
    assert all(b.registers > 0 and b.code_bytes > 0 for b in binaries)


def test_the_command_prints_the_table_and_ends_with_1_for_a_fault(tmp_path: Path) -> None:
    (tmp_path / "made_programs.py").write_text(MODULE)
    program = """
import sys
from longtake.kernels.bench import suites
suites.op_names = lambda: ("made",)
suites.cases_module = lambda op: "made_programs"
from longtake.jobs.main import main
sys.exit(main(sys.argv[1:]))
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "src"), str(tmp_path)])}
    out = tmp_path / "binaries.json"
    words = ["bench", "binaries", "--target", "sm_80", "--out", str(out)]
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["op", "program", "function", "target"] and len(lines) >= 15
    assert lines[-1] == "9 programs for sm_80: 4 faults"
    kept = json.loads(out.read_text())
    assert len(kept["programs"]) == 9 and len(kept["faults"]) == 4 and kept["benchmark"] == "binaries"
    unknown = subprocess.run([*command[:3], *words[:2], "--op", "other"], env=env, capture_output=True, text=True)
    assert unknown.returncode == 2
    assert unknown.stderr == "longtake: error: --op other: one of made is wanted\n"
