"""Kernel tests run natively where there is a GPU and in Triton's interpreter elsewhere; the tests are the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from longtake.kernels.dispatch import is_interpreted


@pytest.fixture(autouse=True)
def programs_on_poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The Triton programs are forced, and `torch.empty` gives memory full of NaN: what is not written shows."""
    monkeypatch.setenv("LONGTAKE_KERNELS", "triton")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture(autouse=True)
def products_as_a_gpu_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter keeps bfloat16 as integers: it multiplies those in `tl.dot`, and cuts where a GPU rounds.

    It leaves float32 products to numpy's BLAS, whose order of summation depends on the processor, the shapes and on
    which operand comes first. A GPU sums an element along the inner dimension in one order, so that what a backward
    computes again has the forward's bits: gradients at extreme logits rest on that.
    """
    if not is_interpreted():
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def wide(x: TensorHandle) -> TensorHandle:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def ordered_dot(self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, sums: TensorHandle, *rest: Any) -> Any:
        if not a.dtype.scalar == b.dtype.scalar == sums.dtype.scalar == tl.float32:
            return dot(self, wide(a), wide(b), sums, *rest)
        total = np.zeros_like(sums.data)
        for column, row in zip(np.moveaxis(a.data, -1, 0), np.moveaxis(b.data, -2, 0), strict=True):
            total += column[..., :, None] * row[..., None, :]
        return TensorHandle(total + sums.data, tl.float32)

    def rounding_cast(self: InterpreterBuilder, x: TensorHandle, to: tl.dtype) -> TensorHandle:
        if (x.dtype.scalar, to.scalar) == (tl.float32, tl.bfloat16):
            rounded = torch.from_numpy(np.ascontiguousarray(x.data)).bfloat16().view(torch.uint16).numpy()
            return TensorHandle(rounded.reshape(x.data.shape), tl.bfloat16)
        return wide(x) if (x.dtype.scalar, to.scalar) == (tl.bfloat16, tl.float32) else cast(self, x, to)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", ordered_dot)
    for name in ("cast_impl", "create_fp_ext", "create_fp_trunc"):
        monkeypatch.setattr(InterpreterBuilder, name, rounding_cast)
