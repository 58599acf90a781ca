"""What training needs to know of a made world: how its snippets are described, cut into a pool, and asked about.

Shapes: T beats of a script, P parts of a description.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor

from longtake.operators.synthetic.questions import Kind, Question, Timeline
from longtake.operators.synthetic.script import BEAT_S
from longtake.operators.synthetic.worlds import World

S = TypeVar("S", bound=Timeline)
S_co = TypeVar("S_co", bound=Timeline, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that a description says of a snippet: a class of `values`, of which 0 is "none".

    Every part is read off the combined tokens. `reader` names the linear layer that also reads it off features of one
    `sense` (parts may share one), from one half of the snippet or all of it: a value counts where any token says so
    ("loudest"), or what the mean of all tokens says does ("mean").
    """

    name: str
    values: int
    reader: str | None = None
    sense: Literal["video", "audio"] | None = None
    half: Literal["first", "second"] | None = None
    reads: Literal["loudest", "mean"] = "loudest"
    # Cannot be known of a snippet without sound.
    of_sound: bool = False


@dataclass(frozen=True, kw_only=True)
class PoolSpec:
    """Which made videos a pool is cut from; the same spec and world give the same beats."""

    videos: int
    beats: int
    seed: int

    def scripts(self, world: World[S]) -> list[S]:
        """The source videos."""
        rng = random.Random(f"pool {self.seed}")
        return [world.script(rng.randrange(2**62), self.beats) for _ in range(self.videos)]


class Pool(Protocol[S_co]):
    """The beats of many videos, of which new ones are put together."""

    @property
    def beats(self) -> Sequence[S_co]:
        """Every beat as a script of its own, in the order of the source videos."""
        ...

    def arrange(self, rng: random.Random, beats: int) -> list[int]:
        """A random long video that obeys the world's rules: the pool's beats to show, in order."""
        ...

    def script(self, chosen: Sequence[int]) -> S_co:
        """The script of an arrangement."""
        ...


class Task(Protocol[S]):
    """A made world as training sees it."""

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str:
        """Names the world with its material: two tasks with one key make the same videos."""
        ...

    @property
    def world(self) -> World[S]: ...

    @property
    def parts(self) -> tuple[Part, ...]:
        """What a description says."""
        ...

    @property
    def recalls(self) -> tuple[Part, ...]:
        """What `recall` says."""
        ...

    @property
    def shares(self) -> Mapping[Kind, int]:
        """How often each kind is asked in training; the kinds that take longest to learn come more often."""
        ...

    @property
    def short_spans(self) -> tuple[Kind, ...]:
        """The kinds that half of the time are asked about a span of a few beats: what is learned there first."""
        ...

    def describe(self, script: S) -> Tensor:
        """The description of every beat, int64 [T, P], in the order of `parts`."""
        ...

    def recall(self, script: S) -> Tensor:
        """What every beat is after all that came before it, int64 [T, parts], in the order of `recalls`."""
        ...

    def pool(self, spec: PoolSpec) -> Pool[S]:
        """The pool of a spec.

        Raises:
            InputError: the spec's videos lack a kind of event.
        """
        ...

    def whole(self, script: S, first: int, last: int) -> tuple[float, float]:
        """The beats [first, last) moved outwards to where they cut no event, in seconds."""
        ...


def draw_questions(
    rng: random.Random,
    task: Task[Any],
    script: Timeline,
    count: int,
    captions: int,
    spans: float,
) -> list[Question]:
    """`count` random questions about a script: first `captions` descriptions of one beat, then all other kinds, a
    share of `spans` of them about a span. Where a script has too little to ask about, some come
    twice."""
    world, shares = task.world, task.shares
    drawn: list[Question] = []
    for _ in range(20 * count):
        if len(drawn) == count:
            break
        if len(drawn) < captions:
            beat = rng.randrange(script.beats)
            question = world.ask(rng, script, "caption", task.whole(script, beat, beat + 1))
        else:
            kind = rng.choices(list(shares), list(shares.values()))[0]
            span = world.span(rng, script) if rng.random() < spans else None
            if span is None and kind in task.short_spans and rng.random() < 0.5:
                # One to four beats: whether a red star was shown is learned first where little else was.
                beats = rng.randint(1, min(4, script.beats))
                first = rng.randint(0, script.beats - beats)
                span = task.whole(script, first, first + beats)
            question = world.ask(rng, script, kind, span)
        if question is not None:
            drawn.append(question)
    while len(drawn) < count:
        drawn.append(drawn[rng.randrange(len(drawn))])
    return drawn


def of_beats(first: int, last: int) -> tuple[float, float]:
    """Beats [first, last) in seconds."""
    return first * BEAT_S, last * BEAT_S
