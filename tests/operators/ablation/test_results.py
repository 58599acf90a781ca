"""Rows, their summary over seeds, and the files that keep a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from longtake.operators.ablation.plots import draw
from longtake.operators.ablation.results import Row, RunResult, count_right, read_result, summarise, write_result


def rows(*right: int) -> list[Row]:
    return [
        Row(variant="full", seed=seed, test="world", snippets=64, kind="bind", right=one, total=10)
        for seed, one in enumerate(right)
    ]


def test_rows_count_each_label_and_no_padding() -> None:
    right = torch.tensor([True, False, True, True])
    found = count_right("full", 1, "world", 64, ["bind", "bind", "", "count"], right, at=0.5)
    assert [(row.kind, row.right, row.total, row.at) for row in found] == [("bind", 1, 2, 0.5), ("count", 1, 1, 0.5)]


def test_the_interval_over_seeds_is_students() -> None:
    (summary,) = summarise(rows(4, 5, 6))
    assert (summary.right, summary.total, summary.seeds, summary.mean) == (15, 30, 3, pytest.approx(0.5))
    # A standard deviation of 0.1 over three seeds: 4.303 * 0.1 / sqrt(3).
    assert summary.over_seeds == (pytest.approx(0.5 - 0.24843, abs=1e-4), pytest.approx(0.5 + 0.24843, abs=1e-4))
    assert summarise(rows(4))[0].over_seeds is None
    assert summarise(rows(0, 10))[0].over_seeds == (0.0, 1.0)


def test_a_result_is_read_back_for_its_own_plan_only(tmp_path: Path) -> None:
    result = RunResult(
        variant="full", seed=0, rows=tuple(rows(4)), seconds=1.5, cpu_seconds=1.0, notes={"parameters": 7.0}
    )
    path = tmp_path / "runs" / "full-0.json"
    assert read_result(path, "a") is None
    write_result(path, result, "a")
    assert read_result(path, "a") == result
    assert read_result(path, "b") is None
    path.write_text(path.read_text()[:40])
    assert read_result(path, "a") is None


def test_the_plot_holds_bars_grid_and_sweep(tmp_path: Path) -> None:
    grid = [
        Row(variant="full", seed=0, test=test, snippets=64, kind="needle", right=3, total=4, at=at)
        for test in ("depth", "delay")
        for at in (0.0, 0.5)
    ]
    path = draw("coverage", summarise([*rows(4, 6), *grid]), tmp_path / "results.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 10_000
