"""`longtake ablate`: two variants side by side in processes, the record, the plot, and going on where runs are done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longtake.jobs.main import main
from longtake.operators.ablation import coverage_track
from longtake.operators.ablation.combining import Describing
from longtake.operators.ablation.coverage import Plan
from longtake.operators.ablation.coverage_track import Budget
from longtake.operators.ablation.questions import Batches


def small_budget() -> Budget:
    return Budget(
        plan=Plan(
            describing=Describing(steps=5, snippets=32),
            batches=Batches(steps=4, videos=2, beats=(2, 8), questions=4),
        ),
        train_videos=4,
        test_videos=2,
        long_videos=1,
        needles=1,
        per_kind=2,
    )


def test_a_track_ends_with_tables_a_record_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(coverage_track, "quick_budget", small_budget)
    copy = tmp_path / "copy" / "ablate.json"
    words = ["ablate", "coverage", "--quick", "--variants", "full,no_latent", "--out", str(tmp_path / "run")]
    assert main([*words, "--processes", "2", "--device", "cpu", "--json", str(copy)]) == 0
    said = capsys.readouterr()
    assert "full, seed 0:" in said.err and "no_latent, seed 0:" in said.err
    for part in ("world, 64 snippets", "needles found", "sound delayed", "what this shows, and what it does not"):
        assert part in said.out
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    assert record["benchmark"] == "ablate coverage" and record["quick"] is True
    assert record["commit"] and record["machine"]["cores"] and record["versions"]["torch"] and record["at"]
    assert set(record["variants"]) == {"full", "no_latent"}
    row = next(row for row in record["rows"] if row["variant"] == "no_latent" and row["kind"] == "exists")
    assert 0 <= row["interval"][0] <= row["right"] / row["total"] <= row["interval"][1] <= 1
    assert json.loads(copy.read_text())["rows"] == record["rows"]
    assert (tmp_path / "run" / "results.png").stat().st_size > 10_000
    # The same command with one variant more trains that one alone.
    words[4] = "full,no_latent,no_sound"
    assert main([*words, "--processes", "1", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "full, seed 0: was done already" in said.err and "no_sound, seed 0: 0." in said.err
    again = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row for row in again["rows"] if row["variant"] != "no_sound"] == record["rows"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["coverage", "--variants", "full,nothing"], "the track coverage has full, no_sound"),
        (["coverage", "--variants", ","], "the track coverage has full"),
        (["coverage", "--seeds", "0"], "--seeds must be at least 1, not 0"),
        (["coverage", "--processes", "0"], "--processes must be at least 1, not 0"),
        (["coverage", "--device", "tpu"], "--device tpu: this machine can train on"),
        (["cooking"], "invalid choice"),
    ],
)
def test_what_cannot_be_run_is_one_line(words: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", *words, "--out", "/nonexistent/run"]) == 2
    said = capsys.readouterr().err
    assert wanted in said and said.startswith("longtake: error:") and said.count("\n") == 1
