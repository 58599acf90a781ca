"""The track of coverage and alignment: what each variant is given, and that a run trains, scores and is kept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from longtake.operators.ablation.combining import TokenSource
from longtake.operators.ablation.coverage import VARIANTS, Variant
from longtake.operators.ablation.coverage_track import CoverageTrack
from longtake.operators.ablation.results import RunResult, result_path
from longtake.operators.ablation.track import Step
from longtake.operators.ablation.tracks import run_all
from longtake.operators.model import combiners

BY_NAME = {variant.name: variant for variant in VARIANTS}


def source(track: CoverageTrack, variant: Variant, training: bool = True) -> TokenSource:
    assert track._ready is not None
    torch.manual_seed(0)
    combiner = combiners.build(variant.config(track.loaded.config))
    return TokenSource(combiner, track._ready.train, variant.senses)


def test_recent_and_uniform_keep_as_many_tokens_as_full() -> None:
    for name in ("recent", "uniform"):
        variant = BY_NAME[name]
        for snippets in (8, 64, 256):
            kept = variant.kept(snippets)
            assert len(kept) * variant.tokens == snippets * BY_NAME["full"].tokens
            assert kept.tolist() == sorted(set(kept.tolist())) and int(kept[0]) >= 0 and int(kept[-1]) < snippets
    assert BY_NAME["recent"].kept(64).tolist() == list(range(48, 64))
    assert BY_NAME["uniform"].kept(8).tolist() == [2, 6]
    assert len(BY_NAME["recent"].kept(1)) == 1


@pytest.mark.parametrize("variant", VARIANTS, ids=[variant.name for variant in VARIANTS])
def test_every_variant_gives_tokens_of_its_shape(prepared: CoverageTrack, variant: Variant) -> None:
    chosen_VT = torch.tensor([[0, 5, 9], [9, 5, 0]])
    tokens = source(prepared, variant).of(chosen_VT, torch.Generator().manual_seed(1))
    assert tokens.shape == (2, 3, variant.tokens, prepared.loaded.config.width)
    assert bool(tokens.isfinite().all())


def test_what_a_variant_is_not_given_does_not_reach_its_tokens(prepared: CoverageTrack) -> None:
    assert prepared._ready is not None
    features, generator = prepared._ready.train, torch.Generator().manual_seed(1)
    sounding = next(n for n in range(len(features)) if bool(features.audio_mask_PA[n].all()))
    chosen_VT = torch.tensor([[sounding, sounding + 1]])
    other = dataclasses.replace(features, audio_PAD=features.audio_PAD.clone())
    other.audio_PAD[sounding] += 1
    for name, same in (("full", False), ("no_sound", True), ("no_picture", False), ("question_only", True)):
        before = source(prepared, BY_NAME[name])
        after = TokenSource(before.combiner, other, before.senses)
        assert torch.equal(before.of(chosen_VT, generator), after.of(chosen_VT, generator)) is same, name


def test_shuffled_sound_stays_in_its_video_and_pictures_stay_in_place(prepared: CoverageTrack) -> None:
    shuffled = source(prepared, BY_NAME["sound_shuffled"])
    chosen_VT = torch.arange(12).view(2, 6)
    seen: list[tuple[list[int], list[int]]] = []
    tokens = shuffled._tokens

    def spy(pictures_VT: torch.Tensor, sounds_VT: torch.Tensor) -> torch.Tensor:
        seen.append((pictures_VT.flatten().tolist(), sounds_VT.tolist()))
        return tokens(pictures_VT, sounds_VT)

    shuffled._tokens = spy  # type: ignore[method-assign]
    shuffled.of(chosen_VT, torch.Generator().manual_seed(0))
    pictures, sounds = seen[0]
    assert pictures == list(range(12))
    assert [sorted(row) for row in sounds] == chosen_VT.tolist()
    assert sounds != chosen_VT.tolist()


def test_a_memory_combiner_depends_on_what_came_before_and_others_do_not(prepared: CoverageTrack) -> None:
    one, two = torch.tensor([[1, 7]]), torch.tensor([[2, 7]])
    for name, same in (("ttm", False), ("full", True), ("c_abstractor", True)):
        tokens = source(prepared, BY_NAME[name])
        generator = torch.Generator().manual_seed(0)
        assert torch.equal(tokens.of(one, generator)[0, 1], tokens.of(two, generator)[0, 1]) is same, name


def test_a_run_learns_scores_every_test_and_is_not_trained_again(prepared: CoverageTrack, tmp_path: Path) -> None:
    steps: list[Step] = []
    results: list[tuple[RunResult, bool]] = []

    def train() -> RunResult:
        return run_all(
            prepared,
            tmp_path,
            ["full"],
            [3],
            processes=1,
            report=steps.append,
            on_result=lambda result, kept: results.append((result, kept)),
        )[0]

    result = train()
    losses = [step.loss for step in steps if step.stage == "questions"]
    assert len(losses) == 40 and sum(losses[-10:]) < 0.8 * sum(losses[:10])
    described = [step.loss for step in steps if step.stage == "snippets"]
    assert sum(described[-10:]) < 0.5 * sum(described[:10])
    tests = {(row.test, row.snippets) for row in result.rows}
    assert tests == {
        *(("world", n) for n in (64, 128, 256)),
        *(("depth", n) for n in (32, 64, 128, 256)),
        ("delay", 64),
    }
    assert sorted({row.at for row in result.rows if row.test == "delay"}) == [0.0, 0.25, 0.5, 1.0]
    world = [row for row in result.rows if row.test == "world" and row.snippets == 64]
    assert {row.kind for row in world} == {"needle", "bind", "first", "last", "count", "exists"}
    assert all(0 <= row.right <= row.total and row.total > 0 for row in result.rows)
    # No delay is the same videos with the same sound.
    straight = {row.kind: row.right for row in result.rows if row.test == "delay" and row.at == 0.0}
    assert straight == {row.kind: row.right for row in world}
    count = len(steps)
    again = train()
    assert again == result and len(steps) == count
    assert [kept for _, kept in results] == [False, True]
    # A result of another plan is none.
    path = result_path(tmp_path, "full", 3)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "plan": "another"}))
    train()
    assert len(steps) == 2 * count and [kept for _, kept in results] == [False, True, False]
    # The same seed gives the same figures.
    assert results[2][0].rows == result.rows


def test_features_are_computed_once(prepared: CoverageTrack) -> None:
    folder = prepared.folder / "features"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    assert len(before) == 5 * 3
    steps: list[Step] = []
    prepared.prepare(steps.append)
    assert steps == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")} == before
