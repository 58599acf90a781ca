"""Stream models: what each way of writing lets the decoder read, and that it learns."""

from __future__ import annotations

import random

import pytest
import torch

from longtake.operators.ablation.combining import Describing
from longtake.operators.ablation.memory_track import STATE_PARTS, MemoryBudget, MemoryTrack, states
from longtake.operators.ablation.memory_track import VARIANTS as MEMORY
from longtake.operators.ablation.questions import Batches
from longtake.operators.ablation.state_tracking import PARTS
from longtake.operators.ablation.stream import StreamModel, StreamVariant, stream_config
from longtake.operators.ablation.track import Step
from longtake.operators.ablation.tracking_track import VARIANTS as TRACKING
from longtake.operators.ablation.tracking_track import TrackingBudget, TrackingTrack
from longtake.operators.model.presets import tiny
from longtake.operators.synthetic.questions import Question, ask
from longtake.operators.synthetic.script import BEAT_S, COLOURS, SHAPES, SOUNDS
from longtake.operators.synthetic.training.shapes_task import ScriptPool
from longtake.operators.synthetic.training.task import PoolSpec

CONFIG = stream_config(tiny(), 4, 1, "test")


def model(variant: StreamVariant) -> StreamModel:
    torch.manual_seed(0)
    return StreamModel(variant, CONFIG).eval()


@pytest.mark.parametrize("variant", [*MEMORY, *TRACKING], ids=lambda variant: variant.name)
def test_no_more_than_the_memory_is_read(variant: StreamVariant) -> None:
    tokens_VTmD = torch.randn(2, 40, 4, 96)
    with torch.inference_mode():
        for memory in model(variant).write(tokens_VTmD, [3, 40]):
            assert memory.shape[0] == 2 and bool(memory.isfinite().all())
            if variant.memory:
                assert memory.shape[1] * memory.shape[2] <= variant.memory
    assert variant.memory == 0 or memory.shape[1] * memory.shape[2] == variant.memory


@pytest.mark.parametrize(
    ("writer", "heard"),
    [
        # Which of 16 snippets can change a memory of 16 tokens (4 snippets) at all.
        ("fifo", [12, 13, 14, 15]),
        ("uniform", [2, 6, 10, 14]),
        ("mean", range(16)),
        ("latent_last", range(16)),
        ("ttm", range(16)),
        ("none", []),
    ],
)
def test_only_what_the_rule_keeps_reaches_the_memory(writer: str, heard: list[int]) -> None:
    one = model(StreamVariant(name="one", says="", writer=writer, memory=16))  # type: ignore[arg-type]
    tokens_VTmD = torch.randn(1, 16, 4, 96)
    ids_QL = torch.arange(8)[None]
    everywhere_QL = torch.ones_like(ids_QL, dtype=torch.bool)
    with torch.inference_mode():
        before = one.answer(one.write(tokens_VTmD, [16])[0], ids_QL, everywhere_QL)
        changed = []
        for snippet in range(16):
            other = tokens_VTmD.clone()
            other[:, snippet] += torch.randn(4, 96)
            after = one.answer(one.write(other, [16])[0], ids_QL, everywhere_QL)
            if not torch.equal(before, after):
                changed.append(snippet)
    assert changed == list(heard)


@pytest.mark.parametrize("writer", ["ttm", "latents", "tokens", "latent_last", "fifo"])
def test_a_cut_reads_nothing_that_comes_later(writer: str) -> None:
    one = model(StreamVariant(name="one", says="", writer=writer, memory=16))  # type: ignore[arg-type]
    tokens_VTmD = torch.randn(2, 12, 4, 96)
    other = tokens_VTmD.clone()
    other[:, 7:] = 0
    with torch.inference_mode():
        first, whole = one.write(tokens_VTmD, [7, 12])
        again, changed = one.write(other, [7, 12])
    torch.testing.assert_close(first, again)
    assert not torch.allclose(whole, changed)


