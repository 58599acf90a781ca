"""The made world: scripts keep its rules, pictures and sound show what scripts say, and answers are the truth.

Answers are derived a second time here, from the question's words alone, by looking at moments of the script.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from longtake.operators.model import presets
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.log_mel import log_mel
from longtake.operators.synthetic.pictures import RGB, render_pictures, signed_distance
from longtake.operators.synthetic.questions import KINDS, Kind, Question, ask, random_span, sentence, word_list
from longtake.operators.synthetic.script import (
    COLOURS,
    MAX_COUNT,
    NOISES,
    SHAPES,
    SOUNDS,
    Script,
    Sound,
    Thing,
    write_script,
)
from longtake.operators.synthetic.sounds import SAMPLE_RATE_HZ, SYNTHS, render_sound

SCRIPTS = st.builds(write_script, st.integers(0, 2**62), st.integers(1, 48))
ALL_KINDS: tuple[Kind, ...] = (*KINDS, "caption", "heard")


def named(script: Script) -> list[Sound]:
    return [sound for sound in script.sounds if sound.name in SOUNDS]


# Scripts


@settings(max_examples=80)
@given(SCRIPTS)
def test_a_script_keeps_the_worlds_rules(script: Script) -> None:
    # Scenes tile the video.
    assert (script.scenes[0].start_s, script.scenes[-1].stop_s) == (0, script.duration_s)
    assert all(a.stop_s == b.start_s and a.start_s < a.stop_s for a, b in pairwise(script.scenes))
    # At most one thing at any time, all inside the video, and never outside the picture.
    assert all(a.stop_s <= b.start_s for a, b in pairwise(script.things))
    for thing in script.things:
        assert 0 <= thing.start_s < thing.stop_s <= script.duration_s
        for time in (0.0, thing.stop_s - thing.start_s):
            assert thing.size <= thing.x + thing.vx * time + 1e-9 and thing.x + thing.vx * time <= 1 - thing.size + 1e-9
            assert thing.size <= thing.y + thing.vy * time + 1e-9 and thing.y + thing.vy * time <= 1 - thing.size + 1e-9
    # Every sound is inside the video; a named one is inside one half of a beat, with no other sound beside it.
    for sound in script.sounds:
        assert 0 <= sound.start_s < sound.stop_s <= script.duration_s
    for sound in named(script):
        assert sound.stop_s - sound.start_s > 0.3
        assert sound.start_s // 0.5 == sound.stop_s // 0.5
        assert [s for s in script.sounds if s.start_s < sound.stop_s and s.stop_s > sound.start_s] == [sound]
    # Each named sound at most four times; at most one flash, inside a beat that one thing fills.
    assert max(Counter(s.name for s in named(script)).values(), default=0) <= MAX_COUNT
    assert len(script.flashes) <= 1
    for flash in script.flashes:
        beat = flash.start_s // 1
        assert beat < flash.start_s < flash.stop_s < beat + 1
        shown = {script.thing_at(beat + part / 16) for part in range(16)}
        assert len(shown) == 1 and None not in shown
        assert not [s for s in named(script) if beat <= s.start_s < beat + 1]


@settings(max_examples=80)
@given(SCRIPTS)
def test_a_beat_with_a_named_sound_shows_two_different_things_or_none(script: Script) -> None:
    for sound in named(script):
        beat = sound.start_s // 1
        first, second = script.thing_at(beat + 0.25), script.thing_at(beat + 0.75)
        if first is None or second is None:
            assert first is None and second is None
        else:
            assert first.colour != second.colour and first.shape != second.shape
            assert (first.start_s, first.stop_s, second.stop_s) == (beat, beat + 0.5, beat + 1)
        # One named sound a beat: which half it was heard in is what a question about the beat turns on.
        assert [s for s in named(script) if s.start_s // 1 == beat] == [sound]


def test_the_same_seed_gives_the_same_script_and_another_one_another() -> None:
    assert write_script(7, 20) == write_script(7, 20)
    assert write_script(7, 20) != write_script(8, 20)
    assert write_script(7, 20) != write_script(7, 21)
    with pytest.raises(ValueError, match="at least 1 beat, not 0"):
        write_script(1, 0)


def test_every_kind_of_event_occurs_and_none_is_everywhere() -> None:
    scripts = [write_script(seed, 64) for seed in range(60)]
    assert {t.name for s in scripts for t in s.things} == {f"{c} {p}" for c in COLOURS for p in SHAPES}
    assert {x.name for s in scripts for x in s.sounds} == {*SOUNDS, *NOISES}
    assert 0.75 < sum(bool(s.flashes) for s in scripts) / len(scripts) < 1
    times = Counter(sum(s.name == name for s in named(script)) for script in scripts for name in SOUNDS)
    assert set(times) == set(range(MAX_COUNT + 1)) and min(times.values()) > 20
    # Distractors: named sounds over an empty screen, things without a sound, sounds that no question names.
    assert any(script.thing_at(s.start_s) is None for script in scripts for s in named(script))
    silent = [sum(not _sounds_during(s, t) for t in s.things) / len(s.things) for s in scripts]
    assert min(silent) > 0.2
    assert all(any(s.name in NOISES for s in script.sounds) for script in scripts)


def _sounds_during(script: Script, thing: Thing) -> list[Sound]:
    return [s for s in named(script) if s.start_s < thing.stop_s and s.stop_s > thing.start_s]


# Pictures


def deepest_point(shape: str) -> tuple[float, float]:
    """The point of a shape farthest inside its outline."""
    axis = torch.linspace(-1, 1, 81)
    distance = signed_distance(shape, axis[None, :], axis[:, None])
    row, column = divmod(int(distance.argmin()), 81)
    return float(axis[column]), float(axis[row])


def place(thing: Thing, time_s: float, height: int, width: int) -> tuple[float, float, float]:
    """Row, column and radius of a thing, in pixels."""
    local = time_s - thing.start_s
    return (thing.y + thing.vy * local) * height, (thing.x + thing.vx * local) * width, thing.size * height


def nearest_colour(pixel: Tensor) -> tuple[str, float]:
    """The world's colour nearest to a pixel, in any of the shades that a thing may have, and how far off it is."""
    shades = torch.linspace(0.94, 1.04, 21)[:, None]
    far = {
        name: float((pixel / 255 - (torch.tensor(rgb) * shades).clamp(0, 1)).abs().amax(-1).min())
        for name, rgb in RGB.items()
    }
    name = min(far, key=lambda key: far[key])
    return name, far[name]


