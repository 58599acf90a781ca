"""What happens in a made video: coloured shapes, sounds, a border flash, backgrounds; all random, all known.

Time runs in beats of `BEAT_S` seconds; every event lies inside one beat. An event beat shows two things one after
the other, and a sound is heard during only one of them, so what was on screen while it sounded cannot be told from
the beat alone. Distractors: things without a sound, things with sounds that no question names, named sounds with an
empty screen, cluttered scenes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

BEAT_S = 1.0

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "moon")
SOUNDS = ("horn", "bell", "whistle", "drum", "siren", "buzzer")
# Sounds that no question names.
NOISES = ("hiss", "click", "hum", "pluck", "babble")
BACKGROUNDS = ("flat", "gradient", "stripes", "checker", "clouds")
CLUTTER = "clutter"

MAX_COUNT = 4


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A shape on screen during [start_s, stop_s), moving on a straight line. Places and sizes are in picture heights
    and widths: (0, 0) is the top left corner, 1 the far side; `size` is the radius in picture heights."""

    colour: str
    shape: str
    start_s: float
    stop_s: float
    x: float
    y: float
    vx: float
    vy: float
    size: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A sound during [start_s, stop_s); `pitch` scales its frequencies, `gain` its loudness."""

    name: str
    start_s: float
    stop_s: float
    pitch: float
    gain: float


@dataclass(frozen=True, kw_only=True)
class Flash:
    """The picture's border turns white during [start_s, stop_s)."""

    start_s: float
    stop_s: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A background during [start_s, stop_s); `seed` fixes its colours, pattern and drift."""

    kind: str
    start_s: float
    stop_s: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Script:
    """A whole video."""

    beats: int
    things: tuple[Thing, ...]
    sounds: tuple[Sound, ...]
    flashes: tuple[Flash, ...]
    scenes: tuple[Scene, ...]
    ambience: float
    seed: int

    @property
    def duration_s(self) -> float:
        return self.beats * BEAT_S

    def thing_at(self, time_s: float) -> Thing | None:
        """What is on screen at a moment; at most one thing is."""
        return next((thing for thing in self.things if thing.start_s <= time_s < thing.stop_s), None)


def write_script(seed: int, beats: int) -> Script:
    """A random video of `beats` beats; the same seed gives the same video.

    Raises:
        ValueError: no beat.
    """
    if beats < 1:
        raise ValueError(f"a video needs at least 1 beat, not {beats}")
    rng = random.Random(f"longtake world {seed} {beats}")
    scenes = draw_scenes(rng, beats)
    clutter = {b for s in scenes if s.kind == CLUTTER for b in range(int(s.start_s), int(s.stop_s))}
    free = [beat for beat in range(beats) if beat not in clutter]
    rng.shuffle(free)
    things: list[Thing] = []
    sounds: list[Sound] = []
    flashes: list[Flash] = []
    for name in _soundings(rng, max(1, beats // 3)):
        if not free:
            break
        beat = free.pop()
        half = rng.randrange(2)
        sounds.append(_sound(rng, name, beat, half))
        # Now and then a named sound is heard over an empty screen.
        if rng.random() >= 0.06:
            things += _pair(rng, beat)
    if free and rng.random() < 8 / 9:
        beat = free.pop()
        things.append(_thing(rng, beat, beat + BEAT_S))
        flashes.append(Flash(start_s=beat + 0.25, stop_s=beat + 0.75))
    for _ in range(round(beats * 0.1)):
        if not free:
            break
        beat = free.pop()
        things += _pair(rng, beat)
        if rng.random() < 0.5:
            sounds.append(_sound(rng, rng.choice(NOISES), beat, rng.randrange(2)))
    things += _wanderers(rng, sorted(free))
    # A busy scene may have music or voices all through.
    for scene in scenes:
        if scene.kind == CLUTTER and rng.random() < 0.7:
            gain = rng.uniform(0.2, 1.0)
            sounds.append(
                Sound(name=rng.choice(NOISES), start_s=scene.start_s, stop_s=scene.stop_s, pitch=1.0, gain=gain)
            )
    sounds.extend(
        _sound(rng, rng.choice(NOISES), beat, rng.randrange(2))
        for beat in [*free, *sorted(clutter)]
        if rng.random() < 0.25
    )
    return Script(
        beats=beats,
        things=tuple(sorted(things, key=lambda thing: thing.start_s)),
        sounds=tuple(sorted(sounds, key=lambda sound: sound.start_s)),
        flashes=tuple(flashes),
        scenes=tuple(scenes),
        ambience=rng.choice((0.0, 0.001, 0.003, 0.01)),
        seed=seed,
    )


def _soundings(rng: random.Random, most: int) -> list[str]:
    """The names of all soundings of a video, each sound heard 0 to 4 times, `most` in all."""
    names: list[str] = []
    for sound in rng.sample(SOUNDS, len(SOUNDS)):
        times = rng.choices(range(MAX_COUNT + 1), weights=(20, 32, 16, 16, 16))[0]
        names += [sound] * min(times, most - len(names))
    return names


def draw_scenes(rng: random.Random, beats: int) -> list[Scene]:
    """Random backgrounds of two to eight beats that tile a video; one in eight is a cluttered scene."""
    scenes = []
    start = 0
    while start < beats:
        stop = min(beats, start + rng.randint(2, 8))
        kind = CLUTTER if rng.random() < 0.12 else rng.choice(BACKGROUNDS)
        scenes.append(Scene(kind=kind, start_s=start * BEAT_S, stop_s=stop * BEAT_S, seed=rng.randrange(2**31)))
        start = stop
    return scenes


def _pair(rng: random.Random, beat: int) -> list[Thing]:
    """Two things, one in each half of a beat, different in colour and in shape."""
    middle = beat + BEAT_S / 2
    first = _thing(rng, beat, middle)
    second = _thing(rng, middle, beat + BEAT_S)
    while second.colour == first.colour or second.shape == first.shape:
        second = _thing(rng, middle, beat + BEAT_S)
    return [first, second]


def _thing(rng: random.Random, start_s: float, stop_s: float) -> Thing:
    size = rng.uniform(0.17, 0.26)
    # The path runs between two random places, kept inside the picture (3:4 or wider) by the thing's radius.
    x0, x1 = (rng.uniform(size, 1 - size) for _ in range(2))
    y0, y1 = (rng.uniform(size + 0.03, 1 - size - 0.03) for _ in range(2))
    length = stop_s - start_s
    reach = min(1.0, 0.5 * length)
    return Thing(
        colour=rng.choice(COLOURS),
        shape=rng.choice(SHAPES),
        start_s=start_s,
        stop_s=stop_s,
        x=x0,
        y=y0,
        vx=(x1 - x0) * reach / length,
        vy=(y1 - y0) * reach / length,
        size=size,
    )


def _sound(rng: random.Random, name: str, beat: int, half: int) -> Sound:
    start = beat + half * BEAT_S / 2 + rng.uniform(0.02, 0.08)
    stop = beat + (half + 1) * BEAT_S / 2 - rng.uniform(0.02, 0.06)
    return Sound(name=name, start_s=start, stop_s=stop, pitch=rng.uniform(0.92, 1.08), gain=rng.uniform(0.3, 1.0))


def _wanderers(rng: random.Random, free: list[int]) -> list[Thing]:
    """Single things that stay for one to four beats in a row of otherwise empty beats."""
    things = []
    place = 0
    while place < len(free):
        run = 1
        while run < 4 and place + run < len(free) and free[place + run] == free[place] + run:
            run += 1
        run = rng.randint(1, run)
        if rng.random() < 0.5:
            things.append(_thing(rng, free[place], free[place] + run * BEAT_S))
        place += run
    return things
