"""Kernel tests run natively where there is a GPU and in Triton's interpreter elsewhere; the tests are the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def programs_on_poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The Triton programs are forced, and `torch.empty` gives memory full of NaN: what is not written shows."""
    monkeypatch.setenv("LONGTAKE_KERNELS", "triton")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
