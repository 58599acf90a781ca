"""A world of real material as training sees it: descriptions of its snippets, and a pool of its beats.

Shapes: P parts of a description.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchaudio.functional import resample

from longtake.errors import InputError
from longtake.operators.synthetic.questions import Kind
from longtake.operators.synthetic.recorded.material import LONGEST_S, Material
from longtake.operators.synthetic.recorded.script import RealScript, Saying, Showing
from longtake.operators.synthetic.script import BEAT_S, MAX_COUNT, Flash
from longtake.operators.synthetic.sounds import SAMPLE_RATE_HZ
from longtake.operators.synthetic.training.task import Part, PoolSpec
from longtake.operators.synthetic.worlds import RealWorld

T = TypeVar("T", Showing, Saying, Flash)

SHARES: dict[Kind, int] = {
    "needle": 1, "bind": 3, "said": 3, "after": 4, "first": 3, "last": 3, "count": 6, "exists": 4, "when": 5
}  # fmt: skip
# Speeds, in percent, at which every recording is also heard in training: pitch and formants move with it, so a voice
# becomes several (speed perturbation; Ko et al., Interspeech 2015, with a wider range for want of voices).
SPEEDS = (80, 90, 100, 110, 125)


class RecordedTask:
    """Training on a world of real material."""

    name = "real"
    shares = SHARES
    short_spans: tuple[Kind, ...] = ("exists", "count")

    def __init__(self, material: Material) -> None:
        self.world = RealWorld(material)
        self.key = f"real {material.fingerprint()}"
        self.objects, self.words = material.objects, material.words
        objects, words = len(self.objects) + 1, len(self.words) + 1
        self.parts: tuple[Part, ...] = (
            Part(name="object_first", values=objects, reader="object", sense="video", half="first"),
            Part(name="object_second", values=objects, reader="object", sense="video", half="second"),
            # A word may lie across the middle of a snippet, so it is looked for in all of it.
            Part(name="word", values=words, reader="word", sense="audio", of_sound=True),
            Part(name="real_flash", values=2, reader="flash", sense="video", reads="mean"),
            Part(name="object_heard", values=objects, of_sound=True),
        )
        # Pictures may be shown more often than any question counts.
        self.recalls: tuple[Part, ...] = (
            Part(name="before_first", values=objects),
            Part(name="before_second", values=objects),
            Part(name="times_first", values=MAX_COUNT + 2),
            Part(name="times_second", values=MAX_COUNT + 2),
            Part(name="times_said", values=MAX_COUNT + 1),
        )

    def recall(self, script: RealScript) -> Tensor:
        """See `Task.recall`: which picture was shown before those of a beat's two halves, the how manieth showing
        of its picture each is, and the how manieth time it is that the beat's word is said."""
        showings = sorted(script.showings, key=lambda showing: showing.start_s)
        names = [showing.name for showing in showings]
        times = dict.fromkeys(self.words, 0)
        rows = []
        for beat in range(script.beats):
            start, stop = beat * BEAT_S, (beat + 1) * BEAT_S
            before, shown = [], []
            for part in (0.25, 0.75):
                showing = script.showing_at(start + BEAT_S * part)
                place = showings.index(showing) if showing else 0
                before.append(self._object(showings[place - 1] if place else None))
                shown.append(min(MAX_COUNT + 1, names[: place + 1].count(showing.name)) if showing else 0)
            said = 0
            for saying in script.sayings:
                if start <= (saying.start_s + saying.stop_s) / 2 < stop:
                    times[saying.name] += 1
                    said = min(MAX_COUNT, times[saying.name])
            rows.append([*before, *shown, said])
        return torch.tensor(rows)

    def describe(self, script: RealScript) -> Tensor:
        """See `Task.describe`; a word belongs to the beat that its middle lies in."""
        rows = []
        for beat in range(script.beats):
            start, stop = beat * BEAT_S, (beat + 1) * BEAT_S
            first, second = (script.showing_at(start + BEAT_S * part) for part in (0.25, 0.75))
            said = [s for s in script.sayings if start <= (s.start_s + s.stop_s) / 2 < stop]
            heard_with = script.showing_at((said[0].start_s + said[0].stop_s) / 2) if said else None
            rows.append(
                [
                    self._object(first),
                    self._object(second),
                    self.words.index(said[0].name) + 1 if said else 0,
                    int(any(f.start_s < stop and f.stop_s > start for f in script.flashes)),
                    self._object(heard_with),
                ]
            )
        return torch.tensor(rows)

    def _object(self, showing: Showing | None) -> int:
        return self.objects.index(showing.name) + 1 if showing else 0

    def pool(self, spec: PoolSpec) -> RecordedPool:
        return RecordedPool(self.world, spec)

    def whole(self, script: RealScript, first: int, last: int) -> tuple[float, float]:
        """See `Task.whole`."""
        for start, stop in script.events:
            first = start if start < first < stop else first
            last = stop if start < last < stop else last
        return first * BEAT_S, last * BEAT_S


