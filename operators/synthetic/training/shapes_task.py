"""The built-in world as training sees it: descriptions of its snippets, and a pool of its beats.

Shapes: P parts of a description.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from longtake.errors import InputError
from longtake.operators.synthetic.questions import Kind
from longtake.operators.synthetic.script import BEAT_S, COLOURS, MAX_COUNT, SHAPES, SOUNDS, Script, Thing
from longtake.operators.synthetic.training.task import Part, PoolSpec, of_beats
from longtake.operators.synthetic.worlds import BUILT_IN, BuiltInWorld

COLOUR, SHAPE, SOUND = len(COLOURS) + 1, len(SHAPES) + 1, len(SOUNDS) + 1
PARTS: tuple[Part, ...] = (
    Part(name="colour_first", values=COLOUR, reader="colour", sense="video", half="first"),
    Part(name="colour_second", values=COLOUR, reader="colour", sense="video", half="second"),
    Part(name="shape_first", values=SHAPE, reader="shape", sense="video", half="first"),
    Part(name="shape_second", values=SHAPE, reader="shape", sense="video", half="second"),
    Part(name="sound_first", values=SOUND, reader="sound", sense="audio", half="first", of_sound=True),
    Part(name="sound_second", values=SOUND, reader="sound", sense="audio", half="second", of_sound=True),
    Part(name="flash", values=2, reader="flash", sense="video", reads="mean"),
    Part(name="colour_heard", values=COLOUR, of_sound=True),
    Part(name="shape_heard", values=SHAPE, of_sound=True),
)
# How many values each part has, by its name.
DESCRIPTION = {part.name: part.values for part in PARTS}
SHARES: dict[Kind, int] = {"needle": 1, "bind": 2, "first": 4, "last": 4, "count": 6, "exists": 7, "heard": 5}


class ShapesTask:
    """Training on the built-in world."""

    name = key = "built-in"
    world: BuiltInWorld = BUILT_IN
    parts = PARTS
    recalls: tuple[Part, ...] = (Part(name="times_sounded", values=MAX_COUNT + 1),)
    shares = SHARES
    short_spans: tuple[Kind, ...] = ("exists", "heard")

    def describe(self, script: Script) -> Tensor:
        return describe(script)

    def recall(self, script: Script) -> Tensor:
        """See `Task.recall`: the how manieth time it is that a beat's sound is heard."""
        times_T1 = torch.zeros(script.beats, 1, dtype=torch.int64)
        heard = dict.fromkeys(SOUNDS, 0)
        for sound in sorted((s for s in script.sounds if s.name in heard), key=lambda s: s.start_s):
            heard[sound.name] += 1
            times_T1[int(sound.start_s / BEAT_S)] = heard[sound.name]
        return times_T1

    def pool(self, spec: PoolSpec) -> ScriptPool:
        return ScriptPool(spec)

    def whole(self, script: Script, first: int, last: int) -> tuple[float, float]:
        return of_beats(first, last)


BUILT_IN_COURSE = ShapesTask()


def describe(script: Script) -> Tensor:
    """The description of every beat, int64 [beats, parts], in the order of `PARTS`."""
    rows = []
    for beat in range(script.beats):
        halves = [beat * BEAT_S + BEAT_S * part for part in (0.25, 0.75)]
        shown = [script.thing_at(time) for time in halves]
        heard: list[int] = []
        heard_with: Thing | None = None
        for time in halves:
            sounding = [s for s in script.sounds if s.name in SOUNDS and s.start_s <= time < s.stop_s]
            heard.append(SOUNDS.index(sounding[0].name) + 1 if sounding else 0)
            if sounding:
                heard_with = script.thing_at(time)
        flash = any(f.start_s < (beat + 1) * BEAT_S and f.stop_s > beat * BEAT_S for f in script.flashes)
        rows.append(
            [
                *(_colour(thing) for thing in shown),
                *(_shape(thing) for thing in shown),
                *heard,
                int(flash),
                _colour(heard_with),
                _shape(heard_with),
            ]
        )
    return torch.tensor(rows)


