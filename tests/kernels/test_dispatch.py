"""The one rule of which implementation runs."""

from __future__ import annotations

import pytest
import torch

from longtake.errors import KernelUnavailableError, LongTakeError
from longtake.kernels.dispatch import dtype_obstacle, use_triton


def test_a_cpu_takes_the_reference_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1)
    monkeypatch.delenv("LONGTAKE_KERNELS")
    assert not use_triton("op", x)
    monkeypatch.setenv("LONGTAKE_KERNELS", "reference")
    assert not use_triton("op", x)
    monkeypatch.setenv("LONGTAKE_KERNELS", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert use_triton("op", x)


def test_a_forced_program_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1)
    with pytest.raises(KernelUnavailableError, match="the op program cannot run: k is 65"):
        use_triton("op", x, "k is 65, and it takes at most 64")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(KernelUnavailableError, match="it needs a GPU, and the tensors are on cpu"):
        use_triton("op", x)
    monkeypatch.setenv("LONGTAKE_KERNELS", "cuda")
    with pytest.raises(KernelUnavailableError, match="LONGTAKE_KERNELS=cuda: one of auto, reference, triton is wanted"):
        use_triton("op", x)
    assert issubclass(KernelUnavailableError, LongTakeError), "the command line prints it in one line"


def test_an_obstacle_names_the_tensor_and_its_dtype() -> None:
    assert dtype_obstacle(x=torch.zeros(1), y=None) is None
    assert dtype_obstacle(x=torch.zeros(1, dtype=torch.float64)) == (
        "x is float64; float32, bfloat16 or float16 is wanted"
    )