class RecordedPool:
    """The beats of many scripts, in runs that are never cut: an event with a word, or beats that share a picture.

    Raises:
        InputError: the scripts lack a word, a flash, or runs without either.
    """

    def __init__(self, world: RealWorld, spec: PoolSpec) -> None:
        self.objects, self.words = world.material.objects, world.material.words
        self.beats: list[RealScript] = []
        self.runs: list[range] = []
        self.names: list[frozenset[str]] = []
        # The numbers of runs: by the word said, with a flash, and others by their length.
        self.said: dict[str, list[int]] = {word: [] for word in self.words}
        self.flashing: list[int] = []
        self.other: dict[int, list[int]] = {}
        for script in spec.scripts(world):
            offset = len(self.beats)
            self.beats += [_beat_of(script, beat) for beat in range(script.beats)]
            for first, last in _runs(script):
                self._add(range(offset + first, offset + last))
        if not self.flashing or not all(self.said.values()) or 1 not in self.other:
            raise InputError(f"a pool of {len(self.beats)} beats lacks some kinds of event; take more videos")
        self.lengths = [length for length, runs in self.other.items() for _ in runs]

    def _add(self, run: range) -> None:
        number = len(self.runs)
        self.runs.append(run)
        beats = [self.beats[beat] for beat in run]
        self.names.append(frozenset(showing.name for beat in beats for showing in beat.showings))
        said = [saying.name for beat in beats for saying in beat.sayings]
        if any(beat.flashes for beat in beats):
            self.flashing.append(number)
        elif said:
            self.said[said[0]].append(number)
        else:
            self.other.setdefault(len(run), []).append(number)

    def arrange(self, rng: random.Random, beats: int) -> list[int]:
        """See `Pool.arrange`: each word at most four times, one flash at most, some names missing."""
        most = max(2, len(self.objects) - 1)
        cast = frozenset(rng.sample(self.objects, min(most, max(2, round(len(self.objects) * rng.uniform(0.6, 0.95))))))
        chosen: list[int] = []
        left = beats
        # Short videos are often fuller of words than the world's own: counting is learned there first.
        budget = max(1, round(beats * rng.uniform(0.15, 0.45)))
        for word in rng.sample(self.words, len(self.words)):
            times = rng.choices(range(MAX_COUNT + 1), weights=(20, 32, 16, 16, 16))[0]
            for _ in range(min(times, budget)):
                left = self._take(rng, self.said[word], cast, chosen, left)
                budget -= 1
        if rng.random() < 8 / 9:
            left = self._take(rng, self.flashing, cast, chosen, left)
        while left:
            length = rng.choice(self.lengths)
            left = self._take(rng, self.other[length if length <= left else 1], cast, chosen, left)
        rng.shuffle(chosen)
        self._part_twins(rng, chosen)
        return [beat for number in chosen for beat in self.runs[number]]

    def _take(self, rng: random.Random, runs: Sequence[int], cast: frozenset[str], chosen: list[int], left: int) -> int:
        """Add a random run whose names are all in the cast, if it fits; how many beats are left then."""
        for _ in range(8):
            number = rng.choice(runs)
            if len(self.runs[number]) <= left and self.names[number] <= cast:
                break
        # A name out of the cast is better than no run at all.
        if len(self.runs[number]) > left:
            return left
        chosen.append(number)
        return left - len(self.runs[number])

    def _part_twins(self, rng: random.Random, chosen: list[int]) -> None:
        """Move runs that begin with the name that the run before them ends with: the two would look like one."""
        for place in range(1, len(chosen)):
            if not self._touch(chosen[place - 1], chosen[place]):
                continue
            for other in rng.sample(range(place + 1, len(chosen)), len(chosen) - place - 1):
                if not self._touch(chosen[place - 1], chosen[other]):
                    chosen[place], chosen[other] = chosen[other], chosen[place]
                    break

    def _touch(self, before: int, after: int) -> bool:
        ends, begins = self.beats[self.runs[before][-1]], self.beats[self.runs[after][0]]
        return any(
            one.name == other.name and one.stop_s >= BEAT_S and other.start_s <= 0
            for one in ends.showings
            for other in begins.showings
        )

    def script(self, chosen: Sequence[int]) -> RealScript:
        """See `Pool.script`. Parts of one showing, or of one event, are put together again."""
        parts = [self.beats[number] for number in chosen]
        showings: list[Showing] = []
        for showing in _moved(parts, "showings"):
            last = showings[-1] if showings else None
            if last is not None and last.name == showing.name and showing.start_s - last.stop_s < 1e-6:
                showings[-1] = dataclasses.replace(last, stop_s=showing.stop_s)
            else:
                showings.append(showing)
        return dataclasses.replace(
            parts[0],
            beats=len(parts),
            showings=tuple(showings),
            sayings=tuple(_moved(parts, "sayings")),
            flashes=tuple(_moved(parts, "flashes")),
            events=tuple((first + n, last + n) for n, part in enumerate(parts) for first, last in part.events),
        )


