"""The machines that programs have settings for, and what compiling one ahead of time needs to know.

Each target has its own table of settings, because what compiles may still not launch: their shared memory differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

TargetName = Literal["sm_80", "sm_90", "sm_100", "gfx942"]
TARGETS: tuple[TargetName, ...] = ("sm_80", "sm_90", "sm_100", "gfx942")
# Bytes of shared memory that one program may have at launch.
SHARED_MEMORY: Mapping[TargetName, int] = {
    "sm_80": 163 * 1024,
    "sm_90": 227 * 1024,
    "sm_100": 227 * 1024,
    "gfx942": 64 * 1024,
}


@dataclass(frozen=True)
class Program:
    """One Triton program with everything that its binary depends on.

    `signature` holds Triton's types of the arguments that are no constants ("*bf16", "*fp32", "i32", "fp32"), in the
    order of the function's; `constants` the rest, by name. `label` tells programs of one function apart. `divisible`
    names the integers that are multiples of 16 at launch; pointers are taken to be.
    """

    function: Any
    label: str
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int
    stages: int
    divisible: frozenset[str] = frozenset()


def target_of(tensor: Tensor) -> TargetName:
    """Whose settings to use for a tensor's device; in the interpreter, sm_90's."""
    if not tensor.is_cuda:
        return "sm_90"
    if torch.version.hip is not None:
        return "gfx942"
    major = torch.cuda.get_device_capability(tensor.device)[0]
    # Consumer chips of the newest generation (12.x) have no more shared memory than sm_80.
    return "sm_90" if major == 9 else "sm_100" if major == 10 else "sm_80"
