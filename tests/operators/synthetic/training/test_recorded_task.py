"""A world of real material in training: descriptions, pools that cut no event, voices, variations, and a short run."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.operators.synthetic.made_material import OBJECTS, WORDS, material, script_of

from longtake.errors import InputError
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.config import ModelConfig
from longtake.operators.synthetic.recorded.material import LONGEST_S
from longtake.operators.synthetic.script import BEAT_S, MAX_COUNT
from longtake.operators.synthetic.sounds import SAMPLE_RATE_HZ
from longtake.operators.synthetic.training.augment import BANDS, FRAMES, vary_pictures, vary_sound
from longtake.operators.synthetic.training.batches import tensorize
from longtake.operators.synthetic.training.cached_trainer import StoredTrainer
from longtake.operators.synthetic.training.recorded_task import SPEEDS, RecordedPool, RecordedTask, many_voices
from longtake.operators.synthetic.training.render import render_clips
from longtake.operators.synthetic.training.shapes_task import BUILT_IN_COURSE
from longtake.operators.synthetic.training.snippet_pool import LongDataset, LongStage
from longtake.operators.synthetic.training.snippet_stage import SnippetStage
from longtake.operators.synthetic.training.task import PoolSpec, draw_questions
from longtake.operators.synthetic.training.trainer import Plan, Trainer
from longtake.operators.training.losses import LossWeights
from longtake.operators.training.run import Report

SPEC = PoolSpec(videos=12, beats=64, seed=1)


@pytest.fixture(scope="module")
def task() -> RecordedTask:
    return RecordedTask(material())


@pytest.fixture(scope="module")
def pool(task: RecordedTask) -> RecordedPool:
    return task.pool(SPEC)


def test_a_description_says_what_is_seen_and_heard_in_a_beat(task: RecordedTask) -> None:
    heard = seen = 0
    for seed in range(30):
        script = script_of(seed, 40)
        for beat, row in enumerate(task.describe(script).tolist()):
            first, second, word, flash, with_word = row
            for half, value in ((0.25, first), (0.75, second)):
                showing = script.showing_at(beat + half)
                assert value == (OBJECTS_SORTED.index(showing.name) + 1 if showing else 0)
                seen += value > 0
            said = [s for s in script.sayings if beat <= (s.start_s + s.stop_s) / 2 < beat + 1]
            assert len(said) <= 1
            assert word == (sorted(WORDS).index(said[0].name) + 1 if said else 0)
            assert flash == any(f.start_s < beat + 1 and f.stop_s > beat for f in script.flashes)
            during = script.showing_at((said[0].start_s + said[0].stop_s) / 2) if said else None
            assert with_word == (OBJECTS_SORTED.index(during.name) + 1 if during else 0)
            heard += word > 0
    assert heard > 100 and seen > 500


OBJECTS_SORTED = sorted(OBJECTS)


def test_what_is_recalled_of_a_beat_is_what_came_before_it(task: RecordedTask) -> None:
    said_again = shown_again = 0
    for seed in range(20):
        script = script_of(seed, 40)
        showings, sayings = ([*sorted(some, key=lambda one: one.start_s)] for some in (script.showings, script.sayings))
        for beat, row in enumerate(task.recall(script).tolist()):
            for half, before, times in ((0.25, row[0], row[2]), (0.75, row[1], row[3])):
                now = script.showing_at(beat + half)
                earlier = [showing.name for showing in showings if now and showing.start_s < now.start_s]
                assert before == (OBJECTS_SORTED.index(earlier[-1]) + 1 if earlier else 0)
                assert times == (min(MAX_COUNT + 1, earlier.count(now.name) + 1) if now else 0)
                shown_again += times > 1
            here = [s for s in sayings if beat <= (s.start_s + s.stop_s) / 2 < beat + 1]
            until = [s.name for s in sayings if (s.start_s + s.stop_s) / 2 < beat + 1]
            assert row[4] == (until.count(here[0].name) if here else 0)
            said_again += row[4] > 1
    assert said_again > 10 and shown_again > 10
    table = torch.cat([task.recall(script_of(seed, 64)) for seed in range(40)])
    assert [int(most) < part.values for most, part in zip(table.amax(0), task.recalls, strict=True)] == [True] * 5


def test_parts_have_as_many_values_as_they_need(task: RecordedTask) -> None:
    table = torch.cat([task.describe(script_of(seed, 64)) for seed in range(40)])
    for column, part in enumerate(task.parts):
        assert sorted(set(table[:, column].tolist())) == list(range(part.values)), part


def test_a_pools_beats_are_its_videos_beats_and_each_is_in_one_run(task: RecordedTask, pool: RecordedPool) -> None:
    scripts = SPEC.scripts(task.world)
    assert torch.equal(
        torch.cat([task.describe(script) for script in scripts])[:, :2],
        torch.cat([task.describe(beat) for beat in pool.beats])[:, :2],
    )
    assert [beat for run in pool.runs for beat in run] == list(range(12 * 64))
    grouped = [*(n for runs in pool.said.values() for n in runs), *pool.flashing]
    grouped += [n for runs in pool.other.values() for n in runs]
    assert sorted(grouped) == list(range(len(pool.runs)))


def test_an_arrangement_obeys_the_worlds_rules(task: RecordedTask, pool: RecordedPool) -> None:
    rng = random.Random(0)
    absent = flashes = touching = whole_events = 0
    for number in range(60):
        beats = rng.choice((4, 9, 33, 64, 128))
        chosen = pool.arrange(rng, beats)
        assert len(chosen) == beats
        script = pool.script(chosen)
        assert script.beats == beats and script.duration_s == beats * BEAT_S
        assert max(Counter(s.name for s in script.sayings).values(), default=0) <= MAX_COUNT
        assert len(script.flashes) <= 1
        flashes += len(script.flashes)
        absent += {showing.name for showing in script.showings} != set(OBJECTS)
        # One picture at a time, in order, and none beside another of its name.
        for one, other in pairwise(script.showings):
            assert one.stop_s <= other.start_s + 1e-9
            touching += one.name == other.name and other.start_s - one.stop_s < 1e-6
        # Every word lies whole in an event of its own, and what was shown meanwhile is what its source showed.
        assert len(script.events) == len(script.sayings)
        for (first, last), saying in zip(script.events, script.sayings, strict=True):
            assert first * BEAT_S <= saying.start_s and saying.stop_s <= last * BEAT_S
            assert chosen[first:last] == list(range(chosen[first], chosen[first] + last - first))
            whole_events += last - first > 1
        if number < 10:
            described = torch.cat([task.describe(pool.beats[beat]) for beat in chosen])
            assert torch.equal(task.describe(script)[:, [0, 1, 3]], described[:, [0, 1, 3]])
    assert touching == 0 and flashes > 40 and absent > 20 and whole_events > 50


def test_two_runs_of_one_name_that_must_touch_become_one_showing(pool: RecordedPool) -> None:
    run = next(runs[0] for length, runs in pool.other.items() if length == 2)
    beats = list(pool.runs[run])
    script = pool.script([*beats, *beats])
    names = [showing.name for showing in script.showings]
    assert len(names) == 1 and script.showings[0].start_s == 0 and script.showings[0].stop_s == 4 * BEAT_S


def test_drawn_questions_cut_no_event_and_are_answered_from_the_arrangement(
    task: RecordedTask, pool: RecordedPool
) -> None:
    tokenizer = ChatTokenizer.from_words(task.world.words(), digits=True)
    rng = random.Random(1)
    kinds: Counter[str] = Counter()
    for _ in range(60):
        script = pool.script(pool.arrange(rng, 48))
        drawn = draw_questions(rng, task, script, 12, 2, 0.3)
        assert len(drawn) == 12 and [q.kind == "caption" for q in drawn[:2]] == [True, True]
        kinds.update(question.kind for question in drawn)
        for question in drawn:
            if question.from_s is not None and question.to_s is not None:
                for first, last in script.events:
                    assert not first < question.from_s < last and not first < question.to_s < last
        made = tensorize(drawn, 48, tokenizer)
        assert not (made.evidence_QT & ~made.span_QT).any()
        assert not (made.ids_QL == tokenizer.unknown).any()
    assert set(task.shares) < set(kinds)


def test_seconds_are_those_that_snippets_stand_at(pool: RecordedPool) -> None:
    task = RecordedTask(material())
    task.shares = {"when": 1}
    tokenizer = ChatTokenizer.from_words(task.world.words(), digits=True)
    stage = LongStage(videos=2, beats=(12, 30), questions=4, captions=0, spans=0.0, spread=0.5, reach=256)
    data = LongDataset(pool, task, tokenizer, stage, 20, seed=5)
    far = 0
    for step in range(20):
        batch = data[step]
        assert batch.positions_T is None or batch.positions_T.max() < 256
        positions = range(30) if batch.positions_T is None else batch.positions_T.tolist()
        made = batch.questions
        for ids, answer, evidence in zip(made.ids_QL, made.content_QL, made.evidence_QT, strict=True):
            second = int(tokenizer.decode(ids[answer].tolist()))
            assert second in [positions[beat] for beat in evidence.nonzero().flatten().tolist()]
            far += second > 30
    assert far > 20


def test_what_came_after_is_proved_by_the_later_picture(task: RecordedTask) -> None:
    rng = random.Random(2)
    tokenizer = ChatTokenizer.from_words(task.world.words(), digits=True)
    asked = [task.world.ask(rng, script_of(seed, 8), "after") for seed in range(60)]
    pairs = [question for question in asked if question is not None and len(question.moments) == 2]
    assert len(pairs) > 10
    for question, evidence in zip(pairs, tensorize(pairs, 8, tokenizer).evidence_QT, strict=True):
        start, stop = question.moments[1]
        assert evidence.nonzero().flatten().tolist() == list(range(int(start), int(stop - 1e-6) + 1))


def test_a_pool_without_every_kind_of_event_is_refused(task: RecordedTask) -> None:
    with pytest.raises(InputError, match="a pool of 3 beats lacks some kinds of event; take more videos"):
        task.pool(PoolSpec(videos=1, beats=3, seed=0))


def test_every_recording_is_also_heard_faster_and_slower_while_it_fits() -> None:
    made = material()
    voices = many_voices(made)
    per_speed = [r for r in voices.recordings if (r.label, r.speaker, r.take) == ("one", "anna", "3")]
    (plain,) = [r for r in made.recordings if (r.label, r.speaker, r.take) == ("one", "anna", "3")]
    lengths = [len(plain.samples) * 100 // percent for percent in SPEEDS]
    fitting = [length for length in lengths if length <= LONGEST_S * SAMPLE_RATE_HZ]
    assert [len(r.samples) for r in per_speed] == pytest.approx(fitting, abs=2)
    # A tone of 237 Hz sounds at 296 Hz where it is heard at 125 percent.
    fast = per_speed[-1].samples
    spectrum = np.abs(np.fft.rfft(fast * np.hanning(len(fast))))
    hz = np.fft.rfftfreq(len(fast), 1 / SAMPLE_RATE_HZ)[spectrum.argmax()]
    plain_spectrum = np.abs(np.fft.rfft(plain.samples * np.hanning(len(plain.samples))))
    plain_hz = np.fft.rfftfreq(len(plain.samples), 1 / SAMPLE_RATE_HZ)[plain_spectrum.argmax()]
    assert hz == pytest.approx(1.25 * plain_hz, rel=0.02)
    assert max(r.duration_s for r in voices.recordings) <= LONGEST_S
    assert voices.fingerprint() != made.fingerprint() == material().fingerprint()
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(2, threads))
    assert many_voices(made).fingerprint() == voices.fingerprint()
    torch.set_num_threads(threads)


def test_a_variation_mirrors_half_of_the_pictures_and_hides_little_sound() -> None:
    pictures = torch.randint(0, 255, (64, 2, 6, 8, 3), dtype=torch.uint8)
    mel = torch.rand(64, 32, 40) * 0.5
    seen, heard = vary_pictures(pictures, random.Random(3)), vary_sound(mel, random.Random(3))
    mirrored = (seen == pictures.flip(3)).flatten(1).all(1)
    assert torch.equal(seen[~mirrored], pictures[~mirrored]) and 16 < int(mirrored.sum()) < 48
    hidden = heard == -2.0
    assert 0 < hidden.float().mean() < (BANDS / 40 + FRAMES / 32) / 1.5
    # What is left is near to what it was.
    assert (heard - mel)[~hidden].abs().max() < 0.5 + 0.4
    assert torch.equal(vary_pictures(pictures, random.Random(3)), seen)
    assert torch.equal(vary_sound(mel, random.Random(3)), heard)


def test_two_worlds_take_turns_on_stored_beats_and_a_stopped_run_ends_the_same(
    world_config: ModelConfig, task: RecordedTask, tmp_path: Path
) -> None:
    config = roomy(world_config)
    stage = LongStage(videos=2, beats=(4, 10), questions=4, captions=1, spans=0.3)
    plan = Plan(
        seed=3,
        snippet_steps=4,
        snippets=SnippetStage(videos=2, beats=4),
        long_steps=4,
        long=stage,
        polish_steps=2,
        polish=stage,
        pool=PoolSpec(videos=3, beats=32, seed=1),
        stored=PoolSpec(videos=2, beats=32, seed=2),
        varied=True,
        ears=6,
        weights=LossWeights(recall=0.3),
        turns=(0, 1, 1),
        warmup=2,
    )
    tasks = (BUILT_IN_COURSE, task)

    def trainer(out: Path) -> StoredTrainer:
        return StoredTrainer(config, plan, out, tasks=tasks, workers=0, save_every=100, log_every=1)

    whole = trainer(tmp_path / "whole")
    whole.run(lambda report: None)
    assert whole.stage == "done"
    stages: set[str] = set()

    def note(report: Report) -> None:
        stages.add(report.stage)

    for _ in range(12):
        part = trainer(tmp_path / "part")
        part.run(note, stop_after=1)
        if part.stage == "done":
            break
    assert stages == {"built-in beats", "real beats", "snippets", "long", "polish"}
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, part.model.state_dict()[name]), name
    # Both worlds' parts are in the curves, each on its own turns.
    rows = [line.split(",") for line in (tmp_path / "whole" / "curves.csv").read_text().splitlines()]
    columns = {
        name: [row[rows[0].index(name)] for row in rows[1:5]] for name in ("flash", "real_flash", "object_first")
    }
    assert columns["object_first"][0] == columns["object_first"][3] == "" != columns["object_first"][1]
    ears, recall, said = (
        [row[rows[0].index(name)] != "" for row in rows[1:]] for name in ("ears", "recall", "times_said")
    )
    assert ears == [True] * 4 + [False] * 6 and recall == [False] * 4 + [True] * 6 and any(said[4:])
    other = StoredTrainer(
        config, plan, tmp_path / "part", tasks=(BUILT_IN_COURSE, RecordedTask(many_voices(material())))
    )
    with pytest.raises(InputError, match="holds a run of another plan or config"):
        other.run(lambda report: None)


def test_turns_of_tasks_that_are_not_there_are_refused(world_config: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"turns \(0, 1\) of 1 tasks"):
        Trainer(world_config, Plan(turns=(0, 1)), tmp_path)


def test_rendered_beats_of_a_real_world_are_its_pictures_and_sound(
    world_config: ModelConfig, task: RecordedTask
) -> None:
    script = script_of(5, 6)
    clips = render_clips([script], world_config, None, task.world)
    video = world_config.video
    times = [(n + 0.5) / video.frames for n in range(6 * video.frames)]
    pictures = task.world.pictures(script, times, video.height, video.width)
    assert torch.equal(clips.frames_SFHWC.flatten(0, 1), pictures)
    assert bool(clips.mel_mask_SA.all())


def roomy(config: ModelConfig) -> ModelConfig:
    """A config with room for both worlds' words."""
    import dataclasses

    return dataclasses.replace(config, text=dataclasses.replace(config.text, vocabulary=256))
