"""How the kernel tests compare: with the exact result, and with the error that plain PyTorch makes itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def assert_as_exact_as_torch(ours: Tensor, plain: Tensor, exact: Tensor, what: str = "") -> None:
    """`ours` is at most twice as far from `exact` (float64) as `plain` (PyTorch in the same dtype) is, plus 1e-6.

    Errors are the largest over all elements, in units of the largest exact value where that exceeds 1. Half a unit in
    the last place of the result's dtype is in every error: PyTorch's may miss it by luck where there are few elements.
    """
    assert ours.shape == exact.shape and ours.dtype == plain.dtype, (what, ours.shape, exact.shape, ours.dtype)
    assert bool(torch.isfinite(ours).all()), f"{what}: not finite"
    if not exact.numel():
        return
    scale = max(1.0, float(exact.abs().max()))
    rounding = torch.finfo(ours.dtype).eps / 2 * float(exact.abs().max())
    error = float((ours.double() - exact).abs().max())
    own = float((plain.double() - exact).abs().max())
    allowed = 2 * max(own, rounding) + 1e-6 * scale
    assert error <= allowed, f"{what}: error {error:.3g}, PyTorch's own {own:.3g}, allowed {allowed:.3g}"


def gradients(output: Tensor, inputs: Sequence[Tensor], seed: int = 0) -> tuple[Tensor, ...]:
    """Gradients of `inputs` for one fixed random gradient of `output` (same numbers in every dtype up to rounding)."""
    generator = torch.Generator().manual_seed(seed)
    upstream = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    return torch.autograd.grad(output, inputs, upstream.to(output.device, output.dtype))


def surrounded(values: Tensor, margin: int = 4096) -> Tensor:
    """A contiguous copy that lies in the middle of NaN: a program that reads beyond its input shows."""
    filler = float("nan") if values.is_floating_point() else 1
    memory = torch.full((values.numel() + 2 * margin,), filler, dtype=values.dtype, device=DEVICE)
    inner = memory[margin : margin + values.numel()].view(values.shape)
    with torch.no_grad():
        inner.copy_(values)
    return inner
