"""Jobs that are killed at any moment and started again: real processes, real SIGKILL, an embedded Ray each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lance
import numpy as np
import psutil
import pytest

from longtake.errors import LongTakeError
from longtake.pipeline.table.schema import IndexReader, table_uri

RATE_HZ = 24.0
# Everything of a killed job has to be gone by then; workers earlier.
ALL_GONE_S, WORKERS_GONE_S = 90.0, 10.0

DRIVER = """
import dataclasses, json, sys
from longtake.pipeline.indexing.index import IndexOptions, index
from longtake.pipeline.media.plan import Sampling

paths, into, model = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
options = IndexOptions(
    into=into, model=model, sampling=Sampling(rate_hz=24.0), commit_s=0.0, decoders=1, budget_bytes=1, ray_address=None
)
try:
    summary = index(paths, options)
except KeyboardInterrupt:
    sys.exit(130)
print(json.dumps({**dataclasses.asdict(summary), "failures": len(summary.failures)}))
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., Path]) -> Path:
    """Eight segments of four seconds: with a budget of one byte, eight commits at least."""
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", 32, seed=7)


def start(paths: list[Path], into: Path, model: str) -> subprocess.Popen[str]:
    """A job in a process (and a process group) of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, ",".join(map(str, paths)), str(into), model],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def rows_of(into: Path) -> int:
    """Committed rows, whatever state the index is in."""
    with contextlib.suppress(LongTakeError, ValueError, OSError):
        return IndexReader.open(str(into))._snippets.count_rows()  # type: ignore[no-any-return]
    return 0


def wait_until(condition: Callable[[], bool], driver: subprocess.Popen[str], timeout_s: float = 300) -> None:
    stop = time.monotonic() + timeout_s
    while not condition():
        assert driver.poll() is None, f"the job ended too early: {driver.communicate()}"
        assert time.monotonic() < stop, "it did not come to that"
        time.sleep(0.02)


def family(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(driver.pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def titled(processes: list[psutil.Process], title: str) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(title in part for part in process.cmdline()[:1]):
                found.append(process)
    return found


def kill_and_wait(driver: subprocess.Popen[str]) -> None:
    """SIGKILL, and see to it that nothing of the job is left in time."""
    processes = family(driver)
    workers = titled(processes, "ray::")
    driver.kill()
    driver.wait()
    began = time.monotonic()
    while alive(workers) and time.monotonic() - began < WORKERS_GONE_S:
        time.sleep(0.05)
    assert not alive(workers), "workers of a killed job live on"
    while alive(processes) and time.monotonic() - began < ALL_GONE_S:
        time.sleep(0.05)
    assert not alive(processes), "processes of a killed job live on"


def assert_whole(into: Path, expected: dict[int, np.ndarray]) -> None:
    [row] = IndexReader.open(str(into)).videos()
    reader = IndexReader.open(str(into))
    assert row.status == "done"
    assert reader.numbers(row.video_id).tolist() == list(expected)
    assert np.array_equal(reader.tokens(row.video_id)[0], np.stack(list(expected.values())))
    assert lance.dataset(table_uri(str(into), "snippets")).count_rows() == len(expected)


def test_killed_again_and_again_a_job_arrives_at_the_same_rows(
    tmp_path: Path, clip: Path, ttm_model: str, expected_tokens: Callable[..., dict[int, np.ndarray]]
) -> None:
    into = tmp_path / "index"
    expected = expected_tokens(clip, ttm_model, rate_hz=RATE_HZ)
    # While Ray's servers start; with the first rows committed; in the middle, after a resume; with the last rows
    # committed or about to be, and the video not done.
    moments = (0, 1, len(expected) // 2, len(expected) - 12)
    kept, done = 0, False
    for moment in moments:
        driver = start([clip], into, ttm_model)

        def reached(driver: subprocess.Popen[str] = driver, moment: int = moment) -> bool:
            if moment:
                return rows_of(into) >= moment
            with contextlib.suppress(psutil.NoSuchProcess):
                return any("gcs_server" in process.name() for process in family(driver))
            return False

        wait_until(reached, driver)
        kill_and_wait(driver)
        rows = rows_of(into)
        assert rows >= kept, "committed rows went missing"
        kept = rows
        if rows:
            [row] = IndexReader.open(str(into)).videos()
            # On a busy machine the last kill may come after the end: then nothing is left to do.
            done = row.status == "done"
            assert row.status == "indexing" or (done and rows == len(expected) and moment == moments[-1])
    assert 0 < kept <= len(expected)
    last = start([clip], into, ttm_model)
    out, err = last.communicate(timeout=240)
    assert last.returncode == 0, err
    summary = json.loads(out)
    assert (summary["indexed"], summary["skipped"], summary["failed"]) == (int(not done), int(done), 0)
    assert summary["snippets"] == len(expected) - kept, "what was committed is not encoded again"
    assert_whole(into, expected)


def test_an_interrupt_commits_what_is_whole(
    tmp_path: Path, clip: Path, ttm_model: str, expected_tokens: Callable[..., dict[int, np.ndarray]]
) -> None:
    into = tmp_path / "index"
    expected = expected_tokens(clip, ttm_model, rate_hz=RATE_HZ)
    driver = start([clip], into, ttm_model)
    wait_until(lambda: rows_of(into) > 0, driver)
    processes = family(driver)
    # As a terminal does it: to the whole group.
    os.killpg(driver.pid, signal.SIGINT)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, (out, err)
    assert not alive(processes)
    kept = rows_of(into)
    assert 0 < kept < len(expected)
    [row] = IndexReader.open(str(into)).videos()
    assert (row.status, row.snippets) == ("indexing", kept)
    last = start([clip], into, ttm_model)
    out, err = last.communicate(timeout=240)
    assert last.returncode == 0, err
    assert json.loads(out)["snippets"] == len(expected) - kept
    assert_whole(into, expected)
    assert err == "", "a job that succeeds says nothing"
