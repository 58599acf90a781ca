"""Batches and test sets: the same for every variant, balanced, and with needles where they are said to be."""

from __future__ import annotations

import torch

from longtake.operators.ablation.coverage_track import CoverageTrack
from longtake.operators.ablation.features import delayed
from longtake.operators.ablation.questions import Batches, needle_set, question_set
from longtake.operators.ablation.results import majority_rows
from longtake.operators.synthetic.script import write_script
from longtake.operators.synthetic.training.shapes_task import ScriptPool
from longtake.operators.synthetic.training.task import PoolSpec


def pool() -> ScriptPool:
    return ScriptPool(PoolSpec(videos=4, beats=64, seed=7))


def test_a_batch_is_a_function_of_seed_and_step_and_videos_grow(prepared: CoverageTrack) -> None:
    beats, tokenizer = pool(), prepared.loaded.tokenizer
    batches = Batches(steps=20, videos=3, beats=(2, 16), questions=5)
    first, again = batches.draw(beats, tokenizer, 1, 4), batches.draw(beats, tokenizer, 1, 4)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1].ids_QL, again[1].ids_QL)
    assert not torch.equal(first[1].ids_QL, batches.draw(beats, tokenizer, 2, 4)[1].ids_QL)
    lengths = [batches.draw(beats, tokenizer, 1, step)[0].shape[1] for step in range(20)]
    assert max(lengths[:3]) < 8 and max(lengths[10:]) == 16
    assert first[1].ids_QL.shape[0] == 15


def test_a_needle_stands_at_its_depth_and_alone() -> None:
    beats = pool()
    for depth, place in ((0.0, 0), (0.5, 16), (1.0, 31)):
        test = needle_set("depth", beats, 32, depth, 3, 0)
        assert test.chosen_VT.shape == (3, 32) and test.snippets == 32
        for order in test.chosen_VT.tolist():
            assert [n for n, beat in enumerate(order) if beats.beats[beat].flashes] == [place]
        assert all(place <= question.moments[0][0] < place + 1 for question in test.asked)


def test_a_question_set_pads_what_a_video_lacks_and_splits_by_video() -> None:
    beats = pool()
    test = question_set("world", beats, [list(range(64)), list(range(64, 128))], 3, 0.3, 0)
    assert len(test.asked) == len(test.labels) == 2 * 6 * 3
    second = test.part(1, 2)
    assert second.asked == test.asked[18:] and second.chosen_VT.tolist() == [list(range(64, 128))]
    assert set(test.labels) >= {"needle", "bind", "exists"}
    for row in majority_rows(test, "world"):
        answers = [q.answer for q, label in zip(test.asked, test.labels, strict=True) if label == row.kind]
        assert row.total == len(answers) and row.right == max(answers.count(answer) for answer in answers)


def test_delayed_sound_moves_by_the_delay_and_stays_in_the_video() -> None:
    script = write_script(3, 16)
    late = delayed(script, 0.5)
    assert late.things == script.things and late.beats == script.beats
    assert [s.start_s for s in late.sounds] == [s.start_s + 0.5 for s in script.sounds if s.stop_s + 0.5 <= 16]
    assert delayed(script, 0.0) == script
