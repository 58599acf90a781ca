"""What each Triton program takes of each machine, read from binaries that are compiled without such a machine.

Programs are compiled in processes of their own: under Triton's interpreter compiling fails, and an input that the
compiler dies of (it is C++, with assertions) must cost one row, not the whole table.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longtake.errors import LongTakeError
from longtake.kernels.targets import SHARED_MEMORY, TARGETS, Program, TargetName

# Triton's name of each machine: backend, architecture, threads of a warp.
ARCHITECTURES: Mapping[TargetName, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
# Columns of tensor memory, where the newest generation keeps what tl.dot sums up.
TENSOR_MEMORY = 512
# Starts the lines that a compiling process means; Triton prints others, such as the text of what ptxas refused.
MARK = "longtake:"


@dataclass(frozen=True, kw_only=True)
class Binary:
    """One program as one machine runs it, or the error that compiling it ended in.

    `spilled_bytes` is the local memory of one thread: what did not fit in its registers.
    """

    op: str
    program: str
    function: str
    target: TargetName
    warps: int
    stages: int
    registers: int = 0
    spilled_bytes: int = 0
    shared_bytes: int = 0
    shared_limit_bytes: int
    tensor_memory_columns: int = 0
    code_bytes: int = 0
    compile_s: float = 0.0
    error: str | None = None

    def fault(self) -> str | None:
        """Why this program may not be shipped: what compiles may still not launch, and sm_90's may not spill."""
        if self.error is not None:
            return self.error
        if self.shared_bytes > self.shared_limit_bytes:
            return f"{self.shared_bytes} bytes of shared memory, and {self.target} has {self.shared_limit_bytes}"
        if self.tensor_memory_columns > TENSOR_MEMORY:
            return f"{self.tensor_memory_columns} columns of tensor memory, and {self.target} has {TENSOR_MEMORY}"
        if self.target == "sm_90" and self.spilled_bytes:
            return f"{self.spilled_bytes} bytes a thread spilled"
        return None


def compile_programs(
    modules: Mapping[str, str],
    targets: Sequence[TargetName] = TARGETS,
    *,
    workers: int = 1,
    report: Callable[[Binary], None] | None = None,
) -> list[Binary]:
    """Compile every program of some ops for some machines, in `workers` processes.

    Args:
        modules: by the op's name, the module that holds its `programs(target)`.
        report: called with each binary as it is made, from several threads.
    Raises:
        LongTakeError: a process ended before it compiled anything (a module cannot be imported, say).
    """

    def part(number: int) -> list[Binary]:
        found = []
        for binary in _compile_part({"modules": dict(modules), "targets": list(targets), "part": [number, workers]}):
            found.append(binary)
            if report is not None:
                report(binary)
        return found

    with ThreadPoolExecutor(workers) as pool:
        found = [binary for binaries in pool.map(part, range(workers)) for binary in binaries]
    order = list(modules)
    return sorted(found, key=lambda b: (order.index(b.op), TARGETS.index(b.target), b.function, b.program))


def _compile_part(job: dict[str, Any]) -> Iterator[Binary]:
    """Follow a compiling process; where it dies, that is a row, and another one goes on behind it."""
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = 0
    while True:
        command = [sys.executable, "-m", "longtake.kernels.bench.binaries", json.dumps({**job, "done": done})]
        begun: Binary | None = None
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=said, text=True)
            assert process.stdout is not None
            with process:
                for line in process.stdout:
                    if not line.startswith(MARK):
                        continue
                    message = json.loads(line.removeprefix(MARK))
                    if "begun" in message:
                        begun = Binary(**message["begun"])
                    else:
                        begun = None
                        done += 1
                        yield Binary(**message["made"])
            said.seek(0)
            last = (said.read().strip().splitlines() or ["it said nothing"])[-1]
        if process.returncode == 0:
            return
        if begun is None:
            raise LongTakeError(f"compiling ended with {process.returncode}: {last}")
        done += 1
        yield Binary(**{**asdict(begun), "error": f"the compiler died with {process.returncode}: {last}"})


