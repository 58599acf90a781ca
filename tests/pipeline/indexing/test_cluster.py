"""A job on a cluster of two nodes (two raylets on this machine): one node dies in its middle, then its driver does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import psutil
import pytest

from longtake.errors import InputError
from longtake.pipeline.indexing.actors import Session
from longtake.pipeline.table.schema import IndexReader, table_uri

RATE_HZ = 24.0
DRIVER = """
import dataclasses, json, sys
from longtake.pipeline.indexing.index import IndexOptions, index
from longtake.pipeline.media.plan import Sampling

options = IndexOptions(
    into=sys.argv[2], model=sys.argv[3], sampling=Sampling(rate_hz=24.0), commit_s=0.0, decoders=2, budget_bytes=1,
    ray_address=sys.argv[4],
)
summary = index([sys.argv[1]], options)
print(json.dumps({**dataclasses.asdict(summary), "failures": len(summary.failures)}))
"""


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


def start(clips: list[Path], into: Path, model: str, address: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(clips[0].parent), str(into), model, address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


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


def wait_for_rows(into: Path, rows: int, driver: subprocess.Popen[str]) -> None:
    stop = time.monotonic() + 300
    while rows_of(into) < rows:
        assert driver.poll() is None, f"the job ended too early: {driver.communicate()}"
        assert time.monotonic() < stop, "it did not come to that"
        time.sleep(0.02)


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
    driver = start(clips, into, ttm_model, cluster.address)
    wait_for_rows(into, 1, driver)
    mine = workers()
    assert len(mine) >= 6, "two encoders, two demuxers, two decoders"
    assert len({process.ppid() for process in mine}) == 2, "they are spread over both nodes"
    mine[-1].suspend()
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(mine, timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    kept = rows_of(into)
    assert kept > 0

    # A node dies: the job goes on without it.
    driver = start(clips, into, ttm_model, cluster.address)
    wait_for_rows(into, kept + 1, driver)
    assert len({process.ppid() for process in workers()}) == 2
    cluster.remove_node(node, allow_graceful=False)
    out, err = driver.communicate(timeout=240)
    assert driver.returncode == 0, err
    summary = json.loads(out)
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
