"""The state-tracking game: its rules, its balance, and what a beat of it is said to hold."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
import torch

from longtake.operators.ablation.state_tracking import (
    PARTS,
    PLACES,
    STATE_PARTS,
    Game,
    SwapPool,
    place_of,
    swap_words,
    write_swap_script,
)
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.synthetic.pictures import render_pictures
from longtake.operators.synthetic.script import COLOURS, SHAPES
from longtake.operators.synthetic.sounds import render_sound


def pool() -> SwapPool:
    return SwapPool([write_swap_script(seed, 64) for seed in range(6)])


def test_swaps_follow_the_rules() -> None:
    game = Game(
        order=(0,) * 7,
        objects=("red star", "blue moon", "pink ring"),
        shown=(2, 0, 1),
        sounds=(None, None, None, "horn", "drum", "whistle", "bell"),
    )
    assert game.state(3) == ["red star", "blue moon", "pink ring"]
    assert game.state(4) == game.state(5) == ["blue moon", "red star", "pink ring"]
    assert game.state(6) == ["pink ring", "red star", "blue moon"]
    assert game.state(7) == ["pink ring", "blue moon", "red star"]
    for seed in range(20):
        question = game.ask(random.Random(seed), 7, "where")
        place = PLACES.index(question.answer)
        assert question.text == f"where is the {game.state(7)[place]} now"
    assert game.ask(random.Random(0), 3, "what").answer in game.objects
    # Only what was shown already is asked about.
    assert {game.ask(random.Random(seed), 1, "where").text for seed in range(9)} == {"where is the pink ring now"}


def test_a_game_shows_three_unlike_objects_first_and_has_its_swaps() -> None:
    beats = pool()
    rng = random.Random(0)
    for swaps in (0, 4, 16):
        game = beats.game(rng, 32, swaps)
        assert len(game.order) == 32
        shown = [beats.beats[number] for number in game.order[:3]]
        assert tuple(beat.place for beat in shown) == game.shown and sorted(game.shown) == [0, 1, 2]
        assert len({beat.colour for beat in shown}) == len({beat.shape for beat in shown}) == 3
        assert sum(sound in ("horn", "bell", "whistle") for sound in game.sounds) == swaps
        assert all(beats.beats[number].place is None for number in game.order[3:])
    with pytest.raises(ValueError, match="8 snippets do not hold 3 objects and 6 swaps"):
        beats.game(rng, 8, 6)


def test_answers_are_balanced() -> None:
    beats, rng = pool(), random.Random(1)
    answers = Counter(beats.game(rng, 16, 6).ask(rng, 16, "where").answer for _ in range(900))
    assert all(240 < answers[place] < 360 for place in PLACES)


def test_a_beat_is_what_is_rendered() -> None:
    script = write_swap_script(5, 32)
    beats = SwapPool([script]).beats
    assert {beat.sound is None for beat in beats} == {True, False}
    wave = render_sound(script)
    quiet = max(3.5 * script.ambience, 1e-6)
    for number, beat in enumerate(beats):
        loud = float(abs(wave[number * 16_000 : (number + 1) * 16_000]).max())
        assert (loud > 2 * quiet) == (beat.sound is not None)
        assert len(beat.description) == len(PARTS)
        assert all(0 <= value < most for value, most in zip(beat.description, PARTS.values(), strict=True))
    thing = script.things[0]
    picture = render_pictures(script, [thing.start_s + 0.5], 48, 64)
    bare = render_pictures(dataclasses.replace(script, things=()), [thing.start_s + 0.5], 48, 64)
    columns = (picture.int() - bare.int()).abs().sum((0, 1, 3)).nonzero()
    third = float(columns.float().mean()) / 64 * 3
    assert int(third) == place_of(thing)


def test_what_is_told_after_each_snippet_is_what_stands_where() -> None:
    beats, rng = pool(), random.Random(4)
    for swapped in (0, 3, 8):
        game = beats.game(rng, 16, swapped)
        told = torch.tensor(game.told())
        assert told.shape == (16, len(STATE_PARTS)) and (told < torch.tensor(STATE_PARTS)).all()
        # One more place is known after each of the first three snippets; from then on they only change places.
        assert [(row.view(3, 2) > 0).all(1).sum().item() for row in told] == [1, 2, *[3] * 14]
        for snippets in range(1, 17):
            for place, (colour, shape) in enumerate(told[snippets - 1].view(3, 2).tolist()):
                if colour:
                    assert game.state(snippets)[place] == f"{COLOURS[colour - 1]} {SHAPES[shape - 1]}"


def test_every_word_is_known() -> None:
    beats, rng = pool(), random.Random(2)
    tokenizer = ChatTokenizer.from_words(swap_words())
    for kind in ("where", "what"):
        question = beats.game(rng, 16, 3).ask(rng, 16, kind)
        assert not tokenizer.unknown_words(question.text) and not tokenizer.unknown_words(question.answer)
