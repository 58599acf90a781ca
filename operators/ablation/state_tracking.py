"""The state-tracking game: three objects are shown at three places, then sounds swap them, unseen.

A horn swaps what is on the left and in the middle, a bell what is in the middle and on the right, a whistle what is on
the left and on the right; other sounds do nothing. Nothing says so but the answers. Pictures and sounds are the made
world's, rendered as everywhere: only the scripts are this game's.

Shapes: B beats, P parts of a description.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longtake.operators.synthetic.questions import Question
from longtake.operators.synthetic.script import (
    BACKGROUNDS,
    BEAT_S,
    COLOURS,
    SHAPES,
    SOUNDS,
    Scene,
    Script,
    Sound,
    Thing,
)

PLACES = ("left", "middle", "right")
SWAPS = {"horn": (0, 1), "bell": (1, 2), "whistle": (0, 2)}
INERT = tuple(name for name in SOUNDS if name not in SWAPS)
_PLACE_X = (0.2, 0.5, 0.8)

# What a beat's description says; 0 is "none" everywhere.
PARTS = {"colour": len(COLOURS) + 1, "shape": len(SHAPES) + 1, "place": len(PLACES) + 1, "sound": len(SOUNDS) + 1}

# What a place holds: a colour and a shape, three times over.
STATE_PARTS = (len(COLOURS) + 1, len(SHAPES) + 1) * len(PLACES)


def write_swap_script(seed: int, beats: int) -> Script:
    """Source material: beats that show one object at a place, beats of one sound, and beats of nothing, mixed."""
    rng = random.Random(f"swaps {seed} {beats}")
    things, sounds, scenes = [], [], []
    start = 0
    while start < beats:
        stop = min(beats, start + rng.randint(2, 8))
        scenes.append(
            Scene(kind=rng.choice(BACKGROUNDS), start_s=start * BEAT_S, stop_s=stop * BEAT_S, seed=rng.randrange(2**31))
        )
        start = stop
    for beat in range(beats):
        drawn = rng.random()
        if drawn < 0.55:
            things.append(_object(rng, beat))
        elif drawn < 0.9:
            things_start = beat * BEAT_S + rng.uniform(0.02, 0.3)
            sounds.append(
                Sound(
                    name=rng.choice(SOUNDS),
                    start_s=things_start,
                    stop_s=things_start + rng.uniform(0.4, 0.6),
                    pitch=rng.uniform(0.92, 1.08),
                    gain=rng.uniform(0.3, 1.0),
                )
            )
    return Script(
        beats=beats,
        things=tuple(things),
        sounds=tuple(sounds),
        flashes=(),
        scenes=tuple(scenes),
        ambience=rng.choice((0.0, 0.001, 0.003, 0.01)),
        seed=seed,
    )


def _object(rng: random.Random, beat: int) -> Thing:
    return Thing(
        colour=rng.choice(COLOURS),
        shape=rng.choice(SHAPES),
        start_s=beat * BEAT_S,
        stop_s=(beat + 1) * BEAT_S,
        x=rng.choice(_PLACE_X) + rng.uniform(-0.04, 0.04),
        y=rng.uniform(0.35, 0.65),
        vx=0.0,
        vy=0.0,
        size=rng.uniform(0.15, 0.18),
    )


def place_of(thing: Thing) -> int:
    """The number of the place that a thing stands at."""
    return min(range(len(PLACES)), key=lambda place: abs(_PLACE_X[place] - thing.x))


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What one beat of the source material holds."""

    colour: str | None = None
    shape: str | None = None
    place: int | None = None
    sound: str | None = None

    @property
    def description(self) -> list[int]:
        """The values of `PARTS`."""
        return [
            COLOURS.index(self.colour) + 1 if self.colour else 0,
            SHAPES.index(self.shape) + 1 if self.shape else 0,
            self.place + 1 if self.place is not None else 0,
            SOUNDS.index(self.sound) + 1 if self.sound else 0,
        ]