def compile_program(op: str, program: Program, target: TargetName) -> Binary:
    """Compile one program for one machine, in this process, and read its binary.

    Raises:
        Exception: whatever Triton raises for a program that it cannot compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    began = time.perf_counter()
    names = list(program.function.arg_names)
    given = [*program.signature, *program.constants]
    if sorted(names) != sorted(given):
        given_names = ", ".join(given) or "nothing"
        raise ValueError(f"the function takes {', '.join(names)}, and the program gives {given_names}")
    signature = {name: program.signature.get(name, "constexpr") for name in names}
    # As a launch does: it compiles once more for pointers and integers that are multiples of 16.
    attributes = {
        (number,): [["tt.divisibility", 16]]
        for number, name in enumerate(names)
        if signature[name].startswith("*") or name in program.divisible
    }
    source = ASTSource(program.function, signature, constexprs=dict(program.constants), attrs=attributes)
    options = {"num_warps": program.warps, "num_stages": program.stages}
    compiled = triton.compile(source, target=GPUTarget(*ARCHITECTURES[target]), options=options)
    if "cubin" in compiled.asm:
        figures = {**_resource_usage(compiled.asm["cubin"]), "code_bytes": code_bytes(compiled.asm["cubin"])}
    else:
        figures = assembly_figures(compiled.asm["amdgcn"])
    blank = _blank(op, program, target)
    return Binary(
        **{
            **asdict(blank),
            **figures,
            "shared_bytes": compiled.metadata.shared,
            "tensor_memory_columns": getattr(compiled.metadata, "tmem_size", None) or 0,
            "compile_s": round(time.perf_counter() - began, 2),
        }
    )


def _blank(op: str, program: Program, target: TargetName) -> Binary:
    return Binary(
        op=op,
        program=program.label,
        function=program.function.__name__,
        target=target,
        warps=program.warps,
        stages=program.stages,
        shared_limit_bytes=SHARED_MEMORY[target],
    )


def _resource_usage(cubin: bytes) -> dict[str, int]:
    """Registers and local memory of an NVIDIA binary, by the tool that Triton ships."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        words = [str(tool), "--dump-resource-usage", file.name]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    # One line a function; those that a program calls without inlining have their own.
    lines = re.findall(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", said)
    if not lines:
        raise ValueError(f"cuobjdump named no registers: {said!r}")
    return {
        "registers": max(int(registers) for registers, _, _ in lines),
        "spilled_bytes": max(int(stack) + int(local) for _, stack, local in lines),
    }


def code_bytes(elf: bytes) -> int:
    """The size of a binary's machine code: of its 64-bit ELF's sections whose names start with `.text`.

    Raises:
        ValueError: it is no such file.
    """
    if elf[:5] != b"\x7fELF\x02":
        raise ValueError(f"a 64-bit ELF file is wanted, not one that starts with {elf[:5]!r}")
    (start,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<3H", elf, 0x3A)
    # Of a section header: name, type, flags, address, offset, size.
    headers = [struct.unpack_from("<2I4Q", elf, start + size * number) for number in range(count)]
    strings = headers[names][4]
    return sum(header[5] for header in headers if elf.startswith(b".text", strings + header[0]))


def assembly_figures(assembly: str) -> dict[str, int]:
    """Registers of all kinds a thread, scratch memory and code size, from the comments of an AMD assembly.

    Raises:
        ValueError: a comment is missing.
    """

    def figure(pattern: str) -> int:
        found = [int(value) for value in re.findall(rf"^; {pattern}:? *=? *(\d+)", assembly, re.MULTILINE)]
        if not found:
            raise ValueError(f"the assembly has no comment {pattern}")
        return max(found)

    return {
        "registers": figure("TotalNumVgprs"),
        "spilled_bytes": figure("ScratchSize"),
        "code_bytes": figure("codeLenInByte"),
    }


def _main(job: dict[str, Any]) -> None:
    """Compile one process's share: of all programs in order, every `count`-th, without those done already."""
    number, count = job["part"]
    every = [
        (op, program, target)
        for op, module in job["modules"].items()
        for target in job["targets"]
        for program in importlib.import_module(module).programs(target)
    ]
    for op, program, target in every[number::count][job["done"] :]:
        blank = _blank(op, program, target)
        print(MARK + json.dumps({"begun": asdict(blank)}), flush=True)
        try:
            binary = compile_program(op, program, target)
        except Exception as error:
            # One program that does not compile is a row of the table.
            text = " ".join(str(error).split())[:500]
            binary = Binary(**{**asdict(blank), "error": f"{type(error).__name__}: {text}"})
        print(MARK + json.dumps({"made": asdict(binary)}), flush=True)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