@pytest.mark.parametrize("writer", ["fifo", "uniform", "mean"])
def test_memories_at_several_cuts_equal_those_written_one_by_one(writer: str) -> None:
    one = model(StreamVariant(name="one", says="", writer=writer, memory=16))  # type: ignore[arg-type]
    tokens_VTmD = torch.randn(2, 12, 4, 96)
    # Two cuts before the memory is full, two after.
    cuts = [1, 3, 7, 12]
    with torch.inference_mode():
        together = one.write(tokens_VTmD, cuts)
        for cut, memory in zip(cuts, together, strict=True):
            assert memory.shape == (2, min(cut, 4), 4, 96)
            torch.testing.assert_close(memory, one.write(tokens_VTmD[:, :cut], [cut])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", [*MEMORY[:6], *TRACKING], ids=lambda variant: variant.name)
def test_snippets_stand_at_the_numbers_given(variant: StreamVariant) -> None:
    one = model(variant)
    tokens_VTmD = torch.randn(1, 12, 4, 96)
    ids_QL = torch.arange(8)[None]

    def answered(positions_T: torch.Tensor | None) -> torch.Tensor:
        everywhere_QL = torch.ones_like(ids_QL, dtype=torch.bool)
        return one.answer(one.write(tokens_VTmD, [12], positions_T)[0], ids_QL, everywhere_QL, positions_T)

    with torch.inference_mode():
        plain = answered(None)
        torch.testing.assert_close(answered(torch.arange(12)), plain)
        # What a fixed rule keeps is numbered by its place among what is kept.
        assert torch.equal(answered(torch.arange(12) * 7), plain) == (
            variant.writer in ("fifo", "uniform", "mean", "none")
        )


def test_a_memory_of_broken_snippets_is_refused() -> None:
    with pytest.raises(ValueError, match="18 memory tokens are not whole snippets of 4"):
        model(StreamVariant(name="one", says="", writer="fifo", memory=18))


def memory_track(folder) -> MemoryTrack:  # type: ignore[no-untyped-def]
    batches = Batches(steps=30, videos=4, beats=(2, 6), questions=6, captions=0, spans=0.0)
    budget = MemoryBudget(
        describing=Describing(steps=40, snippets=64),
        batches=batches,
        train_videos=3,
        pool_videos=3,
        test_videos=2,
        per_kind=2,
        lengths=(8, 16),
    )
    return MemoryTrack(folder, budget, "cpu", 0)


def tracking_track(folder) -> TrackingTrack:  # type: ignore[no-untyped-def]
    budget = TrackingBudget(
        describing=Describing(steps=40, snippets=64),
        steps=30,
        videos=4,
        questions=2,
        train_videos=4,
        pool_videos=3,
        test_videos=3,
    )
    return TrackingTrack(folder, budget, "cpu", 0)


@pytest.mark.parametrize(("make", "variant"), [(memory_track, "ttm_16"), (tracking_track, "full")])
def test_a_run_learns_and_scores_every_test(make, variant: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    track = make(tmp_path)
    steps: list[Step] = []
    track.prepare(steps.append)
    described = [step.loss for step in steps if step.stage == "snippets"]
    assert len(described) == 40 and sum(described[-8:]) < 0.7 * sum(described[:8])
    result = track.run(variant, 0, steps.append)
    losses = [step.loss for step in steps if step.stage == "questions"]
    assert len(losses) == 30 and sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert {(row.test, row.snippets, row.at) for row in result.rows} == {
        (name, test.snippets, at) for name, at, test in track.tests()
    }
    count = len(steps)
    track.prepare(steps.append)
    assert len(steps) == count, "tokens are computed once"


def test_what_a_memory_is_told_answers_every_question_that_is_asked() -> None:
    pool = ScriptPool(PoolSpec(videos=4, beats=64, seed=9))
    rng = random.Random(0)
    asked = set()
    for script in [pool.script(pool.arrange(rng, 40)) for _ in range(4)]:
        for cut, row in zip((1, 20, 40), states(script, (1, 20, 40)), strict=True):
            assert all(0 <= value < values for value, values in zip(row, STATE_PARTS, strict=True))
            for kind in ("needle", "bind", "first", "last", "count") * 20:
                question = ask(rng, script, kind, (0.0, cut * BEAT_S))  # type: ignore[arg-type]
                if question is not None:
                    told = as_told(row, question)
                    assert question.answer == told or question.answer in told.split(), (question, row)
                    asked.add((kind, cut))
    assert {kind for kind, cut in asked if cut == 40} == {"needle", "bind", "first", "last", "count"}


def as_told(row: list[int], question: Question) -> str:
    """What a row of `STATE_PARTS` says to a question."""
    place = 0
    if question.kind != "needle":
        (name,) = set(SOUNDS) & set(question.text.split())
        place = 2 + 5 * SOUNDS.index(name)
        if question.kind == "count":
            return str(row[place])
        place += 3 if question.kind == "last" else 1
    return f"{COLOURS[row[place] - 1]} {SHAPES[row[place + 1] - 1]}" if row[place] else "nothing"


def test_memory_is_told_at_the_end_and_before_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    spread = 0
    for batch in memory_track(tmp_path).batches(3):
        assert batch.told[-1] == batch.chosen_VT.shape[1] == batch.cuts[0] and min(batch.told) >= 1
        assert batch.states_VCP is not None
        assert batch.states_VCP.shape == (4, len(batch.told), len(STATE_PARTS))
        if batch.positions_T is not None:
            spread += 1
            assert len(batch.positions_T) == batch.told[-1] and bool((batch.positions_T.diff() > 0).all())
            assert int(batch.positions_T[0]) >= 0 and int(batch.positions_T[-1]) < 16, "the longest test's numbers"
    assert 5 <= spread <= 25


def test_batches_of_a_seed_are_the_same_and_cut_within_the_video(tmp_path) -> None:  # type: ignore[no-untyped-def]
    track = tracking_track(tmp_path)
    first, again = list(track.batches(3)), list(track.batches(3))
    assert len(first) == 30 and set(PARTS) == {"colour", "shape", "place", "sound"}
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.chosen_VT, other.chosen_VT) and one.cuts == other.cuts
        assert one.states_VCP is not None and one.states_VCP.shape[:2] == one.chosen_VT.shape
        assert one.cuts[-1] <= one.chosen_VT.shape[1] and min(one.cuts) >= 1 and len(one.questions) == len(one.cuts)
    assert not torch.equal(first[5].questions[0].ids_QL, next(iter(track.batches(4))).questions[0].ids_QL)
