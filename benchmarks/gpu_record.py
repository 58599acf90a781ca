"""The files of `gpu.sh`: what is done, by which code and on which machine. It needs nothing but Python.

`gpu.sh` calls it with a verb, and tells it the rest in the environment: OUT and WORK (folders), LONGTAKE_COMMIT,
GPU_RUN_CODE (a digest of the code), GPU_RUN_MACHINE (what `machine` printed) and GPU_RUN_REHEARSAL (a note, or empty).
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "triton", "einops", "numpy", "safetensors", "tokenizers", "pytest")
FILES = {"tests": "tests.jsonl", "kernels": "kernels.json", "step": "step.json", "model": "model.json"}
# How `bench kernels` notes what it had no time for.
TIME_IS_UP = "left out: the time of this run was up"
# Of `timeout`: what it gives back where it ended a command, with TERM or with KILL.
CUT_OFF = (124, 137)
COUNTED = ("passed", "failed", "error", "skipped")
# Of what a test file says the end is kept: one that fails everywhere says the same again and again.
LONGEST_LOG = 50_000


def machine() -> None:
    """Print the machine and its versions as JSON, in one line."""
    import torch

    gpu = None
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        gpu = {"name": found.name, "memory_bytes": found.total_memory, "cuda": torch.version.cuda}
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = metadata.version(package)
    print(json.dumps({"gpu": gpu, "cores": os.cpu_count(), "system": platform.platform(), "versions": versions}))


class Run:
    """What this run is, and what its folder holds."""

    def __init__(self) -> None:
        self.out, self.work = Path(os.environ["OUT"]), Path(os.environ["WORK"])
        self.rehearsal = os.environ["GPU_RUN_REHEARSAL"] or None
        self.machine: dict[str, Any] = json.loads(os.environ["GPU_RUN_MACHINE"])
        gpu = self.machine["gpu"]
        # By what results are the same as those that a run now would give.
        self.by = {"code": os.environ["GPU_RUN_CODE"], "gpu": gpu["name"] if gpu else None}
        self.commit = os.environ["LONGTAKE_COMMIT"]
        self.summary = read(self.out / "summary.json") or {"parts": {}}

    def begin(self) -> int:
        """Make the folder and say who writes into it; 2 where figures and rehearsals would mix."""
        if "rehearsal" in self.summary and bool(self.summary["rehearsal"]) != bool(self.rehearsal):
            kept = "a rehearsal's" if self.summary["rehearsal"] else "a GPU's"
            print(f"gpu.sh: {self.out} holds {kept} files; choose another folder with OUT", file=sys.stderr)
            return 2
        self.out.mkdir(parents=True, exist_ok=True)
        self.write()
        with (self.out / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"\n##### {self.rehearsal or 'on ' + str(self.by['gpu'])}: commit {self.commit}, {now()}\n")
        return 0

    def write(self) -> None:
        """The summary, the whole file or nothing of it."""
        kept = {
            "benchmark": "gpu",
            "rehearsal": self.rehearsal,
            "at": now(),
            "commit": self.commit,
            **self.by,
            "machine": self.machine,
            "parts": {name: self.summary["parts"][name] for name in FILES if name in self.summary["parts"]},
        }
        write(self.out / "summary.json", kept)

    def same(self, entry: dict[str, Any]) -> bool:
        """Whether it is of this code and this GPU."""
        return all(entry.get(key) == value for key, value in self.by.items())

    def pending(self, part: str) -> int:
        """0 where a part has to be run, 1 where it is done."""
        entry = self.summary["parts"].get(part, {})
        return 1 if self.same(entry) and entry["complete"] and self.is_complete(part) else 0

    def is_complete(self, part: str) -> bool:
        """Whether a part's file holds all of it."""
        if part == "tests":
            return not self.tests_left()
        kept = read(self.out / FILES[part])
        # `bench step` writes once, at its end.
        return kept is not None and kept.get("complete", part == "step") and TIME_IS_UP not in json.dumps(kept)

    def test_lines(self) -> list[dict[str, Any]]:
        """The lines of `tests.jsonl` that were written by this code on this GPU."""
        path = self.out / FILES["tests"]
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [entry for line in lines if self.same(entry := json.loads(line))]

    def tests_left(self) -> list[str]:
        """The test files that have to be run."""
        done = {entry["file"] for entry in self.test_lines()}
        return [file for file in (self.work / "wanted").read_text().split() if file not in done]

    def start(self, part: str) -> None:
        """Before a part is run: what it had when it was cut off lies beside it until it has more."""
        path, entry = self.out / FILES[part], self.summary["parts"].get(part, {})
        if part == "tests":
            path.write_text("".join(f"{json.dumps(line)}\n" for line in self.test_lines()), encoding="utf-8")
        elif self.same(entry):
            self.keep_better(path, path.with_suffix(".before.json"), last=path.with_suffix(".before.json"))
        else:
            path.unlink(missing_ok=True)
        self.summary["parts"][part] = {"complete": False, **self.by, "commit": self.commit, "began": now()}
        self.write()

    def keep_better(self, one: Path, other: Path, *, last: Path) -> None:
        """Of two files of a part the one that holds more, under the name `last`."""
        found = [path for path in (one, other) if path.exists()]
        if found:
            best = max(found, key=measured)
            if best != last:
                best.replace(last)
            for path in found:
                if path != last:
                    path.unlink(missing_ok=True)

    def test(self, file: str, status: str, seconds: str, said: str) -> None:
        """After a test file: a line of what became of it, and all that it said to the log."""
        text = Path(said).read_text(encoding="utf-8", errors="replace")
        last = (text.strip().splitlines() or [""])[-1]
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
        failed = re.findall(r"^(?:FAILED|ERROR) (.+)$", text, re.MULTILINE)
        line = {"file": file, "exit": int(status), "seconds": int(seconds), **counts, "failures": failed[:20]}
        line |= {"rehearsal": self.rehearsal, **self.by, "commit": self.commit, "at": now()}
        append(self.out / "log.txt", f"--- {file}\n{text[-LONGEST_LOG:]}\n")
        append(self.out / FILES["tests"], f"{json.dumps(line)}\n")
        Path(said).unlink()

    def took(self, part: str, status: str, seconds: str, limit: str) -> None:
        """After a part: its entry in the summary, and in its file whether it is a rehearsal's."""
        path, code = self.out / FILES[part], int(status)
        found: dict[str, Any] = {}
        if part == "tests":
            lines = self.test_lines()
            code = code if code in CUT_OFF else int(any(line["exit"] not in (0, 5) for line in lines))
            found = {word: sum(line.get(word, 0) for line in lines) for word in COUNTED}
            found["files_left"] = self.tests_left()
        else:
            self.keep_better(path, path.with_suffix(".before.json"), last=path)
            kept = read(path)
            if kept is not None and self.rehearsal:
                write(path, {"benchmark": kept["benchmark"], "rehearsal": self.rehearsal, **kept})
        self.summary["parts"][part] |= {
            "exit": code,
            "seconds": int(seconds),
            "limit_s": int(limit),
            "complete": self.is_complete(part),
            **found,
        }
        self.write()

    def finish(self, parts: list[str]) -> int:
        """Print what there is; 1 where a part failed, 3 where something is left."""
        failed = left = False
        if self.rehearsal:
            print(self.rehearsal)
        for part in parts:
            entry = self.summary["parts"].get(part, {})
            entry = entry if self.same(entry) else {}
            code = entry.get("exit")
            bad = code is not None and code != 0 and code not in CUT_OFF
            state = "complete" if entry.get("complete") else "not complete: run it again" if entry else "not run"
            counts = ", ".join(f"{entry[word]} {word}" for word in COUNTED if entry.get(word))
            more = f", exit {code}, {entry['seconds']} s" if code is not None else ""
            print(f"{part:<8} {'FAILED, ' if bad else ''}{state}{more}{', ' + counts if counts else ''}")
            failed, left = failed or bad, left or not entry.get("complete")
        print(f"written: {self.out}")
        return 1 if failed else 3 if left else 0


def measured(path: Path) -> tuple[bool, int]:
    """By how much a file holds: whether it ran to its end, and its timings."""
    kept = read(path) or {}
    count = 0
    for row in kept.get("rows", ()):
        ways = [row["ours"], *row["rivals"].values()] if "rivals" in row else [{"ms": row["seconds"]}]
        count += sum(way is not None and "ms" in way for way in ways)
    return bool(kept.get("complete")), count


def read(path: Path) -> dict[str, Any] | None:
    """A JSON file; None where there is none."""
    if not path.exists():
        return None
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def write(path: Path, value: dict[str, Any]) -> None:
    """The whole file or nothing of it."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def append(path: Path, text: str) -> None:
    """Several test files end at a time: one writes after another."""
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text)


def now() -> str:
    """The time in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def main(verb: str, *words: str) -> int:
    """Do what `gpu.sh` asks for."""
    if verb == "machine":
        machine()
        return 0
    run = Run()
    if verb == "tests-left":
        print("\n".join(run.tests_left()))
    elif verb == "finish":
        return run.finish(list(words))
    else:
        verbs = {"begin": run.begin, "pending": run.pending, "start": run.start, "test": run.test, "took": run.took}
        return verbs[verb](*words) or 0
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
