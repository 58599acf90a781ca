"""Run a command and measure all of its processes: CPU seconds, and memory as summed PSS.

A job's processes are its descendants, also those that outlive their parents: this process adopts them (Linux
"subreaper"). CPU seconds are read twice. Sums over the kernel's counters of living processes miss what happens after
the last look at each; what the kernel reports when a process is reaped is exact, but leaves out children whose parent
ignored their end. Neither can be too high, so the larger one counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from longtake.errors import LongTakeError

PROC = Path("/proc")
_PR_SET_CHILD_SUBREAPER = 36
# Processes that are still there so long after the command's end are not waited for.
PATIENCE_S = 90.0


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a command and all of its processes used. `cpu_s` is user and system time of all of them."""

    seconds: float
    cpu_s: float
    seen_cpu_s: float
    reaped_cpu_s: float
    peak_pss_bytes: int
    most_processes: int
    output: str


@dataclass(frozen=True, kw_only=True)
class ProcessLook:
    """One process at one moment; `started` tells apart two processes that had the same pid."""

    pid: int
    parent: int
    started: int
    cpu_ticks: int


def measure(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, look_s: float = 0.2, memory_s: float = 1.0
) -> Usage:
    """Run a command to its end, and until no process of it is left.

    Args:
        look_s, memory_s: time between looks at the CPU counters, and at the memory.
    Raises:
        LongTakeError: it failed, or this is no Linux.
    """
    if not (PROC / "self/smaps_rollup").exists():
        raise LongTakeError("measuring a tree of processes needs Linux (/proc/PID/smaps_rollup)")
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.monotonic()
        process = subprocess.Popen(command, env=env, stdout=out, stderr=errors, stdin=subprocess.DEVNULL)
        watch = _Watch(process.pid)
        ended_s: float | None = None
        memory_at = 0.0
        while True:
            watch.look()
            if time.monotonic() >= memory_at:
                watch.weigh()
                memory_at = time.monotonic() + memory_s
            watch.reap()
            if watch.status is not None and ended_s is None:
                ended_s = time.monotonic() - began
            if ended_s is not None and (not watch.alive or time.monotonic() - began - ended_s > PATIENCE_S):
                break
            time.sleep(look_s)
        # The object must not wait for a process that was reaped here.
        process.returncode = os.waitstatus_to_exitcode(watch.status or 0)
        out.seek(0)
        errors.seek(0)
        output, complaint = out.read().decode(errors="replace"), errors.read().decode(errors="replace")
    if process.returncode != 0:
        last = (complaint or output).strip().splitlines()[-1:]
        raise LongTakeError(f"{' '.join(command[:6])} ... ended with {process.returncode}: {' '.join(last)}")
    return Usage(
        seconds=ended_s,
        cpu_s=max(watch.seen_cpu_s, watch.reaped_cpu_s),
        seen_cpu_s=watch.seen_cpu_s,
        reaped_cpu_s=watch.reaped_cpu_s,
        peak_pss_bytes=watch.peak_pss_bytes,
        most_processes=watch.most_processes,
        output=output,
    )


class _Watch:
    """Looks at all descendants of this process again and again."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = {look.pid for look in descendants(list_processes(), os.getpid())} - {pid}
        self._ticks: dict[tuple[int, int], int] = {}
        self.alive: list[ProcessLook] = []
        self.status: int | None = None
        self.reaped_cpu_s = 0.0
        self.peak_pss_bytes = 0
        self.most_processes = 0

    @property
    def seen_cpu_s(self) -> float:
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")

    def look(self) -> None:
        found = descendants(list_processes(), os.getpid())
        self.alive = [look for look in found if look.pid not in self._before]
        self.most_processes = max(self.most_processes, len(self.alive))
        for look in self.alive:
            self._ticks[look.pid, look.started] = look.cpu_ticks

    def weigh(self) -> None:
        self.peak_pss_bytes = max(self.peak_pss_bytes, sum(pss_bytes(look.pid) for look in self.alive))

    def reap(self) -> None:
        # Only the command and what was adopted from it: nobody else's children are waited for.
        for look in self.alive:
            if look.parent != os.getpid() or (look.pid == self._pid and self.status is not None):
                continue
            with contextlib.suppress(ChildProcessError):
                pid, status, usage = os.wait4(look.pid, os.WNOHANG)
                if pid:
                    self.reaped_cpu_s += usage.ru_utime + usage.ru_stime
                    if pid == self._pid:
                        self.status = status


def list_processes() -> list[ProcessLook]:
    """All processes of the machine."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found.append(parse_stat(int(entry.name), (entry / "stat").read_text(errors="replace")))
    return found


def parse_stat(pid: int, text: str) -> ProcessLook:
    """A line of /proc/PID/stat; the process's name in it may hold spaces and brackets."""
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessLook(
        pid=pid, parent=int(fields[1]), started=int(fields[19]), cpu_ticks=int(fields[11]) + int(fields[12])
    )


def descendants(processes: Sequence[ProcessLook], root: int) -> list[ProcessLook]:
    """The processes below `root`, itself not among them."""
    children: dict[int, list[ProcessLook]] = {}
    for look in processes:
        children.setdefault(look.parent, []).append(look)
    found: list[ProcessLook] = []
    level = [root]
    while level:
        below = [look for pid in level for look in children.get(pid, [])]
        found += below
        level = [look.pid for look in below]
    return found


def pss_bytes(pid: int) -> int:
    """A process's proportional set size: memory that it shares counts by its share. 0 when it is gone."""
    try:
        with (PROC / str(pid) / "smaps_rollup").open() as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    except (OSError, ValueError):
        return 0
