"""Ends every process of an embedded Ray when the process that started it is gone, however it went.

Ray's own servers may outlive a driver that is killed. So the driver starts this program first, holds the other end of
its standard input, and puts a mark into the environment that Ray's processes are started with. When the pipe closes,
whatever carries the mark, and whatever descends from it, is killed.

Run by path with the standard library alone (`python -I -S watchdog.py MARK`): it must start in no time and stay small.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

VARIABLE = "LONGTAKE_EMBEDDED_RAY"
PROC = Path("/proc")


def marked_processes(mark: str) -> dict[int, str]:
    """The processes started with the mark, and their descendants: pid to start time, which tells a reused pid."""
    parents: dict[int, int] = {}
    started: dict[int, str] = {}
    roots: list[int] = []
    wanted = f"{VARIABLE}={mark}".encode()
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        # A process may end, or belong to someone else, while it is looked at.
        with contextlib.suppress(OSError, IndexError):
            state, parent, start = _stat(int(entry.name))
            if state != "Z":
                parents[int(entry.name)], started[int(entry.name)] = parent, start
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    roots.append(int(entry.name))
    found = dict.fromkeys(roots)
    # Some of Ray's processes overwrite their environment with their title, but their parents do not.
    grew = True
    while grew:
        children = [pid for pid, parent in parents.items() if parent in found and pid not in found]
        found.update(dict.fromkeys(children))
        grew = bool(children)
    return {pid: started[pid] for pid in found}


def end_marked(mark: str, known: dict[int, str], patience_s: float = 60.0) -> None:
    """Kill them, and those `known` from before, until none is left: one may appear a moment later."""
    stop = time.monotonic() + patience_s
    while time.monotonic() < stop:
        found = {**{pid: start for pid, start in known.items() if _is_alive(pid, start)}, **marked_processes(mark)}
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _stat(pid: int) -> tuple[str, int, str]:
    """A process's state, parent and start time."""
    fields = (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    return fields[0], int(fields[1]), fields[19]


def _is_alive(pid: int, start: str) -> bool:
    try:
        state, _, started = _stat(pid)
    except (OSError, IndexError):
        return False
    return state != "Z" and started == start


def main() -> None:
    """Wait for the end of standard input, then end everything that carries the mark given as the only argument.

    Whatever is written to standard input makes it note who is there: a process that is nobody's descendant any more,
    because its parent went first, is still found then.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    known: dict[int, str] = {}
    while os.read(0, 4096):
        known = marked_processes(sys.argv[1])
    end_marked(sys.argv[1], known)


if __name__ == "__main__":
    main()
