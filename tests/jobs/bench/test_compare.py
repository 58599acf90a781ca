"""Comparing two runs of the kernel benchmark, from their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longtake.jobs.bench import compare
from longtake.jobs.main import main


def write_run(path: Path, times: dict[str, float | None], **other: Any) -> Path:
    """A record with one row a name; None is a kernel that failed its check."""
    rows = [
        {
            "op": "op",
            "case": name,
            "dtype": "bfloat16",
            "direction": "forward",
            "check": {"ok": ms is not None, "reason": None},
            "ours": {"ms": ms, "p20_ms": ms, "p80_ms": ms} if ms is not None else None,
        }
        for name, ms in times.items()
    ]
    kept = {
        "benchmark": "kernels", "complete": True, "rows": rows, "commit": "a", "versions": {"torch": "2.11.0"},
        "machine": {"gpu": {"name": "NVIDIA H200", "driver": "580.1"}},
    }  # fmt: skip
    path.write_text(json.dumps({**kept, **other}))
    return path


def test_compare_flags_what_got_slower_by_over_a_twentieth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write_run(tmp_path / "a.json", {"same": 1.0, "faster": 1.0, "slower": 1.0, "gone": 1.0, "wrong": 1.0})
    after = write_run(tmp_path / "b.json", {"same": 1.05, "faster": 0.5, "slower": 1.06, "new": 1.0, "wrong": None})
    assert main(["bench", "compare", str(before), str(after)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["op", "case", "dtype", "direction", "before", "ms", "after", "ms", "change"]
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "op same bfloat16 forward 1.0000 1.0500 +5.0 %",
        "op faster bfloat16 forward 1.0000 0.5000 -50.0 %",
        "op slower bfloat16 forward 1.0000 1.0600 +6.0 % SLOWER",
        "op wrong bfloat16 forward 1.0000 - FAILED ITS CHECK",
        f"only in {before}: op gone bfloat16 forward",
        f"only in {after}: op new bfloat16 forward",
        "4 kernels compared, 2 got slower by over 5% or lost their time",
    ]
    assert main(["bench", "compare", str(before), str(before)]) == 0


def test_compare_tells_what_else_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write_run(tmp_path / "a.json", {"a": 1.0})
    versions = {"torch": "2.12.0", "triton": "3.7.0"}
    gpu = {"gpu": {"name": "NVIDIA H100", "driver": "580.1"}}
    after = write_run(tmp_path / "b.json", {"a": 1.0}, versions=versions, machine=gpu, commit="b", complete=False)
    assert main(["bench", "compare", str(before), str(after)]) == 0
    assert capsys.readouterr().out.splitlines()[:5] == [
        "GPU name: NVIDIA H200 before, NVIDIA H100 after",
        "torch: 2.11.0 before, 2.12.0 after",
        "triton: None before, 3.7.0 after",
        "commit: a before, b after",
        "the run after did not come to its end",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "is no JSON"),
        ('{"benchmark": "index"}', "is no record of `longtake bench kernels`"),
    ],
)
def test_compare_takes_records_of_the_kernels_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    good = write_run(tmp_path / "a.json", {"a": 1.0})
    bad = tmp_path / "b.json"
    if content is not None:
        bad.write_text(content)
    assert main(["bench", "compare", str(good), str(bad)]) == 2
    assert f"{bad}: {said}" in capsys.readouterr().err


def test_compare_refuses_runs_without_a_timed_kernel_in_common(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "a.json", {"a": 1.0}), write_run(tmp_path / "b.json", {"b": 1.0})
    assert main(["bench", "compare", str(one), str(other)]) == 2
    kept = compare.read(one)
    assert list(compare.by_key(kept)) == [("op", "a", "bfloat16", "forward")]
