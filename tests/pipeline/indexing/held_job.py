"""An indexing job as a process of its own, held right after a commit: what a test does to it then, it does in time.

However slow the test or fast the job, the held job has committed rows and has not recorded its video's end. Its workers
are left to themselves meanwhile.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HELD = "held\n"


class HeldJob:
    """A job that holds once so many rows are committed, by all jobs on the index so far; 0: it never does.

    Args:
        options: of `IndexOptions`; `rate_hz` stands for the sampling. Between the stages there is one parcel at most,
            and what is encoded is committed at once, so commits are many.
    """

    def __init__(self, paths: Sequence[Path], into: Path, *, hold: int = 0, **options: Any) -> None:
        work = {
            "paths": list(map(str, paths)),
            "hold": hold,
            "options": {"into": str(into), "commit_s": 0.0, "budget_bytes": 1, **options},
        }
        # A process group of its own, as a shell gives one to each command.
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_held(self) -> None:
        """Return when the job holds."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == HELD, f"the job ended too early: {line}{self.process.communicate()}"

    def end(self) -> tuple[int, str, str]:
        """Let the job go on, to its end: its exit code, what it printed then, and its errors."""
        out, errors = self.process.communicate("go on\n")
        return self.process.returncode, out, errors

    def summary(self) -> dict[str, Any]:
        """Let the job go on, to its end, which is a good one: its summary; `failures` is how many there are."""
        code, out, errors = self.end()
        assert (code, errors) == (0, ""), "a job that succeeds says nothing"
        made: dict[str, Any] = json.loads(out)
        return made


def main() -> None:
    from longtake.pipeline.indexing.index import IndexOptions, index
    from longtake.pipeline.media.plan import Sampling
    from longtake.pipeline.table.writer import Committer, Written

    work = json.loads(sys.argv[1])
    commit, hold = Committer.commit_snippets, work["hold"]

    def commit_and_hold(self: Committer, batches: Sequence[Written]) -> None:
        nonlocal hold
        commit(self, batches)
        if hold and sum(span.rows for span in self.spans.values()) >= hold:
            hold = 0
            print(HELD, end="", flush=True)
            sys.stdin.readline()

    Committer.commit_snippets = commit_and_hold  # type: ignore[method-assign]
    rate_hz = work["options"].pop("rate_hz", None)
    sampling = None if rate_hz is None else Sampling(rate_hz=rate_hz)
    try:
        summary = index(work["paths"], IndexOptions(sampling=sampling, **work["options"]))
    except KeyboardInterrupt:
        sys.exit(130)
    print(json.dumps({**dataclasses.asdict(summary), "failures": len(summary.failures)}))


if __name__ == "__main__":
    main()
