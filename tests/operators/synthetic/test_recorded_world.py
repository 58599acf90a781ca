"""A world of real material: splits, scripts, pictures, sound and questions, over a material of made pictures and tones.

Answers are derived a second time here, from what a question is about, by looking at moments of the script.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operators.synthetic.made_material import OBJECTS, SPEAKERS, TAKES, WORDS, colour, material, script_of, world

from longtake.errors import InputError
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.synthetic.questions import Kind, Question, sentence
from longtake.operators.synthetic.recorded.material import SIDE, Material, Recording
from longtake.operators.synthetic.recorded.questions import REAL_KINDS, WHEN_TOLERANCE_S
from longtake.operators.synthetic.recorded.script import RealScript, Saying, Showing, event_beats, write_real_script
from longtake.operators.synthetic.script import NOISES, Scene
from longtake.operators.synthetic.sounds import SAMPLE_RATE_HZ
from longtake.operators.synthetic.worlds import RealWorld

ALL_KINDS: tuple[Kind, ...] = (*REAL_KINDS, "caption")
SCRIPTS = st.builds(script_of, st.integers(0, 2**62), st.integers(1, 48))


# Splits


def test_the_held_out_voice_and_the_first_takes_are_for_tests_only() -> None:
    whole = material()
    train, test = (whole.split(split, "ben") for split in ("train", "test"))
    assert train.speakers == ("anna", "carl") and test.speakers == SPEAKERS
    assert {recording.voice for recording in train.recordings} == {"trained"}
    for recording in test.recordings:
        assert recording.voice == ("unseen" if recording.speaker == "ben" else "trained")
    # The first tenth of 20 takes, in order of their numbers ("10" is not after "1").
    takes = {r.take for r in test.recordings if r.speaker != "ben"}
    assert takes == {"0", "1"}
    assert {r.take for r in train.recordings} == {str(take) for take in range(2, TAKES)}
    key = [(r.label, r.speaker, r.take) for r in whole.recordings]
    parts = [(r.label, r.speaker, r.take) for part in (train, test) for r in part.recordings]
    assert sorted(parts) == sorted(key)
    assert [r.take for r in whole.split("all").recordings] == [r.take for r in whole.recordings]
    # Without a voice held out, tests are the first takes of everyone.
    assert Counter(r.speaker for r in whole.split("test").recordings) == dict.fromkeys(SPEAKERS, 2 * len(WORDS))


def test_a_wrong_split_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="no voice is named 'dora'; there are anna, ben, carl"):
        material().split("train", "dora")
    with pytest.raises(InputError, match="a split is one of train, test, all, not 'dev'"):
        material().split("dev")  # type: ignore[arg-type]
    one = dataclasses.replace(material(), recordings=tuple(r for r in material().recordings if r.speaker == "ben"))
    with pytest.raises(InputError, match="the split 'train' without ben has recordings of 0 words; at least 2"):
        one.split("train", "ben")


def test_no_video_of_the_train_split_says_a_word_that_is_for_tests() -> None:
    split = material().split("train", "carl")
    said: Counter[str] = Counter()
    for seed in range(30):
        script = write_real_script(split, seed, 32)
        assert script.voice == "trained"
        for saying in script.sayings:
            recording = split.recordings[saying.recording]
            assert recording.speaker != "carl" and int(recording.take) >= 2
            said[recording.speaker] += 1
    assert min(said["anna"], said["ben"]) > 50
    # In tests each video is of one sort of voice, and both come.
    test = material().split("test", "carl")
    voices = Counter()
    for seed in range(40):
        script = write_real_script(test, seed, 16)
        assert {test.recordings[s.recording].voice for s in script.sayings} == {script.voice}
        voices[script.voice] += 1
    assert min(voices["trained"], voices["unseen"]) >= 10


def test_a_saved_material_is_the_same_material(tmp_path: Path) -> None:
    split = material().split("test", "anna")
    split.save(tmp_path / "material.npz")
    read = Material.load(tmp_path / "material.npz")
    assert read.names == split.names and np.array_equal(read.sprites_PSS4, split.sprites_PSS4)
    for mine, other in zip(split.recordings, read.recordings, strict=True):
        assert (mine.label, mine.speaker, mine.take, mine.voice) == (
            other.label,
            other.speaker,
            other.take,
            other.voice,
        )
        assert np.array_equal(mine.samples, other.samples)
    assert write_real_script(read, 3, 20) == write_real_script(split, 3, 20)
    (tmp_path / "other.npz").write_bytes(b"no material")
    for name in ("other.npz", "missing.npz"):
        with pytest.raises(InputError, match=f"{name}: not a saved material"):
            Material.load(tmp_path / name)
    with pytest.raises(InputError, match="cannot write the material"):
        split.save(tmp_path / "no folder" / "material.npz")


def test_a_recording_or_picture_of_the_wrong_form_cannot_exist() -> None:
    with pytest.raises(ValueError, match=r"at most 1\.45 s long, not 2\.00 s"):
        Recording(label="one", speaker="a", take="0", samples=np.zeros(32_000, np.float32))
    with pytest.raises(ValueError, match="float32 of one dimension"):
        Recording(label="one", speaker="a", take="0", samples=np.zeros(10, np.float64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"1 pictures are uint8 \[1, 128, 128, 4\], not uint8 \[1, 64, 64, 4\]"):
        Material(names=("a",), sprites_PSS4=np.zeros((1, 64, 64, 4), np.uint8), recordings=())


# Scripts


@settings(max_examples=80)
@given(SCRIPTS)
def test_a_script_keeps_the_worlds_rules(script: RealScript) -> None:
    assert (script.scenes[0].start_s, script.scenes[-1].stop_s) == (0, script.duration_s)
    # At most one picture at any time, and never twice the same in a row.
    assert all(a.stop_s <= b.start_s and a.name != b.name for a, b in pairwise(script.showings))
    for showing in script.showings:
        assert 0 <= showing.start_s < showing.stop_s <= script.duration_s
        assert showing.name == OBJECTS[showing.picture]
        for local in (0.0, showing.stop_s - showing.start_s):
            room = showing.size * (1 + showing.growth * (local > 0)) - 1e-9
            assert room <= showing.x + showing.vx * local <= 1 - room
            assert room <= showing.y + showing.vy * local <= 1 - room
        assert showing.opacity((showing.start_s + showing.stop_s) / 2) == 1
    assert all(a[1] <= b[0] for a, b in pairwise(script.events)) and len(script.events) == len(script.sayings)
    for saying, (first, last) in zip(script.sayings, script.events, strict=True):
        recording = material().recordings[saying.recording]
        # Whole, in one half of an event that is no longer than it must be, with nothing else to be heard beside it.
        assert saying.stop_s - saying.start_s == pytest.approx(recording.duration_s)
        assert saying.name == recording.label and last - first == event_beats(recording)
        middle = (first + last) / 2
        low, high = (first, middle) if saying.start_s < middle else (middle, last)
        assert low <= saying.start_s < saying.stop_s <= high
        assert not [n for n in script.noises if n.start_s < saying.stop_s and n.stop_s > saying.start_s]
        assert 5 <= saying.snr_db <= 30
        # Two different pictures, one in each half, or none at all.
        shown = [script.showing_at((first + middle) / 2), script.showing_at((middle + last) / 2)]
        if None in shown:
            assert shown == [None, None]
        else:
            assert [(s.start_s, s.stop_s) for s in shown if s] == [(first, middle), (middle, last)]
    assert {n.name for n in script.noises} <= set(NOISES)
    for flash in script.flashes:
        showing = script.showing_at(flash.start_s)
        assert showing is not None and showing.start_s < flash.start_s and flash.stop_s < showing.stop_s
        assert showing.opacity(flash.start_s) == showing.opacity(flash.stop_s) == 1
    assert max(Counter(s.name for s in script.sayings).values(), default=0) <= 4


def test_the_same_seed_gives_the_same_video_and_every_kind_of_event_occurs() -> None:
    assert script_of(7, 20) == script_of(7, 20) != script_of(8, 20)
    with pytest.raises(ValueError, match="at least 1 beat, not 0"):
        script_of(1, 0)
    scripts = [script_of(seed, 64) for seed in range(40)]
    assert {s.name for script in scripts for s in script.showings} == set(OBJECTS)
    assert {s.name for script in scripts for s in script.sayings} == set(WORDS)
    assert {script.noise for script in scripts} == {"white", "pink", "brown"}
    assert {last - first for script in scripts for first, last in script.events} == {1, 2, 3}
    # Something is missing from every video, so that absence can be asked; words over an empty screen come.
    assert all({s.name for s in script.showings} < set(OBJECTS) for script in scripts)
    assert any(script.showing_at(s.start_s) is None for script in scripts for s in script.sayings)
    halves = Counter(
        s.start_s < sum(e) / 2 for script in scripts for s, e in zip(script.sayings, script.events, strict=True)
    )
    assert 0.4 < halves[True] / halves.total() < 0.6


# Pictures


@pytest.mark.parametrize(("height", "width"), [(96, 96), (96, 128), (224, 224)])
def test_a_picture_is_painted_where_it_is_and_nowhere_else(height: int, width: int) -> None:
    script = script_of(5, 24)
    checked = 0
    for showing in script.showings:
        time = (showing.start_s + showing.stop_s) / 2
        without = dataclasses.replace(script, showings=tuple(s for s in script.showings if s is not showing))
        picture, plain = (world().pictures(s, [time], height, width)[0].int() for s in (script, without))
        local = time - showing.start_s
        y, x = (showing.y + showing.vy * local) * height, (showing.x + showing.vx * local) * width
        radius = showing.size * (1 + showing.growth / 2) * height
        far = ((torch.arange(height)[:, None] + 0.5 - y) ** 2 + (torch.arange(width) + 0.5 - x) ** 2).sqrt()
        if any(f.start_s <= time < f.stop_s for f in script.flashes):
            continue
        # A disc of nine tenths of the sprite, of its own colour; one pixel at its edge is mixed.
        wanted = torch.tensor(colour(showing.picture))
        assert (picture[far < 0.9 * radius - 1.5] - wanted).abs().max() <= 1
        assert torch.equal(picture[far > 0.9 * radius + 2], plain[far > 0.9 * radius + 2])
        checked += 1
    assert checked > 15


def test_pictures_fade_grow_and_turn() -> None:
    plain = Scene(kind="flat", start_s=0, stop_s=8, seed=0)
    base = dataclasses.replace(script_of(5, 8), scenes=(plain,))
    half = np.zeros((1, SIDE, SIDE, 4), np.uint8)
    # The upper half is red, the lower half blue: which way is up can be seen.
    half[:, : SIDE // 2], half[:, SIDE // 2 :] = (255, 0, 0, 255), (0, 0, 255, 255)
    renderer = RealWorld(dataclasses.replace(material(), names=("flag",), sprites_PSS4=half))
    still = Showing(
        name="flag",
        picture=0,
        start_s=0,
        stop_s=2,
        x=0.5,
        y=0.5,
        vx=0,
        vy=0,
        size=0.25,
        growth=0,
        angle=0,
        turn=0,
        fade_s=0.5,
    )

    def painted(time: float, **changes: float) -> torch.Tensor:
        script = dataclasses.replace(base, flashes=(), showings=(dataclasses.replace(still, **changes),))
        without = dataclasses.replace(script, showings=())
        found = [renderer.pictures(s, [time], 96, 96)[0].float() for s in (script, without)]
        return found[0] - found[1]

    whole, faint = painted(1.0), painted(0.25)
    inner = whole.abs().amax(-1) > 100
    torch.testing.assert_close(faint[inner], whole[inner] / 2, atol=1.0, rtol=0)
    assert painted(1.9)[inner].abs().mean() < 0.3 * whole[inner].abs().mean()
    # The area grows with the square of the size.
    assert whole.abs().amax(-1).gt(20).sum() == pytest.approx(48 * 48, rel=0.03)
    assert painted(1.0, growth=0.5).abs().amax(-1).gt(20).sum() == pytest.approx(60 * 60, rel=0.03)
    # A quarter turn at the middle of a half turn: clockwise, so that up comes to the right.
    turned = painted(1.0, turn=np.pi)
    assert whole[30, 48, 0] > 100 > whole[66, 48, 0]
    assert turned[48, 66, 0] > 100 > turned[48, 30, 0]


def test_frames_do_not_depend_on_which_others_are_rendered() -> None:
    script = script_of(11, 12)
    times = [(number + 0.5) / 4 for number in range(48)]
    whole = world().pictures(script, times, 50, 66)
    assert (whole.shape, whole.dtype) == ((48, 50, 66, 3), torch.uint8)
    order = random.Random(0).sample(range(48), 17)
    assert torch.equal(world().pictures(script, [times[n] for n in order], 50, 66), whole[order])
    with pytest.raises(ValueError, match=r"no scene covers 12\.0"):
        world().pictures(script, [12.0], 50, 66)


# Sound


def rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def test_words_stand_above_the_noise_by_what_the_script_says() -> None:
    seen = Counter()
    for seed in range(12):
        script = script_of(seed, 12)
        wave = world().sound(script)
        assert (wave.dtype, wave.shape) == (np.float32, (12 * SAMPLE_RATE_HZ,)) and np.abs(wave).max() <= 1
        np.testing.assert_array_equal(wave, world().sound(script))
        silent = world().sound(dataclasses.replace(script, sayings=()))
        for saying in script.sayings:
            begin, end = (round(t * SAMPLE_RATE_HZ) for t in (saying.start_s, saying.stop_s))
            word = wave[begin:end] - silent[begin:end]
            # Nothing was clipped, and nothing lies beside the word but noise, whose loudness varies from part to part.
            assert np.abs(wave[begin:end]).max() < 1
            assert 20 * np.log10(rms(word) / script.noise_rms) == pytest.approx(saying.snr_db, abs=0.01)
            assert 20 * np.log10(rms(word) / rms(silent[begin:end])) == pytest.approx(saying.snr_db, abs=3.5)
            recording = material().recordings[saying.recording].samples
            assert np.corrcoef(word, recording[: len(word)])[0, 1] > 0.9999
            seen[script.noise] += 1
    assert len(seen) == 3


def test_noises_differ_in_colour() -> None:
    script = dataclasses.replace(script_of(3, 25), sayings=(), noises=(), noise_rms=0.01)
    share = {}
    for noise in ("white", "pink", "brown"):
        wave = world().sound(dataclasses.replace(script, noise=noise))  # type: ignore[arg-type]
        assert rms(wave) == pytest.approx(0.01, rel=0.02)
        # No step in loudness where blocks of ten seconds are joined.
        assert rms(wave[10 * SAMPLE_RATE_HZ :][: SAMPLE_RATE_HZ // 10]) == pytest.approx(0.01, rel=0.35)
        power = np.abs(np.fft.rfft(wave)) ** 2
        share[noise] = power[: len(power) // 8].sum() / power.sum()
    assert share["white"] == pytest.approx(1 / 8, abs=0.01)
    assert 0.5 < share["pink"] < 0.8 and share["brown"] > 0.9


# Questions


def truth(script: RealScript, question: Question) -> tuple[str, int]:
    """The answer and how many moments prove it, from the script's moments alone."""
    start = 0.0 if question.from_s is None else question.from_s
    stop = script.duration_s if question.to_s is None else question.to_s
    sayings = [s for s in script.sayings if start <= s.start_s and s.stop_s <= stop]
    showings = [s for s in script.showings if s.start_s < stop and s.stop_s > start]
    flashes = [f for f in script.flashes if start <= f.start_s and f.stop_s <= stop]
    assert question.about is not None
    sort, _, name = question.about.partition(" ")
    text = question.text
    assert not name or name in text or question.kind == "caption"

    def shown(time: float) -> str:
        names = [s.name for s in script.showings if s.start_s <= time < s.stop_s]
        assert len(names) <= 1
        return (names or ["nothing"])[0]

    def said(showing: Showing) -> str:
        words = [s.name for s in script.sayings if showing.start_s <= s.start_s and s.stop_s <= showing.stop_s]
        assert len(words) <= 1
        return (words or ["nothing"])[0]

    of_word: list[Saying] = [s for s in sayings if s.name == name]
    of_name = [s for s in showings if s.name == name]
    found: list[Saying] | list[Showing] = of_word if sort == "word" else of_name
    index = -1 if "the last time" in text else 0
    if question.kind == "caption":
        words = " then ".join(s.name for s in showings) or "nothing"
        spoken = [f"{s.name} with {shown(s.start_s)}" for s in sayings]
        return " and ".join([words, *spoken] + ["flash"] * len(flashes)), 1
    if question.kind == "needle":
        return (shown(flashes[0].start_s), 1) if flashes else ("nothing", 0)
    if question.kind == "exists":
        if sort == "flash":
            return "yes" if flashes else "no", len(flashes)
        return "yes" if found else "no", len(found)
    if question.kind == "count":
        return str(len(found)), len(found)
    if question.kind in ("bind", "first", "last"):
        assert sort == "word" and (len(of_word) != 1 if question.kind != "bind" else len(of_word) <= 1)
        assert question.kind == "bind" or f"{question.kind} time" in text
        return (shown(of_word[index].start_s), 1) if of_word else ("nothing", 0)
    ordinal = "first time" in text or "last time" in text
    if question.kind == "said":
        assert (len(of_name) >= 2) == ordinal and of_name
        return said(of_name[index]), 1
    if question.kind == "after":
        if not of_name:
            return "nothing", 0
        (only,) = of_name
        later = [s for s in showings if s.start_s > only.start_s]
        return (later[0].name, 2) if later else ("nothing", 1)
    assert question.kind == "when" and (start, stop) == (0, script.duration_s)
    assert (len(found) >= 2) == ordinal and found
    return str(int(found[index].start_s)), 1


