"""Calling an op as a benchmark does: its results, its gradients for a fixed upstream one, in any dtype."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longtake.kernels.bench.case import Call, Inputs


class DeadDeviceError(RuntimeError):
    """The GPU takes no more work in this process: a kernel read or wrote where it may not."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Named outputs and gradients of one call, and the outputs' gradients that the latter are for."""

    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor]
    upstream: list[Tensor]


def evaluate(call: Call, inputs: Inputs, *, backward: bool, upstream: Sequence[Tensor] | None = None) -> Results:
    """Call an op and, if `backward`, take the gradients of every input that requires one.

    Args:
        upstream: the gradients of the results that require one; by default fixed random ones in the results' dtypes.
    Raises:
        ValueError: a backward is wanted, and no input or no result requires a gradient, or not as many as are given.
    """
    with torch.set_grad_enabled(backward):
        outputs = as_tuple(call(inputs))
    sent: list[Tensor] = []
    gradients: dict[str, Tensor] = {}
    if backward:
        smooth = differentiable(outputs)
        if upstream is None:
            sent = random_like(smooth)
        elif len(upstream) != len(smooth):
            raise ValueError(f"{len(smooth)} results require a gradient, and gradients are given for {len(upstream)}")
        else:
            sent = [given.to(output.dtype) for given, output in zip(upstream, smooth, strict=True)]
        wanted = leaves(inputs)
        found = torch.autograd.grad(smooth, list(wanted.values()), sent, allow_unused=True)
        for (name, leaf), value in zip(wanted.items(), found, strict=True):
            gradients[f"gradient of {name}"] = torch.zeros_like(leaf) if value is None else value
    named = {f"result {number}": output.detach() for number, output in enumerate(outputs)}
    return Results(outputs=named, gradients=gradients, upstream=sent)


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One result as a tuple of one."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def differentiable(outputs: Sequence[Tensor]) -> list[Tensor]:
    """The results that gradients flow through.

    Raises:
        ValueError: there is none.
    """
    found = [output for output in outputs if output.requires_grad]
    if not found:
        raise ValueError("no result requires a gradient, and the case has a backward")
    return found


def leaves(inputs: Inputs) -> dict[str, Tensor]:
    """The inputs that a backward is for.

    Raises:
        ValueError: there is none.
    """
    found = {name: value for name, value in inputs.items() if isinstance(value, Tensor) and value.requires_grad}
    if not found:
        raise ValueError("no input requires a gradient, and the case has a backward")
    return found


def random_like(outputs: Sequence[Tensor]) -> list[Tensor]:
    """A fixed random gradient of each output, in its dtype."""
    made: list[Tensor] = []
    for output in outputs:
        generator = torch.Generator(output.device).manual_seed(len(made))
        made.append(torch.randn(output.shape, generator=generator, device=output.device).to(output.dtype))
    return made


def in_dtype(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The same inputs in another floating dtype; other values, such as pictures and masks, stay as they are."""

    def convert(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.detach().to(dtype).requires_grad_(value.requires_grad)
        return dtype if isinstance(value, torch.dtype) and value.is_floating_point else value

    return {name: convert(value) for name, value in inputs.items()}


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that an error of a kernel is raised here."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def require_alive(device: torch.device) -> None:
    """Tell an error of one kernel from the end of all work on this device.

    Raises:
        DeadDeviceError: the device takes no more work in this process.
    """
    try:
        synchronize(device)
    except Exception as error:
        raise DeadDeviceError(first_line(error)) from error


def release(device: torch.device) -> None:
    """Give memory that nobody holds back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """An error in one short line."""
    text = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {text}"[:240]
