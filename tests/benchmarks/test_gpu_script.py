"""`benchmarks/gpu.sh`: rehearsed where what a GPU machine lacks is missing, cut off, run again, refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks/gpu.sh"

# Modules that are not there, as importing and looking for them finds: `sitecustomize` is imported at Python's start.
MISSING = """
import importlib.machinery
names = {"av", "decord", "ray", "lance", "pyarrow", "hypothesis", "matplotlib", "rich", "PIL", "psutil", "xdist"}
names |= {"pytest_timeout", "transformers", "huggingface_hub", "torchaudio", "torchvision"}
found = importlib.machinery.PathFinder.find_spec
def find_spec(cls, name, path=None, target=None):
    return None if name.split(".")[0] in names else found(name, path, target)
importlib.machinery.PathFinder.find_spec = classmethod(find_spec)
"""

# A Python that says that it has a GPU. What `gpu.sh` would start there it notes, and does what the test says instead:
# the script's flow is tested, on a machine that has none.
STAND_IN = """#!/usr/bin/env bash
case "$*" in
*"gpu_record.py machine") echo '{"gpu": {"name": "GPU 1"}, "versions": {}}' ;;
*"-m longtake.jobs.main bench"* | *"-m pytest"*)
    echo "$*" >>FOLDER/calls
    for word; do last=$word; done
    . FOLDER/act.sh
    ;;
*) exec PYTHON "$@" ;;
esac
"""

# A `timeout -k 10 SECONDS COMMAND ...` whose time is up once the command has come as far as it should: as the real one
# does, it ends the command with all that it started, and its exit code is 124.
TIMEOUT = """#!/usr/bin/env bash
shift 3
setsid "$@" <&0 &
while kill -0 $! 2>/dev/null; do
    if [[ -e FOLDER/far-enough ]]; then
        kill -TERM -- -$!
        wait $!
        exit 124
    fi
    sleep 0.05
done
wait $!
"""
CUT_OFF = "touch FOLDER/far-enough; sleep infinity"


def run(folder: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "OUT": str(folder / "out"), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **env}
    command = [str(SCRIPT), *options]
    return subprocess.run(command, env=given, capture_output=True, text=True, cwd=folder)


class StandIn:
    """Runs the script with a Python of our own; `act` is what that does instead of a benchmark or tests, in bash."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.python, self.bin = folder / "python", folder / "bin"
        self.bin.mkdir()
        for path, text in ((self.python, STAND_IN), (self.bin / "timeout", TIMEOUT)):
            path.write_text(self._filled(text).replace("PYTHON", shlex.quote(sys.executable)))
            path.chmod(0o755)

    def _filled(self, text: str) -> str:
        return text.replace("FOLDER", shlex.quote(str(self.folder)))

    def run(self, act: str, *options: str) -> tuple[int, str]:
        (self.folder / "act.sh").write_text(self._filled(act))
        (self.folder / "calls").write_text("")
        (self.folder / "far-enough").unlink(missing_ok=True)
        # Far more time than the script will take, on a busy machine too.
        options = ("--seconds", "100000", *options)
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        done = run(self.folder, *options, PYTHON=str(self.python), PATH=path)
        return done.returncode, done.stdout + done.stderr

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def read(self, name: str) -> dict[str, Any]:
        kept: dict[str, Any] = json.loads((self.out / name).read_text())
        return kept


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


def model(rows: int, *, complete: bool) -> str:
    """Bash that writes a benchmark's file, the last word of the command."""
    kept = {"benchmark": "model", "complete": complete, "rows": [{"seconds": 1.0}] * rows}
    return f"echo {shlex.quote(json.dumps(kept))} >$last\n"


def test_bash_can_read_it() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
    assert os.access(SCRIPT, os.X_OK)


