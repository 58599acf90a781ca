"""`submit`, `jobs`, `logs` and `stop` against a real Ray cluster, started for these tests and ended with them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lance
import psutil
import pytest

from longtake.errors import InputError
from longtake.pipeline.bench.loop_clip import loop_clip
from longtake.pipeline.indexing.cluster import get_job, list_jobs, read_logs, stop
from longtake.pipeline.table.schema import IndexReader, table_uri

ROOT = Path(__file__).resolve().parents[2]
# Ray asks for a token, or not, by what it finds in the home folder; here the head and its users must agree.
AUTH = {"RAY_AUTH_MODE": "disabled"}
ENV = {**os.environ, **AUTH, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def free_ports(count: int) -> list[int]:
    """Below those that the kernel gives out by itself: nobody else is given one before it is used."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            listening = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listening.bind(("127.0.0.1", random.SystemRandom().randrange(20_000, 32_000)))
                found.append(int(listening.getsockname()[1]))
        return found


def longtake(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "longtake.jobs.main", *map(str, words)]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done


@dataclass(frozen=True)
class Head:
    """A running head: where its job server is, where other nodes join it, and its folder."""

    address: str
    joins: str
    folder: Path


def start_ray(options: list[str], said: Path, **env: str) -> subprocess.Popen[bytes]:
    """A node that stays in the foreground: with --block Ray's servers are this process's children."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=2"]
    with said.open("w") as output:
        return subprocess.Popen(
            [*ray, "--object-store-memory=120000000", *options],
            env={**ENV, **env},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # A socket's path has 107 characters at most, and pytest's folders are too deep for that.
    folder = Path(tempfile.mkdtemp(prefix="lt"))
    port, dashboard, client, agent = free_ports(4)
    places = [f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"]
    ports = [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    said = folder / "head.txt"
    # On a busy machine the job server alone takes more than its usual minute to start.
    process = start_ray(["--head", *places, *ports], said, RAY_DASHBOARD_STARTUP_TIMEOUT_S="900")
    place = f"http://127.0.0.1:{dashboard}"
    try:
        while True:
            try:
                assert list_jobs(address=place) == []
                break
            except InputError:
                assert process.poll() is None, f"the Ray head did not start: {said.read_text()}"
                time.sleep(0.3)
        yield Head(place, f"127.0.0.1:{port}", folder)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def address(head: Head) -> str:
    """The job server of a one-node cluster."""
    return head.address


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def actors(node: subprocess.Popen[bytes]) -> list[str]:
    """The kinds of LongTake's actors below a node's raylet."""
    titles = []
    for process in family(node):
        with contextlib.suppress(psutil.NoSuchProcess):
            titles += [word for word in process.cmdline()[:1] if word.startswith("ray::")]
    return [kind for kind in ("Encoder", "Decoder", "Demuxer") for title in titles if title.startswith(f"ray::{kind}")]


@pytest.fixture
def second_node(head: Head) -> Iterator[subprocess.Popen[bytes]]:
    """One more raylet that has joined the cluster."""
    said = head.folder / "node.txt"
    [agent] = free_ports(1)
    process = start_ray([f"--address={head.joins}", f"--dashboard-agent-listen-port={agent}"], said)
    while "This node has joined" not in said.read_text() and "Ray runtime started" not in said.read_text():
        assert process.poll() is None, f"the node did not start: {said.read_text()}"
        time.sleep(0.3)
    yield process
    kill_node(process)


def kill_node(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL everything of a node at once, as when its machine is lost."""
    if process.poll() is None:
        for member in reversed(family(process)):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


def wait_in_job(state: Callable[[], bool], name: str, address: str) -> None:
    """Return when the state has come, which it does before the job is over."""
    while not state():
        assert not get_job(name, address=address).is_over, read_logs(name, address=address)
        time.sleep(0.05)


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


def test_a_submitted_job_outlives_one_of_its_two_nodes(
    head: Head, second_node: subprocess.Popen[bytes], tmp_path: Path, media: Path, index_writer
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for number in range(3):
        # Long enough for the second node to be at work before the first one is done.
        loop_clip(media / "big_buck_bunny_30s.webm", archive / f"film{number}.webm", 150.0)
        # Another content, so that each is a video of its own: what follows the last cluster is not read.
        with (archive / f"film{number}.webm").open("ab") as file:
            file.write(b"\xec\x81" + bytes([number]))
    into = tmp_path / "two.lt"
    options = ["--into", into, "--model", index_writer.checkpoint, "--rate", "24", "--decoders", "2"]
    name = longtake("submit", archive, *options, "--address", head.address).stdout.strip()

    def rows() -> int:
        there = (into / "snippets.lance" / "_versions").is_dir()
        return int(lance.dataset(table_uri(str(into), "snippets")).count_rows()) if there else 0

    # Each node has an encoder of its own.
    wait_in_job(lambda: rows() > 0 and "Encoder" in actors(second_node), name, head.address)
    kept = rows()
    kill_node(second_node)

    followed = longtake("logs", name, "--follow", "--address", head.address)
    assert followed.stderr == f"longtake: {name} succeeded\n"
    assert "3 videos: 3 indexed, 0 skipped, 0 failed" in followed.stdout
    reader = IndexReader.open(str(into))
    videos = reader.videos()
    assert [row.status for row in videos] == ["done"] * 3
    numbers = [reader.numbers(row.video_id).tolist() for row in videos]
    assert numbers[0] == list(range(len(numbers[0]))) and numbers == [numbers[0]] * 3, "none lost, none twice"
    assert kept < sum(map(len, numbers)), "the node died while there was work left"


def test_a_stopped_job_leaves_an_index_to_go_on_with(address: str, tmp_path: Path, media: Path, index_writer) -> None:
    into = tmp_path / "stopped.lt"
    options = ["--into", into, "--model", index_writer.checkpoint, "--rate", "24", "--address", address]
    # Long enough to be surely under way when it is stopped.
    loop_clip(media / "big_buck_bunny_30s.webm", tmp_path / "long.webm", 1800.0)
    said = longtake("submit", tmp_path / "long.webm", *options, "--json").stdout
    name = json.loads(said)["job"]

    def begun() -> bool:
        with contextlib.suppress(InputError):
            return bool(IndexReader.open(str(into)).videos())
        return False

    wait_in_job(begun, name, address)
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
    place = f"http://127.0.0.1:{free_ports(1)[0]}"
    done = longtake("jobs", "--address", place, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"longtake: error: {place}: no Ray job server answers there")
    assert done.stderr.count("\n") == 1