def _runs(script: RealScript) -> list[tuple[int, int]]:
    """The beats [first, last) of every run, in order."""
    spans = [(first * BEAT_S, last * BEAT_S) for first, last in script.events]
    spans += [(showing.start_s, showing.stop_s) for showing in script.showings]
    cuts = [beat for beat in range(script.beats + 1) if not any(a < beat * BEAT_S < b for a, b in spans)]
    return list(itertools.pairwise(cuts))


def _beat_of(script: RealScript, beat: int) -> RealScript:
    """One beat as a script of its own. Words and events are those that begin in it, and may go on after it."""
    start, stop = beat * BEAT_S, (beat + 1) * BEAT_S
    return dataclasses.replace(
        script,
        beats=1,
        showings=tuple(
            dataclasses.replace(s, start_s=max(s.start_s, start) - start, stop_s=min(s.stop_s, stop) - start)
            for s in script.showings
            if s.start_s < stop and s.stop_s > start
        ),
        sayings=_begun(script.sayings, start, stop),
        flashes=_begun(script.flashes, start, stop),
        noises=(),
        scenes=(),
        events=tuple((0, last - first) for first, last in script.events if first == beat),
    )


def _begun(happenings: Sequence[T], start_s: float, stop_s: float) -> tuple[T, ...]:
    return tuple(_later(one, -start_s) for one in happenings if start_s <= one.start_s < stop_s)


def _moved(parts: Sequence[RealScript], name: str) -> Iterator[Any]:
    """What one-beat scripts hold of one sort, at its time in the video of them all."""
    for number, part in enumerate(parts):
        for one in getattr(part, name):
            yield _later(one, number * BEAT_S)


def _later(one: T, seconds: float) -> T:
    return dataclasses.replace(one, start_s=one.start_s + seconds, stop_s=one.stop_s + seconds)


def many_voices(material: Material) -> Material:
    """A material with every recording also at the other `SPEEDS`, but where that makes it too long."""
    recordings = []
    threads = torch.get_num_threads()
    # Another number of threads rounds otherwise, and a run must find the same material when it goes on.
    torch.set_num_threads(1)
    try:
        for percent in SPEEDS:
            for recording in material.recordings:
                wave = torch.from_numpy(recording.samples)
                samples = wave if percent == 100 else resample(wave, percent, 100)
                if len(samples) <= LONGEST_S * SAMPLE_RATE_HZ:
                    recordings.append(dataclasses.replace(recording, samples=samples.numpy()))
    finally:
        torch.set_num_threads(threads)
    return dataclasses.replace(material, recordings=tuple(recordings))