def test_a_part_is_rehearsed_on_a_bare_machine_and_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(MISSING)
    env = {"PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "LONGTAKE_COMMIT": "abc"}
    done = run(tmp_path, "--only", "step", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no GPU here: this is a rehearsal on the CPU" in done.stderr
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"summary.json", "log.txt", "step.json"}
    kept, summary = (json.loads((out / name).read_text()) for name in ("step.json", "summary.json"))
    assert kept["preset"] == "tiny" and kept["eager"]["ms"] > 0 and kept["ours"] is None
    assert kept["rehearsal"] == summary["rehearsal"] and "rehearsal on the CPU" in kept["rehearsal"]
    assert "##### a rehearsal on the CPU" in (out / "log.txt").read_text()
    assert summary["parts"]["step"]["complete"] and summary["parts"]["step"]["exit"] == 0
    assert summary["machine"]["versions"]["torch"] and summary["gpu"] is None and summary["commit"]
    before = (out / "step.json").stat().st_mtime_ns
    again = run(tmp_path, "--only", "step", **env)
    assert again.returncode == 0 and "step: done before" in again.stdout
    assert (out / "step.json").stat().st_mtime_ns == before


def test_a_part_that_is_cut_off_keeps_what_it_had(stand_in: StandIn) -> None:
    code, said = stand_in.run(model(3, complete=False) + CUT_OFF, "--only", "model")
    assert code == 3 and "model    not complete: run it again, exit 124" in said
    assert "bench model --preset base" in stand_in.calls[0]
    # The next run does not come as far.
    code, _ = stand_in.run(model(1, complete=False) + CUT_OFF, "--only", "model")
    assert code == 3 and len(stand_in.read("model.json")["rows"]) == 3
    # Of one that is killed from outside, with all that it does.
    code, _ = stand_in.run("read -r _ _ _ script _ </proc/$PPID/stat; kill -KILL $script; exit 1", "--only", "model")
    assert code == -9 and len(stand_in.read("model.before.json")["rows"]) == 3
    code, said = stand_in.run(model(4, complete=True), "--only", "model")
    assert code == 0 and len(stand_in.read("model.json")["rows"]) == 4
    assert {path.name for path in stand_in.out.iterdir()} == {"summary.json", "log.txt", "model.json"}
    code, said = stand_in.run("exit 1", "--only", "model")
    assert code == 0 and "model: done before" in said and stand_in.calls == []
    (stand_in.out / "model.json").unlink()
    code, _ = stand_in.run(model(2, complete=True), "--only", "model")
    assert code == 0 and len(stand_in.read("model.json")["rows"]) == 2


def test_test_files_that_were_run_are_not_run_again(stand_in: StandIn) -> None:
    # One file takes too long: when the others are done, the time is up.
    others = 'while (($(wc -l <"$OUT/tests.jsonl") < $(wc -l <"$WORK/wanted") - 1)); do sleep 0.05; done'
    slow = f'case $last in *token_codec*) {others}; {CUT_OFF} ;; esac; echo "2 passed, 1 skipped in 0.1s"'
    code, said = stand_in.run(slow, "--only", "tests")
    assert code == 3, said
    part = stand_in.read("summary.json")["parts"]["tests"]
    assert part["files_left"] == ["tests/kernels/test_token_codec.py"] and part["exit"] == 124
    ran = {call.split()[-1] for call in stand_in.calls}
    kernels = {str(path.relative_to(ROOT)) for path in (ROOT / "tests/kernels").glob("test_*.py")}
    assert kernels < ran and all(path.startswith("tests/operators/") for path in ran - kernels)
    code, said = stand_in.run('echo "FAILED a::b - c"; echo "1 failed, 2 passed in 0.1s"; (exit 1)', "--only", "tests")
    assert code == 1 and [call.split()[-1] for call in stand_in.calls] == ["tests/kernels/test_token_codec.py"]
    counts = f"{2 * len(ran)} passed, 1 failed, {len(ran) - 1} skipped"
    assert re.search(rf"tests    FAILED, complete, exit 1, \d+ s, {counts}", said)
    lines = [json.loads(line) for line in (stand_in.out / "tests.jsonl").read_text().splitlines()]
    assert len(lines) == len(ran) and lines[-1]["failures"] == ["a::b - c"] and lines[-1]["gpu"] == "GPU 1"


def test_a_part_that_fails_ends_the_run_with_1_after_the_others(stand_in: StandIn) -> None:
    kernels = {"benchmark": "kernels", "complete": True, "rows": []}
    act = f"""
    case "$*" in
    *"bench kernels"*) echo {shlex.quote(json.dumps(kernels))} >$last/kernels.json; touch $last/kernels.csv; exit 1 ;;
    *"bench step"*) echo '{{"benchmark": "step"}}' >$last ;;
    esac
    """
    code, said = stand_in.run(act, "--only", "kernels", "--only", "step")
    assert code == 1 and "kernels  FAILED, complete, exit 1" in said and "step     complete, exit 0" in said
    assert "bench kernels --product --minutes" in stand_in.calls[0] and "bench step --lanes 16" in stand_in.calls[1]
    summary = stand_in.read("summary.json")
    assert summary["rehearsal"] is None and summary["gpu"] == "GPU 1"
    assert not (stand_in.out / "kernels.csv").exists()
    # It stays a failure, and what had no time is not complete.
    code, _ = stand_in.run(act, "--only", "kernels", "--only", "step")
    assert code == 1 and stand_in.calls == []
    late = {**kernels, "rows": [{"ours": None, "rivals": {}, "note": "left out: the time of this run was up"}]}
    (stand_in.out / "kernels.json").write_text(json.dumps(late))
    code, _ = stand_in.run(act, "--only", "kernels")
    assert code == 1 and len(stand_in.calls) == 1


def test_rehearsals_and_figures_do_not_mix(stand_in: StandIn, tmp_path: Path) -> None:
    done = run(tmp_path, "--rehearse", "--only", "step", OUT=str(ROOT / "benchmarks/results/gpu"))
    assert done.returncode == 2 and "a rehearsal does not go where figures are kept" in done.stderr
    assert stand_in.run("echo '{}' >$last", "--only", "step")[0] == 0
    done = run(tmp_path, "--rehearse", "--only", "step")
    assert done.returncode == 2 and "holds a GPU's files; choose another folder with OUT" in done.stderr
    assert run(tmp_path, "--only", "all").returncode == 2 and run(tmp_path, "--fast").returncode == 2
