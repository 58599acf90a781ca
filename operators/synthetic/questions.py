"""Questions about a made video, with answers and evidence taken from its script.

Answers are balanced: colours and shapes are uniform by construction, yes and no are asked equally often, a count is
first drawn and then a sound that has it, and "nothing" is one of nine answers of every open kind.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, Protocol

from longtake.operators.synthetic.script import BEAT_S, COLOURS, MAX_COUNT, SHAPES, SOUNDS, Script, Sound, Thing

# "said", "after" and "when" are asked in worlds of real material only.
Kind = Literal["needle", "bind", "first", "last", "count", "exists", "caption", "heard", "said", "after", "when"]
# The built-in world's kinds that are evaluated; "caption" and "heard" are for training only.
KINDS: tuple[Kind, ...] = ("needle", "bind", "first", "last", "count", "exists")
NOTHING = "nothing"
P_NOTHING = 1 / 9

# What is asked for: the wording at the start of a question, and how the answer reads.
ASPECTS = ("colour", "shape", "both")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question; `moments` are the seconds that prove the answer, empty where nothing happened. Where a span is
    asked about, [from_s, to_s) is it; None stands for the video's ends.

    `about` names what a question with varied wording is about, `voice` whether the recordings that matter are of a
    voice that training has heard ("trained", "unseen"), and an answer in seconds counts within `tolerance_s`.
    """

    kind: Kind
    text: str
    answer: str
    moments: tuple[tuple[float, float], ...]
    from_s: float | None = None
    to_s: float | None = None
    about: str | None = None
    voice: str | None = None
    tolerance_s: float | None = None


class Timeline(Protocol):
    """What every script of a video has: its length."""

    @property
    def beats(self) -> int: ...

    @property
    def duration_s(self) -> float: ...

    @property
    def seed(self) -> int: ...


def ask(rng: random.Random, script: Script, kind: Kind, span: tuple[float, float] | None = None) -> Question | None:
    """A random question of a kind, or None where the script (or its span) allows none of the drawn sort.

    With a span, only what lies inside it counts; spans begin and end on beats, so they cut no event.
    """
    view = _View(script, span)
    text, answer, moments = {
        "needle": _needle,
        "bind": _bind,
        "first": _first,
        "last": _last,
        "count": _count,
        "exists": _exists,
        "caption": _caption,
        "heard": _heard,
    }[kind](rng, view) or (None, None, None)
    if text is None or answer is None or moments is None:
        return None
    start, stop = span or (None, None)
    return Question(kind=kind, text=text, answer=answer, moments=tuple(moments), from_s=start, to_s=stop)


def random_span(rng: random.Random, script: Timeline) -> tuple[float, float]:
    """A span of a fifth to two thirds of the video, on beats, in seconds."""
    beats = max(1, round(script.beats * rng.uniform(0.2, 0.67)))
    first = rng.randint(0, script.beats - beats)
    return first * BEAT_S, (first + beats) * BEAT_S


BatchCache = tuple[str, str, list[tuple[float, float]]]


class _View:
    """What a script holds inside a span."""

    def __init__(self, script: Script, span: tuple[float, float] | None) -> None:
        self.whole = span is None
        self.start, self.stop = span or (0.0, script.duration_s)
        self.script = script
        self.things = [t for t in script.things if t.stop_s > self.start and t.start_s < self.stop]
        self.flashes = [f for f in script.flashes if self.start <= f.start_s < self.stop]
        self.soundings: dict[str, list[Sound]] = {name: [] for name in SOUNDS}
        for sound in script.sounds:
            if sound.name in self.soundings and self.start <= sound.start_s < self.stop:
                self.soundings[sound.name].append(sound)

    def heard(self, low: int, high: int) -> list[str]:
        """Names of the sounds heard `low` to `high` times."""
        return [name for name in SOUNDS if low <= len(self.soundings[name]) <= high]

    def thing_during(self, sound: Sound) -> Thing | None:
        return self.script.thing_at((sound.start_s + sound.stop_s) / 2)


def _aspect(rng: random.Random, thing: Thing | None) -> tuple[str, str]:
    """How the question begins, and its answer."""
    aspect = rng.choice(ASPECTS)
    if aspect == "colour":
        return "which colour", thing.colour if thing else NOTHING
    if aspect == "shape":
        return "which shape", thing.shape if thing else NOTHING
    return "what", thing.name if thing else NOTHING


