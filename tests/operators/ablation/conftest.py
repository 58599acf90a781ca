"""A coverage track small enough to train in seconds, prepared once for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from longtake.operators.ablation.combining import Describing
from longtake.operators.ablation.coverage import Plan
from longtake.operators.ablation.coverage_track import Budget, CoverageTrack
from longtake.operators.ablation.questions import Batches


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_budget(steps: int = 40) -> Budget:
    batches = Batches(steps=steps, videos=4, beats=(2, 8), questions=6)
    return Budget(
        plan=Plan(describing=Describing(steps=60, snippets=64), batches=batches),
        train_videos=4,
        test_videos=2,
        long_videos=1,
        needles=1,
        per_kind=2,
    )


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> CoverageTrack:
    folder: Path = tmp_path_factory.mktemp("coverage")
    track = CoverageTrack(folder, small_budget(), "cpu", 0)
    track.prepare(lambda step: None)
    return track
