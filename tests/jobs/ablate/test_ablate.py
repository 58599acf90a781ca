"""`longtake ablate`: two variants side by side in processes, the record, the plot, and going on where runs are done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longtake.jobs.ablate.report import readings
from longtake.jobs.main import main
from longtake.operators.ablation import coverage_track
from longtake.operators.ablation.combining import Describing
from longtake.operators.ablation.coverage import Plan
from longtake.operators.ablation.coverage_track import Budget
from longtake.operators.ablation.questions import Batches
from longtake.operators.ablation.results import Row, RunResult


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
    # What is done can be reported while the rest is not.
    words[4] = "full,no_picture,no_sound"
    assert main([*words, "--seeds", "2", "--report"]) == 0
    capsys.readouterr()
    part = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [(run["variant"], run["seed"]) for run in part["runs"]] == [("full", 0), ("no_sound", 0)]
    words[4] = "no_picture"
    assert main([*words, "--report"]) == 2
    assert "--report: no run of no_picture is done in " in capsys.readouterr().err
    words[4] = "full,no_latent,no_sound"
    assert main([*words, "--report"]) == 0
    capsys.readouterr()
    # Elsewhere the record's runs are taken over, and nothing is trained.
    other = ["ablate", "coverage", "--quick", "--variants", "no_latent,full", "--out", str(tmp_path / "other")]
    assert main([*other, "--device", "cpu", "--add", str(tmp_path / "run" / "results.json")]) == 0
    said = capsys.readouterr()
    assert "results.json: 3 runs taken over" in said.err and said.err.count("was done already") == 2
    assert not (tmp_path / "other" / "features").exists()
    elsewhere = json.loads((tmp_path / "other" / "results.json").read_text())
    assert sorted(map(str, elsewhere["rows"])) == sorted(map(str, record["rows"]))
    assert main(["ablate", "coverage", "--device", "cpu", "--out", str(tmp_path / "full"), "--add", str(copy)]) == 2
    assert "ablate.json: its runs were trained under another plan" in capsys.readouterr().err


def run_of(variant: str, seed: int, right: int) -> RunResult:
    """A run that answered so many of ten questions in each of two tests, and none in a sweep that does not count."""
    rows = tuple(
        Row(variant=variant, seed=seed, test=test, snippets=64, kind=kind, right=found, total=10)
        for test, kind, found in (("world", "bind", right), ("world", "count", right - 1), ("delay", "bind", 0))
    )
    return RunResult(variant=variant, seed=seed, rows=rows, seconds=1.0, cpu_seconds=1.0, notes={})


def test_what_a_part_is_worth_is_told_of_runs_of_the_same_seed() -> None:
    one = [run_of("full", 0, 9), run_of("no_sound", 0, 4), run_of("no_latent", 0, 9)]
    sound, latent = readings("coverage", one)
    assert sound == "Sound (full less no_sound): +50.0 points over all kinds and tests, from +50.0 to +50.0."
    assert latent.endswith("from +0.0 to +0.0. It does not earn its place in this track.")
    # A second seed in which sound is worth 30 points: 40 +- 12.706 * 14.14 / sqrt(2), which holds nothing. The latent
    # model of seed 1 has no partner.
    two = [*one, run_of("full", 1, 6), run_of("no_sound", 1, 3)]
    sound, latent = readings("coverage", two)
    assert sound.startswith("Sound (full less no_sound): +40.0 points [-87.1 to +167.1 over 2 seeds]")
    assert sound.endswith("The seeds do not tell it from nothing.") and "+0.0 points over" in latent
    # The same loss in every seed is a loss.
    worse = [run_of("full", seed, 3) for seed in (0, 1)] + [run_of("no_sound", seed, 4) for seed in (0, 1)]
    assert readings("coverage", worse)[0].endswith("It harms in this track.")


def test_what_a_part_is_worth_is_told_length_by_length() -> None:
    def run(variant: str, right: dict[int, int]) -> RunResult:
        rows = tuple(
            Row(variant=variant, seed=0, test="world", snippets=snippets, kind=kind, right=found, total=10)
            for snippets, found in right.items()
            for kind in ("bind", "last")
        )
        return RunResult(variant=variant, seed=0, rows=rows, seconds=1.0, cpu_seconds=1.0, notes={})

    (told,) = readings("memory", [run("ttm_16", {64: 9, 512: 2}), run("latent_last_16", {64: 5, 512: 6})])
    assert told.startswith("The Turing machine's memory (ttm_16 less latent_last_16): +0.0 points over all kinds")
    assert "; at 64 / 512 snippets +40.0 / -40.0." in told


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
