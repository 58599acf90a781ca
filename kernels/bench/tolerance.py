"""How exact a kernel has to be: the one rule, which the tests and the benchmark's gate share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """The largest error of a result, beside the one that plain PyTorch makes itself and the one that is allowed."""

    error: float
    own: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether the error is allowed; a result that is not finite has an infinite one."""
        return self.error <= self.allowed


def closeness(ours: Tensor, plain: Tensor, exact: Tensor) -> Closeness:
    """`ours` may be twice as far from `exact` as `plain` (PyTorch in the same dtype) is, plus 1e-6.

    Errors are the largest over all elements; the 1e-6 is in units of the largest exact value where that exceeds 1. Half
    a unit in the last place of the result's dtype is in every error: PyTorch's may miss it by luck where there are few
    elements. An integer was rounded from something, so its half unit is 0.5, and it may be the neighbour.

    Args:
        ours, plain: one shape and dtype.
        exact: the same shape, in float64, or in float32 where that is too large; any dtype for integers.
    """
    if not exact.numel():
        return Closeness(error=0.0, own=0.0, allowed=0.0)
    ours, plain, exact = ours.detach(), plain.detach(), exact.detach()
    exact = exact if exact.is_floating_point() else exact.double()
    largest = float(exact.abs().max())
    rounding = torch.finfo(ours.dtype).eps / 2 * largest if ours.is_floating_point() else 0.5
    error = float((ours.to(exact.dtype) - exact).abs().max())
    own = float((plain.to(exact.dtype) - exact).abs().max())
    allowed = 2 * max(own, rounding) + 1e-6 * max(1.0, largest)
    finite = bool(torch.isfinite(ours).all())
    return Closeness(error=error if finite else float("inf"), own=own, allowed=allowed)
