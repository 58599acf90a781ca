"""Fixtures that the whole suite shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One thread a process: the suite runs many processes on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real videos that lies beside the repository."""
    folder = SHARED / "media"
    if not folder.is_dir():
        pytest.skip("the folder of real videos (../shared/media) is not here")
    return folder


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference values that lies beside the repository."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("the folder of reference values (../shared/reference) is not here")
    return folder
