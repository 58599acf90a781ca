"""Questions about a video of real material, in varied wording, with answers and evidence taken from its script.

Answers are balanced: names are uniform by construction, yes and no are asked equally often, a count is first drawn
and then a name that has it, and "nothing" is about one of nine draws of every open kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeAlias

from longtake.operators.synthetic.questions import NOTHING, P_NOTHING, Kind, Question, random_span
from longtake.operators.synthetic.recorded.script import RealScript, Saying, Showing
from longtake.operators.synthetic.recorded.wording import (
    AFTER,
    BIND,
    CAPTION,
    COUNT_NAME,
    COUNT_WORD,
    EXISTS_FLASH,
    EXISTS_NAME,
    EXISTS_WORD,
    NEEDLE,
    ORDINAL,
    SAID,
    SAID_ORDINAL,
    WHEN_NAME,
    WHEN_NAME_ORDINAL,
    WHEN_ORDINAL,
    WHEN_WORD,
    worded,
)
from longtake.operators.synthetic.script import BEAT_S, MAX_COUNT

# The kinds that are evaluated.
REAL_KINDS: tuple[Kind, ...] = ("needle", "bind", "said", "after", "first", "last", "count", "exists", "when")
# The kinds of which a share of the answers is "nothing", whatever the videos hold; "needle" has its share from them.
OPEN_KINDS: tuple[Kind, ...] = ("bind", "said", "after", "first", "last")
# An answer in whole seconds counts within this.
WHEN_TOLERANCE_S = 2.0

BatchCache: TypeAlias = tuple[str, str, str, list[tuple[float, float]]]

# What a question is about, apart from its wording: "word seven", "object rocket", "flash".
WORD, OBJECT, FLASH = "word ", "object ", "flash"


def real_ask(
    rng: random.Random, script: RealScript, kind: Kind, span: tuple[float, float] | None = None
) -> Question | None:
    """A random question of a kind, or None where the script (or its span) allows none of the drawn sort.

    With a span, only what lies inside it counts; a span must not cut an event (`real_span` draws such). "when" is
    about whole videos only, since a short span gives its answer away.

    Raises:
        ValueError: a kind that this world does not ask.
    """
    if kind not in DRAWERS:
        raise ValueError(f"this world asks {', '.join(DRAWERS)}, not {kind!r}")
    drawn = DRAWERS[kind](rng, _View(script, span))
    if drawn is None:
        return None
    text, about, answer, moments = drawn
    start, stop = span or (None, None)
    heard = kind in ("said", "caption") or about.startswith(WORD)
    return Question(
        kind=kind,
        text=text,
        answer=answer,
        moments=tuple(moments),
        from_s=start,
        to_s=stop,
        about=about,
        voice=script.voice if heard else None,
        tolerance_s=WHEN_TOLERANCE_S if kind == "when" else None,
    )


def real_span(rng: random.Random, script: RealScript) -> tuple[float, float]:
    """A span of a fifth to two thirds of the video, on beats, moved outwards to where it cuts no event; seconds."""
    start, stop = (round(edge / BEAT_S) for edge in random_span(rng, script))
    for first, last in script.events:
        start = first if first < start < last else start
        stop = last if first < stop < last else stop
    return start * BEAT_S, stop * BEAT_S


class _View:
    """What a script holds inside a span."""

    def __init__(self, script: RealScript, span: tuple[float, float] | None) -> None:
        self.whole = span is None
        self.start, self.stop = span or (0.0, script.duration_s)
        self.script = script
        self.showings = [s for s in script.showings if s.stop_s > self.start and s.start_s < self.stop]
        self.flashes = [f for f in script.flashes if self.start <= f.start_s < self.stop]
        self.sayings: dict[str, list[Saying]] = {word: [] for word in script.words}
        for saying in script.sayings:
            if self.start <= saying.start_s < self.stop:
                self.sayings[saying.name].append(saying)
        self.by_name: dict[str, list[Showing]] = {name: [] for name in script.objects}
        for showing in self.showings:
            self.by_name[showing.name].append(showing)

    def said(self, low: int, high: int) -> list[str]:
        """The words said `low` to `high` times."""
        return [word for word, sayings in self.sayings.items() if low <= len(sayings) <= high]

    def shown(self, low: int, high: int) -> list[str]:
        """The names shown `low` to `high` times."""
        return [name for name, showings in self.by_name.items() if low <= len(showings) <= high]

    def showing_during(self, saying: Saying) -> Showing | None:
        return self.script.showing_at((saying.start_s + saying.stop_s) / 2)

    def name_during(self, saying: Saying) -> str:
        showing = self.showing_during(saying)
        return showing.name if showing else NOTHING

    def moment(self, saying: Saying) -> tuple[float, float]:
        """The half of the event that a word lies in."""
        for first, last in self.script.events:
            if first * BEAT_S <= saying.start_s < last * BEAT_S:
                middle = (first + last) * BEAT_S / 2
                return (first * BEAT_S, middle) if saying.start_s < middle else (middle, last * BEAT_S)
        raise ValueError(f"the word at {saying.start_s} s lies in no event")

    def inside(self, showing: Showing) -> tuple[float, float]:
        """When a picture is shown, inside the span."""
        return max(showing.start_s, self.start), min(showing.stop_s, self.stop)


def _needle(rng: random.Random, view: _View) -> BatchCache | None:
    if not view.flashes:
        # Many spans miss the flash: few of those are asked about, so that "nothing" keeps its share.
        if not view.whole and rng.random() < 0.98:
            return None
        return worded(rng, NEEDLE), FLASH, NOTHING, []
    flash = view.flashes[0]
    showing = view.script.showing_at(flash.start_s)
    answer = showing.name if showing else NOTHING
    return worded(rng, NEEDLE), FLASH, answer, [(flash.start_s, flash.stop_s)]


def _bind(rng: random.Random, view: _View) -> BatchCache | None:
    once = view.said(1, 1)
    empty = [word for word in once if view.showing_during(view.sayings[word][0]) is None]
    seen = [word for word in once if word not in empty]
    words = view.said(0, 0) + empty if rng.random() < P_NOTHING else seen
    if not words:
        return None
    word = rng.choice(words)
    sayings = view.sayings[word]
    answer = view.name_during(sayings[0]) if sayings else NOTHING
    return worded(rng, BIND, word), WORD + word, answer, [view.moment(saying) for saying in sayings]


def _ordinal(rng: random.Random, view: _View, index: int, place: str) -> BatchCache | None:
    absent = rng.random() < P_NOTHING
    words = view.said(0, 0) if absent else view.said(2, MAX_COUNT)
    words = [w for w in words if absent or view.showing_during(view.sayings[w][index]) is not None]
    if not words:
        return None
    word = rng.choice(words)
    sayings = view.sayings[word][index:][:1]
    answer = view.name_during(sayings[0]) if sayings else NOTHING
    return worded(rng, ORDINAL, word, place), WORD + word, answer, [view.moment(saying) for saying in sayings]


def _first(rng: random.Random, view: _View) -> BatchCache | None:
    return _ordinal(rng, view, 0, "first")


def _last(rng: random.Random, view: _View) -> BatchCache | None:
    return _ordinal(rng, view, -1, "last")


def _said(rng: random.Random, view: _View) -> BatchCache | None:
    """What was said while a picture was visible: its only time, or its first or last one."""
    heard: dict[float, str] = {}
    for sayings in view.sayings.values():
        for saying in sayings:
            showing = view.showing_during(saying)
            if showing is not None:
                heard[showing.start_s] = saying.name
    # "Nothing" comes far less often than pictures without a word do.
    wanted = rng.random() >= P_NOTHING
    place = rng.choice(("", "first", "last"))
    index = -1 if place == "last" else 0
    names = view.shown(2, len(view.showings)) if place else view.shown(1, 1)
    names = [name for name in names if (view.by_name[name][index].start_s in heard) == wanted]
    if not names:
        return None
    name = rng.choice(names)
    showing = view.by_name[name][index]
    text = worded(rng, SAID_ORDINAL if place else SAID, name, place)
    return text, OBJECT + name, heard.get(showing.start_s, NOTHING), [view.inside(showing)]


def _after(rng: random.Random, view: _View) -> BatchCache | None:
    """What was shown next after a picture that was shown once; nothing after the last one, or one that never was."""
    wanted = rng.random() >= P_NOTHING
    final = view.showings[-1].name if view.showings else NOTHING
    names = [name for name in view.shown(1, 1) if (name != final) == wanted]
    if not wanted:
        # An absent one is asked for as often as the last one is.
        absent = view.shown(0, 0)
        names = names[:1] if names and rng.random() < 0.5 else absent
    if not names:
        return None
    name = rng.choice(names)
    if not wanted:
        return worded(rng, AFTER, name), OBJECT + name, NOTHING, [view.inside(s) for s in view.by_name[name]]
    place = next(n for n, showing in enumerate(view.showings) if showing.name == name)
    pair = view.showings[place : place + 2]
    return worded(rng, AFTER, name), OBJECT + name, pair[1].name, [view.inside(showing) for showing in pair]


def _count(rng: random.Random, view: _View) -> BatchCache | None:
    times = rng.randint(1, MAX_COUNT)
    if rng.random() < 2 / 3:
        words = view.said(times, times)
        if not words:
            return None
        word = rng.choice(words)
        moments = [view.moment(saying) for saying in view.sayings[word]]
        return worded(rng, COUNT_WORD, word), WORD + word, str(times), moments
    names = view.shown(times, times)
    if not names:
        return None
    name = rng.choice(names)
    return worded(rng, COUNT_NAME, name), OBJECT + name, str(times), [view.inside(s) for s in view.by_name[name]]


def _exists(rng: random.Random, view: _View) -> BatchCache | None:
    yes = rng.random() < 0.5
    answer = "yes" if yes else "no"
    about = rng.choice(("word", "word", "name", "name", "flash"))
    if about == "word":
        words = view.said(1, MAX_COUNT) if yes else view.said(0, 0)
        if not words:
            return None
        word = rng.choice(words)
        return worded(rng, EXISTS_WORD, word), WORD + word, answer, [view.moment(s) for s in view.sayings[word]]
    if about == "flash":
        # A video without a flash is rare: ask about as many with one as without.
        if bool(view.flashes) != yes or (yes and view.whole and rng.random() < 7 / 8):
            return None
        return worded(rng, EXISTS_FLASH), FLASH, answer, [(f.start_s, f.stop_s) for f in view.flashes]
    names = view.shown(1, view.script.beats * 2) if yes else view.shown(0, 0)
    if not names:
        return None
    name = rng.choice(names)
    return worded(rng, EXISTS_NAME, name), OBJECT + name, answer, [view.inside(s) for s in view.by_name[name]]


def _when(rng: random.Random, view: _View) -> BatchCache | None:
    """The whole second of the video in which a word, or a showing of a picture, begins: its only, first or last one."""
    if not view.whole:
        return None
    place = rng.choice(("", "first", "last"))
    index, low, high = (-1 if place == "last" else 0), (2 if place else 1), (len(view.showings) if place else 1)
    if rng.random() < 0.5:
        names = view.shown(low, high)
        if not names:
            return None
        name = rng.choice(names)
        showing = view.by_name[name][index]
        text = worded(rng, WHEN_NAME_ORDINAL if place else WHEN_NAME, name, place)
        return text, OBJECT + name, str(int(showing.start_s)), [view.inside(showing)]
    words = view.said(low, MAX_COUNT if place else 1)
    if not words:
        return None
    word = rng.choice(words)
    saying = view.sayings[word][index]
    text = worded(rng, WHEN_ORDINAL if place else WHEN_WORD, word, place)
    return text, WORD + word, str(int(saying.start_s)), [view.moment(saying)]


def _caption(rng: random.Random, view: _View) -> BatchCache | None:
    """Everything about one span: for training, the densest question."""
    parts = [" then ".join(showing.name for showing in view.showings) or NOTHING]
    parts += [
        f"{saying.name} with {view.name_during(saying)}"
        for saying in view.script.sayings
        if view.start <= saying.start_s < view.stop
    ]
    if view.flashes:
        parts.append("flash")
    return CAPTION, CAPTION, " and ".join(parts), [(view.start, view.stop)]


DRAWERS: dict[Kind, Callable[[random.Random, _View], BatchCache | None]] = {
    "needle": _needle,
    "bind": _bind,
    "said": _said,
    "after": _after,
    "first": _first,
    "last": _last,
    "count": _count,
    "exists": _exists,
    "when": _when,
    "caption": _caption,
}
