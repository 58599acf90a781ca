"""An interrupt while Ray starts: noted wherever it falls, and told once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os, signal, subprocess
from longtake.pipeline.indexing.index import _no_interrupt_lost

# As when Ctrl-C comes while Ray forks its servers: Python drops what its hooks raise there, and prints it.
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))
with _no_interrupt_lost() as check:
    if os.fork() == 0:
        os._exit(0)
    print("forked", flush=True)
    try:
        check()
    except KeyboardInterrupt:
        print("noted", flush=True)
"""


def test_an_interrupt_inside_a_fork_is_noted_and_prints_nothing() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["forked", "noted"]), done.stderr
    assert "KeyboardInterrupt" not in done.stderr and "Traceback" not in done.stderr
