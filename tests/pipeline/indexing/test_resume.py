"""Jobs that are killed at any moment and started again: real processes, real SIGKILL, an embedded Ray each."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import lance
import numpy as np
import psutil
import pytest
from tests.pipeline.indexing.held_job import HeldJob
from tests.pipeline.indexing.processes import alive, wait_gone

from longtake.errors import LongTakeError
from longtake.pipeline.table.schema import IndexReader, table_uri

RATE_HZ = 24.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., Path]) -> Path:
    """Eight segments of four seconds: with a budget of one byte, eight commits at least."""
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", 32, seed=7)


def start(clip: Path, into: Path, model: str, hold: int = 0) -> HeldJob:
    return HeldJob([clip], into, hold=hold, model=model, rate_hz=RATE_HZ, decoders=1)


def rows_of(into: Path) -> int:
    """Committed rows, whatever state the index is in."""
    with contextlib.suppress(LongTakeError, ValueError, OSError):
        return IndexReader.open(str(into))._snippets.count_rows()  # type: ignore[no-any-return]
    return 0


def family(job: HeldJob) -> list[psutil.Process]:
    return psutil.Process(job.process.pid).children(recursive=True)


def kill_and_wait(job: HeldJob) -> None:
    """SIGKILL, and wait until nothing of the job is left."""
    processes = family(job)
    job.process.kill()
    job.process.communicate()
    wait_gone(processes)


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
    # committed, or nearly, and the video not done.
    kept = 0
    for moment in (0, 1, len(expected) // 2, len(expected) - 12):
        job = start(clip, into, ttm_model, hold=max(1, moment))
        if moment:
            job.wait_held()
        else:
            while not any("gcs_server" in process.name() for process in alive(family(job))):
                assert job.process.poll() is None, f"the job ended too early: {job.end()}"
                time.sleep(0.02)
        kill_and_wait(job)
        rows = rows_of(into)
        assert rows >= max(kept, moment), "committed rows went missing"
        kept = rows
        if rows:
            [row] = IndexReader.open(str(into)).videos()
            assert row.status == "indexing"
    summary = start(clip, into, ttm_model).summary()
    assert (summary["indexed"], summary["failed"]) == (1, 0)
    assert summary["snippets"] == len(expected) - kept, "what was committed is not encoded again"
    assert_whole(into, expected)


def test_an_interrupt_commits_what_is_whole(
    tmp_path: Path, clip: Path, ttm_model: str, expected_tokens: Callable[..., dict[int, np.ndarray]]
) -> None:
    into = tmp_path / "index"
    expected = expected_tokens(clip, ttm_model, rate_hz=RATE_HZ)
    job = start(clip, into, ttm_model, hold=1)
    job.wait_held()
    processes = family(job)
    # As a terminal does it: to the whole group.
    os.killpg(job.process.pid, signal.SIGINT)
    code, out, err = job.end()
    assert (code, out) == (130, ""), err
    wait_gone(processes)
    kept = rows_of(into)
    assert 0 < kept < len(expected)
    [row] = IndexReader.open(str(into)).videos()
    assert (row.status, row.snippets) == ("indexing", kept)
    assert start(clip, into, ttm_model).summary()["snippets"] == len(expected) - kept
    assert_whole(into, expected)
