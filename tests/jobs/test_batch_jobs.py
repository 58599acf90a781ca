"""`submit`, `jobs`, `logs` and `stop` against a real Ray head, started for these tests and ended with them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from longtake.operators.errors import InputError
from longtake.pipeline.submission import list_jobs, read_logs, stop
from longtake.pipeline.tables import IndexReader

ROOT = Path(__file__).resolve().parents[2]
# Ray asks for a token, or not, by what it finds in the home folder; here the head and its users must agree.
AUTH = {"RAY_AUTH_MODE": "disabled"}
ENV = {**os.environ, **AUTH, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}

pytestmark = pytest.mark.timeout(900)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def longtake(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "longtake.jobs.main", *map(str, words)]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 or not check, done.stderr
    return done


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The job server of a one-node cluster."""
    # On a busy machine the job server alone takes more than its usual minute to start.
    env = {**ENV, "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240"}
    # A socket's path has 107 characters at most, and pytest's folders are too deep for that.
    folder = tempfile.mkdtemp(prefix="lt")
    port, dashboard, client, agent = (free_port() for _ in range(4))
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    ray.append("--object-store-memory=120000000")
    places = [f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"]
    said = Path(folder) / "head.txt"
    with said.open("w") as output:
        head = subprocess.Popen(
            [*ray, *places, f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"],
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    place = f"http://127.0.0.1:{dashboard}"
    try:
        until = time.monotonic() + 420
        while True:
            try:
                assert list_jobs(address=place) == []
                break
            except InputError:
                running = head.poll() is None and time.monotonic() < until
                assert running, f"the Ray head did not start: {said.read_text()}"
                time.sleep(0.3)
        yield place
    finally:
        # With --block Ray's servers are this process's children, and it takes them along.
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_job_indexes_on_the_cluster(address: str, tmp_path: Path, media: Path, index_writer) -> None:
    into = tmp_path / "batch.lt"
    options = ["--into", into, "--model", index_writer.checkpoint, "--frames", "16", "--address", address]
    name = longtake("submit", media / "pancake.mkv", *options).stdout.strip()
    assert name.startswith("longtake-")
    followed = longtake("logs", name, "--follow", "--address", address)
    assert "1 video: 1 indexed, 0 skipped, 0 failed" in followed.stdout
    assert followed.stderr == f"longtake: {name} succeeded\n"
    assert longtake("logs", name, "--address", address).stdout == followed.stdout
    (row,) = IndexReader.open(str(into)).videos()
    assert (row.status, row.frames) == ("done", 16)

    (job,) = json.loads(longtake("jobs", "--address", address, "--json").stdout)["jobs"]
    assert (job["name"], job["status"]) == (name, "SUCCEEDED")
    assert job["command"].startswith(f"longtake index {media}/pancake.mkv --into {into}")
    assert f"{name}  succeeded  " in longtake("jobs", "--address", address).stdout


def test_a_stopped_job_leaves_an_index_to_go_on_with(address: str, tmp_path: Path, media: Path, index_writer) -> None:
    into = tmp_path / "stopped.lt"
    options = ["--into", into, "--model", index_writer.checkpoint, "--rate", "24", "--address", address]
    said = longtake("submit", media / "big_buck_bunny_30s.webm", *options, "--json").stdout
    name = json.loads(said)["job"]
    until = time.monotonic() + 240
    while not (into / "snippets.lance").exists():
        assert time.monotonic() < until, read_logs(name, address=address)
        time.sleep(0.2)
    assert longtake("stop", name, "--address", address).stdout == f"{name} stopped\n"
    assert longtake("logs", name, "--follow", "--address", address, check=False).returncode == 1
    assert "the same command goes on from there" in read_logs(name, address=address)
    IndexReader.open(str(into)).videos()


def test_an_unknown_job_is_bad_input(address: str) -> None:
    for command in ("logs", "stop"):
        done = longtake(command, "longtake-none", "--address", address, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "longtake: error: longtake-none: the cluster knows no such job\n"
    with pytest.raises(InputError, match="knows no such job"):
        stop("longtake-none", address=address)


def test_no_cluster_is_bad_input() -> None:
    place = f"http://127.0.0.1:{free_port()}"
    done = longtake("jobs", "--address", place, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"longtake: error: {place}: no Ray job server answers there")
    assert done.stderr.count("\n") == 1
