"""The clock of the kernel benchmark, and what the machine itself can do: its copy bandwidth and its matmul rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from longtake.kernels.bench.case import Work

Act: TypeAlias = Callable[[], object]
Timer: TypeAlias = Callable[[Act], "Timing"]

GiB = 1 << 30
# A copy of this size is far larger than any cache, and a product of this size keeps every multiprocessor busy.
COPY_BYTES = 2 * GiB
MATMUL_SIZES = {torch.bfloat16: 8192, torch.float16: 8192, torch.float32: 4096}
# The CPU's clock: enough for an order of magnitude, which is all that its figures are for.
CPU_REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The median of many calls, and the spread: a fifth of them took less than `p20_ms`, a fifth more than `p80_ms`."""

    ms: float
    p20_ms: float
    p80_ms: float


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What this machine reached in this run; `matmul_flops_per_s` is by the dtype's name."""

    copy_bytes_per_s: float
    matmul_flops_per_s: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The least time that a piece of work takes on a machine, and by which of its two ceilings."""

    ms: float
    bound: Literal["bytes", "flops"]


def gpu_timer(rep_ms: int) -> Timer:
    """Triton's clock on the GPU: its events around each call, a cold cache before it, for about `rep_ms`."""
    from triton.testing import do_bench

    def timer(act: Act) -> Timing:
        median, p20, p80 = do_bench(act, warmup=25, rep=rep_ms, quantiles=[0.5, 0.2, 0.8])
        return Timing(ms=median, p20_ms=p20, p80_ms=p80)

    return timer


def cpu_timer(act: Act) -> Timing:
    """A plain clock, for a machine without a GPU."""
    act()
    times = []
    for _ in range(CPU_REPEATS):
        began = time.perf_counter()
        act()
        times.append(1e3 * (time.perf_counter() - began))
    times.sort()
    return Timing(ms=times[CPU_REPEATS // 2], p20_ms=times[CPU_REPEATS // 5], p80_ms=times[-1 - CPU_REPEATS // 5])


def measure_ceilings(device: torch.device, timer: Timer, dtypes: Iterable[torch.dtype]) -> Ceilings:
    """Time a large copy, and for each dtype that there is a rate for a large matrix product, on random numbers."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else GiB // 64
    bandwidth = _copy_bandwidth(device, timer, min(COPY_BYTES, free // 8))
    rates = {}
    for dtype in sorted(set(dtypes) & set(MATMUL_SIZES), key=str):
        size = MATMUL_SIZES[dtype] if device.type == "cuda" else 128
        a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        rates[dtype_name(dtype)] = 2 * size**3 / (1e-3 * _product(timer, a, b).ms)
    return Ceilings(copy_bytes_per_s=bandwidth, matmul_flops_per_s=rates)


def _copy_bandwidth(device: torch.device, timer: Timer, size_bytes: int) -> float:
    source = torch.randn(size_bytes // 2, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    # Every byte is read once and written once.
    return 2 * source.nbytes / (1e-3 * timer(lambda: target.copy_(source)).ms)


def _product(timer: Timer, a: torch.Tensor, b: torch.Tensor) -> Timing:
    return timer(lambda: torch.mm(a, b))


def limit_of(work: Work, dtype: torch.dtype, ceilings: Ceilings) -> Limit:
    """The longer of the times that its bytes and its operations take at the machine's own rates."""
    by_bytes = 1e3 * work.bytes / ceilings.copy_bytes_per_s
    rate = ceilings.matmul_flops_per_s.get(dtype_name(dtype))
    by_flops = 1e3 * work.flops / rate if rate else 0.0
    return Limit(ms=by_flops, bound="flops") if by_flops > by_bytes else Limit(ms=by_bytes, bound="bytes")


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16` for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")