@dataclass(frozen=True, kw_only=True)
class Game:
    """A long video: the numbers of its beats, the objects' names by their first place, in which order these places are
    shown, and each beat's sound."""

    order: tuple[int, ...]
    objects: tuple[str, str, str]
    shown: tuple[int, int, int]
    sounds: tuple[str | None, ...]

    def state(self, snippets: int) -> list[str]:
        """Which object stands at each place after so many snippets."""
        places = list(self.objects)
        for sound in self.sounds[:snippets]:
            if sound in SWAPS:
                one, other = SWAPS[sound]
                places[one], places[other] = places[other], places[one]
        return places

    def told(self) -> list[list[int]]:
        """What stands at each place after each snippet: the values of `STATE_PARTS`, "none" where nothing was shown."""
        rows = []
        for snippets in range(1, len(self.order) + 1):
            # All objects are shown before the first swap.
            there = self.shown[:snippets]
            names = [name if place in there else None for place, name in enumerate(self.state(snippets))]
            rows.append(
                [
                    value
                    for name in names
                    for value in (
                        (COLOURS.index(name.split()[0]) + 1, SHAPES.index(name.split()[1]) + 1) if name else (0, 0)
                    )
                ]
            )
        return rows

    def ask(self, rng: random.Random, snippets: int, kind: str) -> Question:
        """Where an object is ("where"), or what is at a place ("what"), after so many snippets (at least 1).

        After one or two snippets, when nothing has been swapped yet, it is about an object that was shown.
        """
        state = self.state(snippets)
        place = rng.choice(self.shown[:snippets])
        if kind == "where":
            text, answer = f"where is the {state[place]} now", PLACES[place]
        else:
            text, answer = f"what is on the {PLACES[place]} now", state[place]
        return Question(kind="caption", text=text, answer=answer, moments=())


class SwapPool:
    """The beats of many scripts, sorted by what they hold."""

    def __init__(self, scripts: Sequence[Script]) -> None:
        self.beats = [_beat_of(script, number) for script in scripts for number in range(script.beats)]
        self.showing: list[list[int]] = [[] for _ in PLACES]
        self.sounding: dict[str, list[int]] = {name: [] for name in SOUNDS}
        self.silent: list[int] = []
        for number, beat in enumerate(self.beats):
            if beat.place is not None:
                self.showing[beat.place].append(number)
            elif beat.sound is not None:
                self.sounding[beat.sound].append(number)
            else:
                self.silent.append(number)

    def truth(self) -> Tensor:
        """The descriptions of all beats, int64 [B, P]."""
        return torch.tensor([beat.description for beat in self.beats])

    def game(self, rng: random.Random, snippets: int, swaps: int) -> Game:
        """A video of `snippets` beats: three objects in any order, then `swaps` swaps among other sounds and silence.

        Raises:
            ValueError: the snippets do not hold three objects and the swaps.
        """
        rest = snippets - len(PLACES) - swaps
        if rest < 0:
            raise ValueError(f"{snippets} snippets do not hold {len(PLACES)} objects and {swaps} swaps")
        shown: list[int] = []
        for place in range(len(PLACES)):
            while True:
                number = rng.choice(self.showing[place])
                beat = self.beats[number]
                if all(self.beats[n].colour != beat.colour and self.beats[n].shape != beat.shape for n in shown):
                    break
            shown.append(number)
        objects = tuple(f"{self.beats[n].colour} {self.beats[n].shape}" for n in shown)
        later = [rng.choice(self.sounding[rng.choice(list(SWAPS))]) for _ in range(swaps)]
        later += [
            rng.choice(self.sounding[rng.choice(INERT)]) if rng.random() < 0.5 else rng.choice(self.silent)
            for _ in range(rest)
        ]
        places = tuple(rng.sample(range(len(PLACES)), len(PLACES)))
        rng.shuffle(later)
        order = (*(shown[place] for place in places), *later)
        sounds = tuple(self.beats[number].sound for number in order)
        return Game(order=order, objects=objects, shown=places, sounds=sounds)  # type: ignore[arg-type]


def _beat_of(script: Script, number: int) -> Beat:
    middle = (number + 0.5) * BEAT_S
    thing = script.thing_at(middle)
    sound = next((s.name for s in script.sounds if number * BEAT_S <= s.start_s < (number + 1) * BEAT_S), None)
    if thing is None:
        return Beat(sound=sound)
    return Beat(colour=thing.colour, shape=thing.shape, place=place_of(thing))


def swap_words() -> tuple[str, ...]:
    """Every word of the game's questions and answers, in a fixed order."""
    return (*["where", "is", "the", "now", "what", "on"], *PLACES, *COLOURS, *SHAPES)