@settings(max_examples=200)
@given(SCRIPTS, st.sampled_from(ALL_KINDS), st.booleans(), st.integers(0, 2**32))
def test_answers_and_evidence_are_the_truth(script: RealScript, kind: Kind, on_a_span: bool, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(6):
        span = world().span(rng, script) if on_a_span else None
        question = world().ask(rng, script, kind, span)
        if question is None:
            continue
        assert question.kind == kind and (question.from_s, question.to_s) == (span or (None, None))
        answer, pieces = truth(script, question)
        assert (question.answer, len(question.moments)) == (answer, pieces), question
        low, high = span or (0, script.duration_s)
        assert all(low <= start < stop <= high for start, stop in question.moments)
        speaks = (question.about or "").startswith("word") or kind in ("said", "caption")
        assert question.voice == (script.voice if speaks else None)
        assert question.tolerance_s == (WHEN_TOLERANCE_S if kind == "when" else None)


def test_every_kind_is_asked_in_several_wordings_and_the_brute_force_has_seen_it() -> None:
    rng = random.Random(0)
    met: Counter[tuple[str, bool, bool]] = Counter()
    wordings: dict[str, set[str]] = {}
    for seed in range(60):
        script = script_of(seed, 32)
        for kind in REAL_KINDS:
            for span in (None, *(world().span(rng, script) for _ in range(6))):
                question = world().ask(rng, script, kind, span)
                if question is not None:
                    assert truth(script, question)[0] == question.answer
                    met[kind, span is not None, question.answer in ("nothing", "no")] += 1
                    name = (question.about or "").partition(" ")[2]
                    wordings.setdefault(kind, set()).add(question.text.replace(name, "x") if name else question.text)
    for kind in REAL_KINDS:
        assert len(wordings[kind]) >= 3, kind
        for on_a_span in (False, True):
            if kind == "when":
                assert (met[kind, on_a_span, False] >= 10) == (not on_a_span)
                continue
            assert met[kind, on_a_span, False] >= 10, kind
            assert met[kind, on_a_span, True] >= 1 or kind == "count", kind


@settings(max_examples=60)
@given(SCRIPTS, st.integers(0, 2**32))
def test_a_span_cuts_no_event(script: RealScript, seed: int) -> None:
    start, stop = world().span(random.Random(seed), script)
    assert 0 <= start < stop <= script.duration_s
    for first, last in script.events:
        assert not first < start < last and not first < stop < last


def test_a_kind_of_the_other_world_is_refused() -> None:
    with pytest.raises(ValueError, match=r"this world asks needle, bind, said, .*, not 'heard'"):
        world().ask(random.Random(0), script_of(0, 4), "heard")


def test_the_word_list_covers_every_question_and_answer() -> None:
    tokenizer = ChatTokenizer.from_words(world().words(), digits=True)
    rng = random.Random(3)
    seen = set()
    for seed in range(80):
        script = script_of(seed, 64 if seed % 2 else 8)
        for kind in ALL_KINDS:
            for span in (None, world().span(rng, script)):
                question = world().ask(rng, script, kind, span)
                if question is None:
                    continue
                seen.update(f"{question.text} {question.answer}".split())
                assert tokenizer.unknown_words(f"{question.text} {question.answer}") == ()
                assert tokenizer.text(sentence(question.text)) == tokenizer.text(question.text)
                assert tokenizer.decode(tokenizer.text(question.answer)) == question.answer
    # Nothing in the list is idle but digits, of which longer numbers are spelt.
    assert [word for word in world().words() if word not in seen and not word.isdecimal()] == []
