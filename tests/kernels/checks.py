"""How the kernel tests compare: with the exact result, and with the error that plain PyTorch makes itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from longtake.kernels.bench.tolerance import closeness

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def assert_as_exact_as_torch(ours: Tensor, plain: Tensor, exact: Tensor, what: str = "") -> None:
    """`ours` is exact enough by the rule of `longtake.kernels.bench.tolerance.closeness`; `exact` is float64."""
    assert ours.shape == exact.shape and ours.dtype == plain.dtype, (what, ours.shape, exact.shape, ours.dtype)
    assert bool(torch.isfinite(ours).all()), f"{what}: not finite"
    found = closeness(ours, plain, exact)
    assert found.ok, f"{what}: error {found.error:.3g}, PyTorch's own {found.own:.3g}, allowed {found.allowed:.3g}"


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