def _colour(thing: Thing | None) -> int:
    return COLOURS.index(thing.colour) + 1 if thing else 0


def _shape(thing: Thing | None) -> int:
    return SHAPES.index(thing.shape) + 1 if thing else 0


class ScriptPool:
    """The beats of many scripts, each as a one-beat script, sorted by what they hold.

    Raises:
        InputError: the scripts lack a kind of event.
    """

    def __init__(self, spec: PoolSpec) -> None:
        self.beats = [beat_of(script, number) for script in spec.scripts(BUILT_IN) for number in range(spec.beats)]
        self.sounding: dict[str, list[int]] = {name: [] for name in SOUNDS}
        self.flashing: list[int] = []
        self.other: list[int] = []
        for number, beat in enumerate(self.beats):
            named = [s.name for s in beat.sounds if s.name in self.sounding]
            if beat.flashes:
                self.flashing.append(number)
            elif named:
                self.sounding[named[0]].append(number)
            else:
                self.other.append(number)
        if not self.flashing or not self.other or not all(self.sounding.values()):
            raise InputError(f"a pool of {len(self.beats)} beats lacks some kinds of event; take more videos")

    def arrange(self, rng: random.Random, beats: int) -> list[int]:
        """A random long video: the pool's beats to show, in order."""
        chosen: list[int] = []
        # Short videos are often fuller of sounds than the world's own: counting is learned there first.
        budget = max(1, round(beats * rng.uniform(0.15, 0.6)))
        for name in rng.sample(SOUNDS, len(SOUNDS)):
            times = rng.choices(range(MAX_COUNT + 1), weights=(20, 32, 16, 16, 16))[0]
            chosen += [rng.choice(self.sounding[name]) for _ in range(min(times, budget - len(chosen)))]
        if rng.random() < 8 / 9:
            chosen.append(rng.choice(self.flashing))
        chosen = chosen[:beats]
        chosen += rng.choices(self.other, k=beats - len(chosen))
        rng.shuffle(chosen)
        return chosen

    def script(self, chosen: Sequence[int]) -> Script:
        """The script of an arrangement."""
        return splice([self.beats[number] for number in chosen])


def beat_of(script: Script, number: int) -> Script:
    """One beat of a script as a script of its own."""
    start, stop = number * BEAT_S, (number + 1) * BEAT_S
    return Script(
        beats=1,
        things=tuple(
            dataclasses.replace(t, start_s=max(t.start_s, start) - start, stop_s=min(t.stop_s, stop) - start)
            for t in script.things
            if t.start_s < stop and t.stop_s > start
        ),
        sounds=tuple(
            dataclasses.replace(s, start_s=s.start_s - start, stop_s=s.stop_s - start)
            for s in script.sounds
            if start <= s.start_s < stop
        ),
        flashes=tuple(
            dataclasses.replace(f, start_s=f.start_s - start, stop_s=f.stop_s - start)
            for f in script.flashes
            if start <= f.start_s < stop
        ),
        scenes=(),
        ambience=0.0,
        seed=0,
    )


def splice(parts: Sequence[Script]) -> Script:
    """One-beat scripts after one another."""

    def moved(name: str) -> tuple[object, ...]:
        return tuple(
            dataclasses.replace(event, start_s=event.start_s + number * BEAT_S, stop_s=event.stop_s + number * BEAT_S)
            for number, part in enumerate(parts)
            for event in getattr(part, name)
        )

    return Script(
        beats=len(parts),
        things=moved("things"),  # type: ignore[arg-type]
        sounds=moved("sounds"),  # type: ignore[arg-type]
        flashes=moved("flashes"),  # type: ignore[arg-type]
        scenes=(),
        ambience=0.0,
        seed=0,
    )
