"""What a benchmark needs to know of an op: inputs of a size, what runs on them, and the least work it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# An op's inputs by argument name; None and plain values may be among them.
Inputs = dict[str, Any]
Call = Callable[[Inputs], Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one call cannot do without: bytes from and to memory, and operations, a multiply-add counted as two."""

    bytes: int
    flops: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """One size of one op.

    `make(device, seed)` returns the inputs; floating tensors that require gradients are what a backward is timed for.
    `fills` marks the sizes that fill a large GPU: the figures of merit are taken there.
    """

    name: str
    sizes: Mapping[str, int]
    dtype: torch.dtype
    make: Callable[[torch.device, int], Inputs]
    forward: Work
    backward: Work | None
    fills: bool = False


@dataclass(frozen=True, kw_only=True)
class Suite:
    """An op's cases and the ways to compute it: `ours` always runs the Triton program, `reference` plain PyTorch.

    `compiled` is what torch.compile gets (the reference, unless another form gives it a better chance). `libraries` are
    the natural rivals by name, such as SDPA over concatenated sources.
    """

    op: str
    ours: Call
    reference: Call
    compiled: Call
    libraries: Mapping[str, Call] = field(default_factory=dict)
    cases: tuple[Case, ...]
    small_cases: tuple[Case, ...]  # for a machine without a GPU
    product_cases: tuple[Case, ...] = ()  # what the presets call the op with
