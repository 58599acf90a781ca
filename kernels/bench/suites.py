"""Which ops there are: every folder of `kernels` that has a `cases.py`. A new op needs no list to be extended."""

from __future__ import annotations

import importlib
from pathlib import Path

from longtake.kernels.bench.case import Suite


def op_names() -> tuple[str, ...]:
    """The names of all ops with cases, sorted."""
    return tuple(sorted(path.parent.name for path in Path(__file__).parents[1].glob("*/cases.py")))


def cases_module(op: str) -> str:
    """The module that holds an op's `SUITE` and `programs(target)`."""
    return f"longtake.kernels.{op}.cases"


def load_suite(op: str) -> Suite:
    """An op's suite; this imports torch, not Triton."""
    suite: Suite = importlib.import_module(cases_module(op)).SUITE
    return suite
