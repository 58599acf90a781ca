"""Which processes live, and waiting for their end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import psutil


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; a zombie has."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_gone(processes: Sequence[psutil.Process]) -> None:
    """Return when all have ended."""
    while alive(processes):
        time.sleep(0.05)
