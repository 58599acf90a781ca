"""Rows, their summary over seeds, and the files that keep a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from longtake.errors import InputError
from longtake.operators.ablation.plots import draw
from longtake.operators.ablation.results import (
    Row,
    RunResult,
    count_right,
    fingerprint,
    read_result,
    result_path,
    students_interval,
    summarise,
    take_over,
    write_result,
)


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


def test_the_interval_of_differences_is_not_cut() -> None:
    assert students_interval([3.0]) is None
    # A standard deviation of 10 over two seeds: 12.706 * 10 / sqrt(2).
    low, high = students_interval([-10.0, 4.1421356]) or (0, 0)
    assert (low, high) == (pytest.approx(-92.78, abs=0.01), pytest.approx(86.92, abs=0.01))


def test_runs_of_a_record_are_taken_over_for_its_own_plan_only(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = {
        "plan": fingerprint("a"),
        "runs": [
            {"variant": "full", "seed": seed, "seconds": 2.0, "cpu_seconds": 1.0, "parameters": 7.0} for seed in (0, 1)
        ],
        "rows": [{**vars(row), "interval": [0.1, 0.9]} for row in rows(4, 6)],
    }
    path.write_text(json.dumps(record))
    mine = RunResult(variant="full", seed=0, rows=tuple(rows(9)), seconds=1.5, cpu_seconds=1.0, notes={})
    write_result(result_path(tmp_path, "full", 0), mine, "a")
    # What is there stays.
    (taken,) = take_over(path, tmp_path, "a", ["full"])
    assert taken == RunResult(
        variant="full", seed=1, rows=(rows(0, 6)[1],), seconds=2.0, cpu_seconds=1.0, notes={"parameters": 7.0}
    )
    assert read_result(result_path(tmp_path, "full", 0), "a") == mine
    assert read_result(result_path(tmp_path, "full", 1), "a") == taken
    assert take_over(path, tmp_path, "a", ["full"]) == []
    with pytest.raises(InputError, match=r"record.json: its runs were trained under another plan"):
        take_over(path, tmp_path, "b", ["full"])
    with pytest.raises(InputError, match=r"record.json: its runs were trained under another plan"):
        take_over(path, tmp_path, "a", ["no_sound"])
    path.write_text(json.dumps({name: value for name, value in record.items() if name != "plan"}))
    with pytest.raises(InputError, match=r"record.json: says nothing of the plan .* older version"):
        take_over(path, tmp_path, "a", ["full"])
    for text, wanted in (
        (json.dumps({**record, "rows": [{}]}), "TypeError"),
        ("{", "JSONDecodeError"),
        ("{}", "rows"),
        ("[]", "AttributeError"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=rf"record.json: not a record of longtake ablate .*{wanted}"):
            take_over(path, tmp_path, "a", ["full"])
    with pytest.raises(InputError, match=r"none.json: No such file"):
        take_over(tmp_path / "none.json", tmp_path, "a", ["full"])


def test_the_plot_holds_bars_grid_and_sweep(tmp_path: Path) -> None:
    grid = [
        Row(variant="full", seed=0, test=test, snippets=64, kind="needle", right=3, total=4, at=at)
        for test in ("depth", "delay")
        for at in (0.0, 0.5)
    ]
    path = draw("coverage", summarise([*rows(4, 6), *grid]), tmp_path / "results.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 10_000
