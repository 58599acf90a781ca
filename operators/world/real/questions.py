"""Questions about a video of real material, in varied wording, with answers and evidence taken from its script.

Wording is drawn from several templates a kind; text is lower case without punctuation, as the built-in world's.
Answers are balanced: names are uniform by construction, yes and no are asked equally often, a count is first drawn
and then a name that has it, and "nothing" is about one of nine draws of every open kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

from longtake.operators.world.questions import NOTHING, P_NOTHING, Kind, Question, random_span
from longtake.operators.world.real.material import Material
from longtake.operators.world.real.script import RealScript, Saying, Showing
from longtake.operators.world.script import BEAT_S, MAX_COUNT

# The kinds that are evaluated.
REAL_KINDS: tuple[Kind, ...] = ("needle", "bind", "said", "after", "first", "last", "count", "exists", "when")
# The kinds of which a share of the answers is "nothing", whatever the videos hold; "needle" has its share from them.
OPEN_KINDS: tuple[Kind, ...] = ("bind", "said", "after", "first", "last")
# An answer in whole seconds counts within this.
WHEN_TOLERANCE_S = 2.0

Drawn: TypeAlias = tuple[str, str, str, list[tuple[float, float]]]

NEEDLE = (
    "which object was shown when the border flashed",
    "what was on screen when the border flashed",
    "what could be seen during the flash of the border",
    "when the border flashed which object was visible",
)
BIND = (
    "which object was on screen when the voice said {word}",
    "what was visible while the voice said {word}",
    "what could be seen as {word} was said",
    "which object was shown while {word} was spoken",
)
ORDINAL = (
    "which object was on screen the {place} time the voice said {word}",
    "what was visible when {word} was said for the {place} time",
    "the {place} time {word} was spoken which object was shown",
    "what could be seen the {place} time the voice said {word}",
)
SAID = (
    "what did the voice say while the {name} was visible",
    "which word was spoken while the {name} was on screen",
    "what was said when the {name} was shown",
    "what could be heard from the voice while the {name} was shown",
)
SAID_ORDINAL = (
    "what did the voice say the {place} time the {name} was visible",
    "which word was spoken when the {name} was shown for the {place} time",
    "the {place} time the {name} was on screen what was said",
)
AFTER = (
    "what came right after the {name}",
    "which object followed the {name}",
    "what was shown next after the {name}",
    "which object was visible right after the {name}",
)
COUNT_WORD = (
    "how many times did the voice say {word}",
    "how often was {word} said",
    "how many times was {word} spoken",
)
COUNT_NAME = (
    "how many times was {an} {name} shown",
    "how often did {an} {name} appear",
    "how often was {an} {name} on screen",
)
EXISTS_WORD = ("did the voice say {word}", "was {word} said", "was {word} spoken at some time")
EXISTS_NAME = ("was there {an} {name}", "was {an} {name} shown", "did {an} {name} appear")
EXISTS_FLASH = ("did the border flash", "was there a flash of the border")
WHEN_WORD = ("when did the voice say {word}", "at which second was {word} said", "when was {word} spoken")
WHEN_ORDINAL = ("when did the voice say {word} for the {place} time", "when was {word} said the {place} time")
WHEN_NAME = ("when was the {name} shown", "at which second did the {name} appear", "when did the {name} come on screen")
TEMPLATES = (
    *(NEEDLE + BIND + ORDINAL + SAID + SAID_ORDINAL + AFTER + COUNT_WORD + COUNT_NAME),
    *(EXISTS_WORD + EXISTS_NAME + EXISTS_FLASH + WHEN_WORD + WHEN_ORDINAL + WHEN_NAME),
)
CAPTION = "what happens"
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


def real_word_list(material: Material, seconds: int) -> tuple[str, ...]:
    """Every word that questions and answers about videos of up to `seconds` may hold, in a fixed order."""
    text = " ".join((*TEMPLATES, CAPTION))
    for blank in ("{word}", "{name}", "{place}", "{an}"):
        text = text.replace(blank, " ")
    names = " ".join((*material.objects, *material.words))
    numbers = [str(n) for n in range(max(MAX_COUNT + 1, seconds))]
    glue = ["first", "last", "a", "an", NOTHING, "yes", "no", "then", "with", "and", "flash"]
    return tuple(dict.fromkeys([*text.split(), *glue, *names.split(), *numbers]))


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


def _worded(rng: random.Random, templates: Sequence[str], name: str = "", place: str = "") -> str:
    article = "an" if name[:1] in "aeiou" else "a"
    return rng.choice(templates).format(word=name, name=name, an=article, place=place)


def _needle(rng: random.Random, view: _View) -> Drawn | None:
    if not view.flashes:
        # Most spans miss the flash: few of those are asked about, so that "nothing" keeps its share.
        if not view.whole and rng.random() < 0.92:
            return None
        return _worded(rng, NEEDLE), FLASH, NOTHING, []
    flash = view.flashes[0]
    showing = view.script.showing_at(flash.start_s)
    answer = showing.name if showing else NOTHING
    return _worded(rng, NEEDLE), FLASH, answer, [(flash.start_s, flash.stop_s)]


def _bind(rng: random.Random, view: _View) -> Drawn | None:
    once = view.said(1, 1)
    empty = [word for word in once if view.showing_during(view.sayings[word][0]) is None]
    seen = [word for word in once if word not in empty]
    words = view.said(0, 0) + empty if rng.random() < P_NOTHING else seen
    if not words:
        return None
    word = rng.choice(words)
    sayings = view.sayings[word]
    answer = view.name_during(sayings[0]) if sayings else NOTHING
    return _worded(rng, BIND, word), WORD + word, answer, [view.moment(saying) for saying in sayings]


def _ordinal(rng: random.Random, view: _View, index: int, place: str) -> Drawn | None:
    absent = rng.random() < P_NOTHING
    words = view.said(0, 0) if absent else view.said(2, MAX_COUNT)
    words = [w for w in words if absent or view.showing_during(view.sayings[w][index]) is not None]
    if not words:
        return None
    word = rng.choice(words)
    sayings = view.sayings[word][index:][:1]
    answer = view.name_during(sayings[0]) if sayings else NOTHING
    return _worded(rng, ORDINAL, word, place), WORD + word, answer, [view.moment(saying) for saying in sayings]


def _first(rng: random.Random, view: _View) -> Drawn | None:
    return _ordinal(rng, view, 0, "first")


def _last(rng: random.Random, view: _View) -> Drawn | None:
    return _ordinal(rng, view, -1, "last")


def _said(rng: random.Random, view: _View) -> Drawn | None:
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
    text = _worded(rng, SAID_ORDINAL if place else SAID, name, place)
    return text, OBJECT + name, heard.get(showing.start_s, NOTHING), [view.inside(showing)]


def _after(rng: random.Random, view: _View) -> Drawn | None:
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
        return _worded(rng, AFTER, name), OBJECT + name, NOTHING, [view.inside(s) for s in view.by_name[name]]
    place = next(n for n, showing in enumerate(view.showings) if showing.name == name)
    pair = view.showings[place : place + 2]
    return _worded(rng, AFTER, name), OBJECT + name, pair[1].name, [view.inside(showing) for showing in pair]


def _count(rng: random.Random, view: _View) -> Drawn | None:
    times = rng.randint(1, MAX_COUNT)
    if rng.random() < 2 / 3:
        words = view.said(times, times)
        if not words:
            return None
        word = rng.choice(words)
        moments = [view.moment(saying) for saying in view.sayings[word]]
        return _worded(rng, COUNT_WORD, word), WORD + word, str(times), moments
    names = view.shown(times, times)
    if not names:
        return None
    name = rng.choice(names)
    return _worded(rng, COUNT_NAME, name), OBJECT + name, str(times), [view.inside(s) for s in view.by_name[name]]


def _exists(rng: random.Random, view: _View) -> Drawn | None:
    yes = rng.random() < 0.5
    answer = "yes" if yes else "no"
    about = rng.choice(("word", "word", "name", "name", "flash"))
    if about == "word":
        words = view.said(1, MAX_COUNT) if yes else view.said(0, 0)
        if not words:
            return None
        word = rng.choice(words)
        return _worded(rng, EXISTS_WORD, word), WORD + word, answer, [view.moment(s) for s in view.sayings[word]]
    if about == "flash":
        # A video without a flash is rare: ask about as many with one as without.
        if bool(view.flashes) != yes or (yes and view.whole and rng.random() < 7 / 8):
            return None
        return _worded(rng, EXISTS_FLASH), FLASH, answer, [(f.start_s, f.stop_s) for f in view.flashes]
    names = view.shown(1, view.script.beats * 2) if yes else view.shown(0, 0)
    if not names:
        return None
    name = rng.choice(names)
    return _worded(rng, EXISTS_NAME, name), OBJECT + name, answer, [view.inside(s) for s in view.by_name[name]]


def _when(rng: random.Random, view: _View) -> Drawn | None:
    """The whole second of the video in which a word, or the one showing of a picture, begins."""
    if not view.whole:
        return None
    sort = rng.choice(("word", "ordinal", "name"))
    if sort == "name":
        names = view.shown(1, 1)
        if not names:
            return None
        name = rng.choice(names)
        showing = view.by_name[name][0]
        return _worded(rng, WHEN_NAME, name), OBJECT + name, str(int(showing.start_s)), [view.inside(showing)]
    words = view.said(1, 1) if sort == "word" else view.said(2, MAX_COUNT)
    if not words:
        return None
    word = rng.choice(words)
    place = rng.choice(("first", "last"))
    saying = view.sayings[word][0 if place == "first" else -1]
    text = _worded(rng, WHEN_WORD if sort == "word" else WHEN_ORDINAL, word, place)
    return text, WORD + word, str(int(saying.start_s)), [view.moment(saying)]


def _caption(rng: random.Random, view: _View) -> Drawn | None:
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


DRAWERS: dict[Kind, Callable[[random.Random, _View], Drawn | None]] = {
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