@pytest.mark.parametrize(("height", "width"), [(48, 64), (144, 192)])
def test_a_things_colour_and_shape_are_what_is_painted_at_its_place(height: int, width: int) -> None:
    script = write_script(3, 32)
    seen: dict[str, Thing] = {thing.shape: thing for thing in script.things}
    assert set(seen) == set(SHAPES)
    axis = torch.arange(max(height, width)) + 0.5
    for thing in seen.values():
        time = thing.start_s + 0.7 * (thing.stop_s - thing.start_s)
        picture = render_pictures(script, [time], height, width)[0].float()
        y, x, radius = place(thing, time, height, width)
        u, v = deepest_point(thing.shape)
        name, error = nearest_colour(picture[int(y + v * radius), int(x + u * radius)])
        assert name == thing.colour and error < 0.01, (thing, name, error)
        # The same moment without the thing: what differs is its shape, and nothing beyond.
        without = Script(**{**vars(script), "things": tuple(t for t in script.things if t is not thing)})
        changed = (picture - render_pictures(without, [time], height, width)[0]).abs().amax(-1) > 12
        distance = radius * signed_distance(
            thing.shape, ((axis[:width] - x) / radius)[None, :], ((axis[:height] - y) / radius)[:, None]
        )
        assert not changed[distance > 0.6].any()
        assert changed[distance < -0.6].float().mean() > 0.97


