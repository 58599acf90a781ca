"""Which implementation of an op runs: the one rule, in one place.

On a GPU the Triton program runs, elsewhere the reference in plain PyTorch. `LONGTAKE_KERNELS=reference` takes the
reference everywhere; `LONGTAKE_KERNELS=triton` takes the program or fails with the reason. Without a GPU a program runs
in Triton's interpreter (`TRITON_INTERPRET=1` before the start): slow, for tests.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from longtake.errors import KernelUnavailableError

VARIABLE = "LONGTAKE_KERNELS"
CHOICES = ("auto", "reference", "triton")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Looked up once: torch.compile cannot trace the look-up.
HAS_TRITON = importlib.util.find_spec("triton") is not None


def use_triton(op: str, tensor: Tensor, obstacle: str | None = None) -> bool:
    """Whether the Triton program of `op` runs on this tensor's device.

    Args:
        op: its name, for the message.
        tensor: one of its inputs; all lie on one device.
        obstacle: why the program cannot take these inputs (a size, a dtype), None where it can.
    Raises:
        KernelUnavailableError: the program was asked for by `LONGTAKE_KERNELS=triton` and cannot run, or that variable
            holds something else than `CHOICES`.
    """
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in CHOICES:
        raise KernelUnavailableError(f"{VARIABLE}={choice}: one of {', '.join(CHOICES)} is wanted")
    if choice == "reference":
        return False
    if obstacle is None and not HAS_TRITON:
        obstacle = "Triton is not installed"
    if choice == "auto":
        return tensor.is_cuda and obstacle is None
    if obstacle is None and not tensor.is_cuda and not is_interpreted():
        obstacle = f"it needs a GPU, and the tensors are on {tensor.device.type} (TRITON_INTERPRET=1 runs it slowly)"
    if obstacle is not None:
        raise KernelUnavailableError(f"{VARIABLE}=triton: the {op} program cannot run: {obstacle}")
    return True


def is_interpreted() -> bool:
    """Whether Triton's programs run in its interpreter, on any device's memory."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def dtype_obstacle(**tensors: Tensor | None) -> str | None:
    """An obstacle where a tensor's dtype is none of `DTYPES`."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in DTYPES:
            return f"{name} is {str(tensor.dtype).removeprefix('torch.')}; float32, bfloat16 or float16 is wanted"
    return None
