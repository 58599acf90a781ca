"""A job on a cluster of two nodes (two raylets on this machine): one node dies in its middle, then its driver does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import psutil
import pytest
from tests.pipeline.indexing.held_job import HeldJob

from longtake.errors import InputError
from longtake.pipeline.indexing.actors import Session
from longtake.pipeline.table.schema import IndexReader, table_uri

RATE_HZ = 24.0


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., Path]) -> list[Path]:
    folder = tmp_path_factory.mktemp("archive")
    return [make_clip(folder / f"clip{seed}.mp4", 24, seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "object_store_memory": 100 << 20},
    )
    yield cluster
    cluster.shutdown()


def start(clips: list[Path], into: Path, model: str, address: str, hold: int) -> HeldJob:
    """A job that holds, with all its workers there."""
    options = {"model": model, "rate_hz": RATE_HZ, "decoders": 2, "ray_address": address}
    job = HeldJob([clips[0].parent], into, hold=hold, **options)
    job.wait_held()
    # A worker that starts more slowly than the others work is still to come: two of each role, spread over both nodes.
    while len(found := workers()) < 6 or len({process.ppid() for process in found}) < 2:
        time.sleep(0.02)
    return job


def workers() -> list[psutil.Process]:
    """The actors of LongTake's jobs, below this process's raylets."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = "".join(process.cmdline()[:1])
            alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            continue
        if alive and title.startswith(("ray::Encoder", "ray::Decoder", "ray::Demuxer")):
            found.append(process)
    return found


def rows_of(into: Path) -> int:
    if not (into / "snippets.lance" / "_versions").is_dir():
        return 0
    return int(lance.dataset(table_uri(str(into), "snippets")).count_rows())


def test_a_job_outlives_a_node_and_dies_with_its_driver(
    tmp_path: Path,
    clips: list[Path],
    ttm_model: str,
    cluster: Any,
    expected_tokens: Callable[..., dict[int, np.ndarray]],
) -> None:
    node = cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
    into = tmp_path / "index"
    expected = [expected_tokens(clip, ttm_model, rate_hz=RATE_HZ) for clip in clips]

    # The driver dies: its workers go, a stopped one too, and the cluster stays.
    job = start(clips, into, ttm_model, cluster.address, hold=1)
    workers()[-1].suspend()
    job.process.kill()
    job.process.communicate()
    while workers():
        time.sleep(0.02)
    kept = rows_of(into)
    assert kept > 0

    # A node dies: the job goes on without it.
    job = start(clips, into, ttm_model, cluster.address, hold=kept + 1)
    cluster.remove_node(node, allow_graceful=False)
    summary = job.summary()
    assert (summary["indexed"], summary["failed"]) == (2, 0)
    assert summary["snippets"] == sum(map(len, expected)) - kept
    reader = IndexReader.open(str(into))
    for row, tokens in zip(reader.videos(), expected, strict=True):
        assert row.status == "done"
        assert reader.numbers(row.video_id).tolist() == list(tokens)
        assert np.array_equal(reader.tokens(row.video_id)[0], np.stack(list(tokens.values())))


def test_an_address_where_nothing_answers_is_one_clear_error() -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1: no Ray cluster answers there"):
        Session(address="127.0.0.1:1")