def test_shapes_and_colours_can_be_told_apart() -> None:
    axis = torch.linspace(-1, 1, 61)
    masks = {shape: signed_distance(shape, axis[None, :], axis[:, None]) < 0 for shape in SHAPES}
    for a, b in combinations(SHAPES, 2):
        overlap = float((masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum())
        assert overlap < 0.85, (a, b, overlap)
    for c, d in combinations(COLOURS, 2):
        assert max(abs(x - y) for x, y in zip(RGB[c], RGB[d], strict=True)) > 0.2, (c, d)
    with pytest.raises(ValueError, match="no shape is named 'blob'"):
        signed_distance("blob", axis, axis)


def test_one_script_looks_the_same_at_any_size() -> None:
    script = write_script(0, 24)
    times = [0.3 + number for number in range(24)]
    small = render_pictures(script, times, 48, 64).float()
    large = render_pictures(script, times, 144, 192).float().permute(0, 3, 1, 2)
    shrunk = torch.nn.functional.avg_pool2d(large, 3).permute(0, 2, 3, 1)
    error = (small - shrunk).square().flatten(1).mean(1)
    assert float(10 * torch.log10(255**2 / error).min()) > 33


def test_pictures_do_not_depend_on_which_others_are_rendered() -> None:
    script = write_script(11, 12)
    times = [(number + 0.5) / 4 for number in range(48)]
    whole = render_pictures(script, times, 30, 42)
    assert (whole.shape, whole.dtype) == ((48, 30, 42, 3), torch.uint8)
    order = random.Random(0).sample(range(48), 17)
    assert torch.equal(render_pictures(script, [times[n] for n in order], 30, 42), whole[order])
    for number in (0, 23, 47):
        assert torch.equal(render_pictures(script, [times[number]], 30, 42)[0], whole[number])


def test_the_border_is_white_while_it_flashes_and_only_then() -> None:
    script = next(s for s in (write_script(seed, 12) for seed in range(20)) if s.flashes)
    (flash,) = script.flashes
    times = [(number + 0.5) / 8 for number in range(96)]
    pictures = render_pictures(script, times, 48, 64)
    dark = render_pictures(Script(**{**vars(script), "flashes": ()}), times, 48, 64)
    border = torch.ones(48, 64, dtype=torch.bool)
    border[3:-3, 3:-3] = False
    for time, picture, plain in zip(times, pictures, dark, strict=True):
        if flash.start_s <= time < flash.stop_s:
            assert (picture[border] == 247).all()
            assert torch.equal(picture[~border], plain[~border])
            assert not (plain[border] == 247).all()
        else:
            assert torch.equal(picture, plain)
    assert sum(flash.start_s <= time < flash.stop_s for time in times) == 4


def test_a_moment_outside_the_video_has_no_picture() -> None:
    script = write_script(1, 4)
    for time in (-0.1, 4.0):
        with pytest.raises(ValueError, match=f"no scene covers {time}"):
            render_pictures(script, [0.5, time], 24, 32)


# Sound


def rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def test_sound_is_loud_where_events_are_and_ambience_elsewhere() -> None:
    # One script of each loudness of ambience, none included.
    scripts = {s.ambience: s for s in (write_script(seed, 9) for seed in range(30))}
    assert len(scripts) == 4 and 0.0 in scripts
    for script in scripts.values():
        wave = render_sound(script)
        assert (wave.dtype, wave.shape) == (np.float32, (9 * SAMPLE_RATE_HZ,))
        assert np.abs(wave).max() <= 1
        np.testing.assert_array_equal(wave, render_sound(script))
        quiet = np.ones(len(wave), dtype=bool)
        for sound in script.sounds:
            window = slice(round(sound.start_s * SAMPLE_RATE_HZ), round(sound.stop_s * SAMPLE_RATE_HZ))
            quiet[window] = False
            if sound.name in SOUNDS:
                assert rms(wave[window]) > 0.015 + 1.5 * script.ambience, sound
                # From its first tenth of a second on.
                onset = slice(window.start, window.start + SAMPLE_RATE_HZ // 10)
                assert rms(wave[onset]) > 0.015 + 1.2 * script.ambience, sound
        assert rms(wave[quiet]) == pytest.approx(script.ambience, rel=0.02)
        # Without a sound nothing changes but its own window.
        if script.sounds:
            # The last one, since a sound's noise is seeded by its number.
            fewer = render_sound(Script(**{**vars(script), "sounds": script.sounds[:-1]}))
            gone = script.sounds[-1]
            low, high = (round(t * SAMPLE_RATE_HZ) for t in (gone.start_s, gone.stop_s))
            changed = np.flatnonzero(fewer != wave)
            assert low <= changed.min() and changed.max() < high


def _ear(name: str, number: int) -> Tensor:
    """What a rendition of a sound is like: mean, spread and change of each mel, whatever its loudness."""
    rng = random.Random(f"{name} {number}")
    t = np.arange(round(rng.uniform(0.36, 0.46) * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    voice = SYNTHS[name](t, len(t) / SAMPLE_RATE_HZ, rng.uniform(0.92, 1.08), np.random.default_rng(number))
    wave = torch.from_numpy((voice * rng.uniform(0.3, 1.0) * 0.4).astype(np.float32))
    mel = log_mel(wave, presets.tiny().audio)[2:-2].clamp_min(-1.0)
    return torch.cat([mel.mean(0) - mel.mean(), mel.std(0), mel.diff(dim=0).abs().mean(0)])


def test_every_named_sound_can_be_told_from_all_others() -> None:
    heard = {name: torch.stack([_ear(name, number) for number in range(8)]) for name in SYNTHS}
    typical = {name: rows[:4].mean(0) for name, rows in heard.items()}
    for name, rows in heard.items():
        for row in rows[4:]:
            nearest = min(typical, key=lambda other: float((typical[other] - row).norm()))
            # Babble and pluck are varied on purpose, but nothing is taken for a named sound.
            assert nearest == name or (name in NOISES and nearest in NOISES), (name, nearest)
    assert set(heard) == {*SOUNDS, *NOISES}


# Questions


def truth(script: Script, question: Question) -> tuple[str, list[tuple[float, float]]]:
    """The answer to a question and the windows of its evidence, from its words and the script's moments alone."""
    start = 0.0 if question.from_s is None else question.from_s
    stop = script.duration_s if question.to_s is None else question.to_s
    text = question.text

    def shown(time: float) -> Thing | None:
        there = [t for t in script.things if t.start_s <= time < t.stop_s]
        assert len(there) <= 1
        return there[0] if there else None

    def soundings(name: str) -> list[Sound]:
        return sorted(
            (s for s in script.sounds if s.name == name and start <= s.start_s and s.stop_s <= stop),
            key=lambda s: s.start_s,
        )

    def aspect(thing: Thing | None) -> str:
        if thing is None:
            return "nothing"
        of = {"which colour": thing.colour, "which shape": thing.shape}
        return of.get(" ".join(text.split()[:2]), thing.name)

    flashes = [f for f in script.flashes if start <= f.start_s and f.stop_s <= stop]
    if text.endswith("was shown when the border flashed"):
        if not flashes:
            return aspect(None), []
        (flash,) = flashes
        return aspect(shown((flash.start_s + flash.stop_s) / 2)), [(flash.start_s, flash.stop_s)]
    if found := re.search(r"was on screen (?:the (first|last) time|while) the (\w+) sounded$", text):
        order, name = found.groups()
        heard = soundings(name)
        if order is None:
            # "While the horn sounded" has one answer only where it sounded once.
            assert len(heard) <= 1
        elif heard:
            assert len(heard) >= 2
        if not heard:
            return aspect(None), []
        event = heard[0 if order in (None, "first") else -1]
        return aspect(shown(event.start_s)), [(event.start_s, event.stop_s)]
    if found := re.fullmatch(r"how many times did the (\w+) sound", text):
        heard = soundings(found[1])
        return str(len(heard)), [(s.start_s, s.stop_s) for s in heard]
    if found := re.fullmatch(r"did the (\w+) sound", text):
        heard = soundings(found[1])
        return ("yes" if heard else "no"), [(s.start_s, s.stop_s) for s in heard]
    if text == "did the border flash":
        return ("yes" if flashes else "no"), [(f.start_s, f.stop_s) for f in flashes]
    if found := re.fullmatch(r"was a (\w+) (\w+) shown", text):
        things = [t for t in script.things if (t.colour, t.shape) == found.groups()]
        windows = [
            (max(t.start_s, start), min(t.stop_s, stop)) for t in things if t.start_s < stop and t.stop_s > start
        ]
        return ("yes" if windows else "no"), windows
    if found := re.fullmatch(r"what sounded while a (\w+) (\w+) was shown", text):
        # A thing that is shown once, so that there is one answer.
        (thing,) = [
            t for t in script.things if (t.colour, t.shape) == found.groups() and t.start_s < stop and t.stop_s > start
        ]
        during = [s.name for s in named(script) if thing.start_s <= s.start_s and s.stop_s <= thing.stop_s]
        assert len(during) <= 1
        return (during or ["nothing"])[0], [(max(thing.start_s, start), min(thing.stop_s, stop))]
    assert text == "what happens" and stop == start + 1
    things = [t for t in script.things if t.start_s < stop and t.stop_s > start]
    words = [" then ".join(t.name for t in things) or "nothing"]
    for sound in script.sounds:
        if sound.name in SOUNDS and start <= sound.start_s < stop:
            thing = shown(sound.start_s)
            words.append(f"{sound.name} with {thing.name if thing else 'nothing'}")
    return " and ".join(words + ["flash"] * len(flashes)), [(start, stop)]


@settings(max_examples=200)
@given(SCRIPTS, st.sampled_from(ALL_KINDS), st.booleans(), st.integers(0, 2**32))
def test_answers_and_evidence_are_the_truth(script: Script, kind: Kind, on_a_span: bool, seed: int) -> None:
    rng = random.Random(seed)
    asked = 0
    for _ in range(6):
        span = random_span(rng, script) if on_a_span else None
        if kind == "caption":
            beat = rng.randrange(script.beats)
            span = (float(beat), float(beat + 1))
        question = ask(rng, script, kind, span)
        if question is None:
            continue
        asked += 1
        assert question.kind == kind
        assert (question.from_s, question.to_s) == (span or (None, None))
        answer, windows = truth(script, question)
        assert question.answer == answer
        # A moment for each piece of evidence, in order, holding it, no longer than its beat, and inside the span.
        assert len(question.moments) == len(windows)
        for (low, high), (start, stop) in zip(sorted(question.moments), sorted(windows), strict=True):
            assert low <= start < stop <= high
            assert low // 1 == start // 1 and high - low <= max(1, stop - start)
            if span is not None:
                assert span[0] <= low and high <= span[1]
    if kind == "caption":
        assert asked == 6


def test_every_kind_is_asked_and_the_brute_force_has_seen_it() -> None:
    # The property above is worth what it meets: each kind, whole and on spans, with and without an event.
    rng = random.Random(0)
    met: Counter[tuple[str, bool, bool]] = Counter()
    asked: tuple[Kind, ...] = (*KINDS, "heard")
    for seed in range(40):
        script = write_script(seed, 32)
        for kind in asked:
            for span in (None, random_span(rng, script), random_span(rng, script)):
                question = ask(rng, script, kind, span)
                if question is not None:
                    assert truth(script, question)[0] == question.answer
                    met[kind, span is not None, question.answer in ("nothing", "no")] += 1
    for kind in asked:
        for on_a_span in (False, True):
            assert met[kind, on_a_span, False] >= 10
            assert met[kind, on_a_span, True] >= 1 or kind == "count"


def test_answers_are_balanced() -> None:
    rng = random.Random(1)
    answers: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    forms: Counter[str] = Counter()
    for seed in range(300):
        script = write_script(seed, 64)
        for kind in KINDS:
            for _ in range(3):
                question = ask(rng, script, kind)
                if question is not None:
                    answers[kind][question.answer] += 1
                    if kind in ("needle", "bind", "first", "last"):
                        forms[" ".join(question.text.split()[:2])] += 1
    for kind in ("needle", "bind", "first", "last"):
        total = answers[kind].total()
        assert total > 700
        assert 0.06 < answers[kind]["nothing"] / total < 0.16, kind
        for values in (COLOURS, SHAPES):
            counts = [answers[kind][value] for value in values]
            # Eight values, each near an eighth of those asked; at least eight answers in every open kind.
            assert min(counts) > 0.05 * sum(counts) and max(counts) < 0.2 * sum(counts), (kind, counts)
    assert set(answers["exists"]) == {"yes", "no"} and set(answers["count"]) == {"1", "2", "3", "4"}
    assert 0.45 < answers["exists"]["yes"] / answers["exists"].total() < 0.55
    assert max(answers["count"].values()) / answers["count"].total() < 0.4
    assert forms["which colour"] + forms["which shape"] < 0.75 * forms.total()


def test_a_missing_thing_is_asked_by_a_colour_and_a_shape_that_were_both_seen() -> None:
    rng = random.Random(2)
    refused = 0
    for seed in range(60):
        script = write_script(seed, 16)
        for _ in range(8):
            question = ask(rng, script, "exists")
            if question is not None and question.text.startswith("was a") and question.answer == "no":
                _, _, colour, shape, _ = question.text.split()
                assert any(t.colour == colour for t in script.things)
                assert any(t.shape == shape for t in script.things)
                refused += 1
    assert refused > 40


def test_the_word_list_covers_every_question_and_answer() -> None:
    tokenizer = ChatTokenizer.from_words(word_list())
    rng = random.Random(3)
    seen = set()
    for seed in range(80):
        script = write_script(seed, 32)
        for kind in ALL_KINDS:
            beat = rng.randrange(32)
            for span in ((beat, beat + 1.0) if kind == "caption" else None, (beat, beat + 1.0)):
                question = ask(rng, script, kind, span)
                if question is None:
                    continue
                seen.update(f"{question.text} {question.answer}".split())
                assert tokenizer.unknown_words(f"{question.text} {question.answer}") == ()
                # A person's way of writing it is the same to the model, and answers come back as they were.
                assert tokenizer.text(sentence(question.text)) == tokenizer.text(question.text)
                assert tokenizer.decode(tokenizer.text(question.answer)) == question.answer
    # And nothing in the list is idle but the count of zero.
    assert set(word_list()) - seen <= {"0"}