def _moment(sound: Sound) -> tuple[float, float]:
    """The half beat that the sound lies in."""
    half = BEAT_S / 2
    start = (sound.start_s // half) * half
    return start, start + half


def _needle(rng: random.Random, view: _View) -> BatchCache | None:
    if not view.flashes:
        # Most spans miss the flash: few of those are asked about, so that "nothing" keeps its share.
        if not view.whole and rng.random() < 0.92:
            return None
        start, answer = _aspect(rng, None)
        return f"{start} was shown when the border flashed", answer, []
    flash = view.flashes[0]
    thing = view.script.thing_at(flash.start_s)
    start, answer = _aspect(rng, thing)
    return f"{start} was shown when the border flashed", answer, [(flash.start_s, flash.stop_s)]


def _bind(rng: random.Random, view: _View) -> BatchCache | None:
    silent = view.heard(0, 0)
    empty = [n for n in view.heard(1, 1) if view.thing_during(view.soundings[n][0]) is None]
    shown = [n for n in view.heard(1, 1) if n not in empty]
    names = silent + empty if rng.random() < P_NOTHING else shown
    if not names:
        return None
    name = rng.choice(names)
    events = view.soundings[name]
    start, answer = _aspect(rng, view.thing_during(events[0]) if events else None)
    return f"{start} was on screen while the {name} sounded", answer, [_moment(s) for s in events]


def _ordinal(rng: random.Random, view: _View, place: int, word: str) -> BatchCache | None:
    absent = rng.random() < P_NOTHING
    names = view.heard(0, 0) if absent else view.heard(2, MAX_COUNT)
    names = [n for n in names if absent or view.thing_during(view.soundings[n][place]) is not None]
    if not names:
        return None
    name = rng.choice(names)
    events = view.soundings[name]
    start, answer = _aspect(rng, view.thing_during(events[place]) if events else None)
    moments = [_moment(events[place])] if events else []
    return f"{start} was on screen the {word} time the {name} sounded", answer, moments


def _first(rng: random.Random, view: _View) -> BatchCache | None:
    return _ordinal(rng, view, 0, "first")


def _last(rng: random.Random, view: _View) -> BatchCache | None:
    return _ordinal(rng, view, -1, "last")


def _count(rng: random.Random, view: _View) -> BatchCache | None:
    times = rng.randint(1, MAX_COUNT)
    names = view.heard(times, times)
    if not names:
        return None
    name = rng.choice(names)
    return f"how many times did the {name} sound", str(times), [_moment(s) for s in view.soundings[name]]


def _exists(rng: random.Random, view: _View) -> BatchCache | None:
    yes = rng.random() < 0.5
    answer = "yes" if yes else "no"
    about = rng.choice(("sound", "thing", "thing", "flash"))
    if about == "sound":
        names = view.heard(1, MAX_COUNT) if yes else view.heard(0, 0)
        if not names:
            return None
        name = rng.choice(names)
        return f"did the {name} sound", answer, [_moment(s) for s in view.soundings[name]]
    if about == "flash":
        # A video without a flash is rare: ask about as many with one as without.
        if bool(view.flashes) != yes or (yes and view.whole and rng.random() < 7 / 8):
            return None
        return "did the border flash", answer, [(f.start_s, f.stop_s) for f in view.flashes]
    names = sorted({t.name for t in view.things})
    if not names:
        return None
    if yes:
        name = rng.choice(names)
        moments = [(max(t.start_s, view.start), min(t.stop_s, view.stop)) for t in view.things if t.name == name]
        return f"was a {name} shown", answer, moments
    # A missing thing whose colour and shape were both seen, each on another thing: only the pair tells.
    colours = {t.colour for t in view.things}
    shapes = {t.shape for t in view.things}
    missing = [
        f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in names and (c in colours and s in shapes)
    ]
    return (f"was a {rng.choice(missing)} shown", answer, []) if missing else None


def _caption(rng: random.Random, view: _View) -> BatchCache | None:
    """Everything about one beat: the training's densest question (the span is that beat)."""
    names = [thing.name for thing in view.things]
    parts = [" then ".join(names) if names else NOTHING]
    for sound in view.script.sounds:
        if sound.name in SOUNDS and view.start <= sound.start_s < view.stop:
            heard_with = view.thing_during(sound)
            parts.append(f"{sound.name} with {heard_with.name if heard_with else NOTHING}")
    if view.flashes:
        parts.append("flash")
    return "what happens", " and ".join(parts), [(view.start, view.stop)]


def _heard(rng: random.Random, view: _View) -> BatchCache | None:
    """The other way round: what sounded while a thing was shown that was shown once."""
    names = [thing.name for thing in view.things]
    once = [thing for thing in view.things if names.count(thing.name) == 1]
    heard: dict[str, str] = {}
    for events in view.soundings.values():
        for sound in events:
            thing = view.thing_during(sound)
            if thing is not None:
                heard[thing.name] = sound.name
    wanted = rng.random() < 0.75
    candidates = [thing for thing in once if (thing.name in heard) == wanted]
    if not candidates:
        return None
    thing = rng.choice(candidates)
    moment = (max(thing.start_s, view.start), min(thing.stop_s, view.stop))
    return f"what sounded while a {thing.name} was shown", heard.get(thing.name, NOTHING), [moment]


def word_list() -> tuple[str, ...]:
    """Every word that questions and answers may hold, in a fixed order."""
    text = (
        "what which colour shape was shown when the border flashed on screen while sounded first last time how many"
        " times did sound flash a happens nothing yes no then with and"
    )
    counts = " ".join(str(n) for n in range(MAX_COUNT + 1))
    words = [*text.split(), *counts.split(), *COLOURS, *SHAPES, *SOUNDS]
    return tuple(dict.fromkeys(words))


def sentence(text: str) -> str:
    """A question as it is written for a person: a capital letter and a question mark."""
    return f"{text[0].upper()}{text[1:]}?"
