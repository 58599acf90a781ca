"""The benchmark's gate: a kernel that disagrees with its definition is not timed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from longtake.kernels.bench.case import Call, Case, Inputs, Suite
from longtake.kernels.bench.evaluation import (
    Results,
    evaluate,
    first_line,
    in_dtype,
    release,
    require_alive,
    synchronize,
)
from longtake.kernels.bench.timing import dtype_name
from longtake.kernels.bench.tolerance import closeness

# Beyond so many operations the exact result is computed in float32: float64 is slow on many GPUs.
MOST_FLOAT64_FLOPS = 2e13


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether one direction of an op is exact enough, by `closeness`: its worst result, or the reason where it is not.

    `against` is the dtype of the exact results.
    """

    ok: bool
    against: str | None = None
    result: str | None = None
    error: float | None = None
    allowed: float | None = None
    reason: str | None = None


def check(suite: Suite, case: Case, inputs: Inputs, device: torch.device) -> dict[str, Verdict]:
    """Compare our results and gradients with exact ones, by direction: `forward`, and `backward` where the case has it.

    Where the forward fails, the backward does as well.

    Raises:
        DeadDeviceError: our kernel broke the device for this process.
    """
    try:
        verdicts = _compare(suite, case, inputs, device)
    except Exception as error:
        # Whatever one kernel raises is its verdict, and the run goes on to the next.
        verdicts = {"forward": Verdict(ok=False, reason=first_line(error))}
    require_alive(device)
    release(device)
    if case.backward is not None and not verdicts["forward"].ok:
        verdicts["backward"] = Verdict(ok=False, reason=f"the forward failed: {verdicts['forward'].reason}")
    return verdicts


def _compare(suite: Suite, case: Case, inputs: Inputs, device: torch.device) -> dict[str, Verdict]:
    backward = case.backward is not None
    with _poisoned_memory():
        ours = evaluate(suite.ours, inputs, backward=backward)
        synchronize(device)
    plain = evaluate(suite.reference, inputs, backward=backward, upstream=ours.upstream)
    exact, against = _exact(suite.reference, case, inputs, ours)
    verdicts = {"forward": judge(ours.outputs, plain.outputs, exact.outputs, against)}
    if backward:
        verdicts["backward"] = judge(ours.gradients, plain.gradients, exact.gradients, against)
    return verdicts


def _exact(reference: Call, case: Case, inputs: Inputs, ours: Results) -> tuple[Results, str]:
    """The reference in float64; for half precision in float32, where float64 takes too much time or memory."""
    flops = case.forward.flops + (case.backward.flops if case.backward is not None else 0)
    dtypes = [torch.float64] if flops <= MOST_FLOAT64_FLOPS or case.dtype == torch.float32 else []
    if case.dtype != torch.float32:
        dtypes.append(torch.float32)
    for dtype in dtypes:
        try:
            backward = case.backward is not None
            exact = evaluate(reference, in_dtype(inputs, dtype), backward=backward, upstream=ours.upstream)
        except torch.OutOfMemoryError:
            if dtype == dtypes[-1]:
                raise
        else:
            return exact, dtype_name(dtype)
        release(next(iter(ours.outputs.values())).device)
    raise AssertionError("the last dtype has returned or raised")


def judge(
    ours: Mapping[str, Tensor], plain: Mapping[str, Tensor], exact: Mapping[str, Tensor], against: str
) -> Verdict:
    """The first result that is not exact enough, else the one that comes nearest to its tolerance."""
    if not ours or not ours.keys() == plain.keys() == exact.keys():
        return Verdict(ok=False, against=against, reason=f"results: {', '.join(ours)}, wanted: {', '.join(plain)}")
    worst = Verdict(ok=True, against=against)
    worst_share = -1.0
    for name, value in ours.items():
        kinds = [f"{dtype_name(x.dtype)} {tuple(x.shape)}" for x in (value, plain[name])]
        if kinds[0] != kinds[1]:
            return Verdict(ok=False, against=against, result=name, reason=f"{name}: {kinds[0]} instead of {kinds[1]}")
        found = closeness(value, plain[name], exact[name])
        reason = None if found.ok else f"{name}: error {found.error:.3g}, allowed {found.allowed:.3g}"
        verdict = Verdict(
            ok=found.ok, against=against, result=name, error=found.error, allowed=found.allowed, reason=reason
        )
        if not found.ok:
            return verdict
        share = found.error / found.allowed if found.allowed else 0.0
        if share > worst_share:
            worst, worst_share = verdict, share
    return worst


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """Fresh memory is full of NaN: what a kernel leaves unwritten shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
