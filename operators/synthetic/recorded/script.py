"""What happens in a video of real material: named pictures on screen, words that voices say, a border flash, noise.

Time runs in the built-in world's beats. An event shows two pictures, one in each half, and a word is said in one of
the halves only, so what was on screen while it was said cannot be told from the event alone. An event is one beat
long, or two or three where the recording is longer than half a beat: recordings are never cut. Distractors: pictures
without a word, words over an empty screen, sounds that no question names (also in the other half of an event),
cluttered scenes. Noise lies under all of it.
"""

from __future__ import annotations

import dataclasses
import math
import random
from dataclasses import dataclass
from typing import Literal, get_args

from longtake.operators.synthetic.recorded.material import Material, Recording, Voice
from longtake.operators.synthetic.script import BEAT_S, CLUTTER, MAX_COUNT, NOISES, Flash, Scene, Sound, draw_scenes

NoiseColour = Literal["white", "pink", "brown"]
# The least silence around a recording inside its half of an event.
MARGIN_S = 0.01
SNR_DB = (5.0, 30.0)


@dataclass(frozen=True, kw_only=True)
class Showing:
    """A picture on screen during [start_s, stop_s), moving on a straight line, growing, turning, fading in and out.

    Places are in picture widths and heights as in the built-in world; `size` is half the side in picture heights at
    the start and `growth` its relative change until the end; `angle` and `turn` are in radians, `turn` until the end.
    """

    name: str
    picture: int
    start_s: float
    stop_s: float
    x: float
    y: float
    vx: float
    vy: float
    size: float
    growth: float
    angle: float
    turn: float
    fade_s: float

    def opacity(self, time_s: float) -> float:
        """How much of it covers what is behind, from 0 to 1."""
        return max(0.0, min(1.0, (time_s - self.start_s) / self.fade_s, (self.stop_s - time_s) / self.fade_s))


@dataclass(frozen=True, kw_only=True)
class Saying:
    """A word said during [start_s, stop_s), `snr_db` above the noise (root mean squares over the word)."""

    name: str
    recording: int
    start_s: float
    stop_s: float
    snr_db: float


@dataclass(frozen=True, kw_only=True)
class RealScript:
    """A whole video. `events` are the beats [first, last) of each event with a word; no span may cut one."""

    beats: int
    showings: tuple[Showing, ...]
    sayings: tuple[Saying, ...]
    noises: tuple[Sound, ...]
    flashes: tuple[Flash, ...]
    scenes: tuple[Scene, ...]
    events: tuple[tuple[int, int], ...]
    # The words that may be said: a question about an absent one asks for one of these.
    words: tuple[str, ...]
    objects: tuple[str, ...]
    voice: Voice
    noise: NoiseColour
    # Root mean square of the noise.
    noise_rms: float
    seed: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.beats * BEAT_S

    def showing_at(self, time_s: float) -> Showing | None:
        """What is on screen at a moment; at most one picture is."""
        return next((showing for showing in self.showings if showing.start_s <= time_s < showing.stop_s), None)


def event_beats(recording: Recording) -> int:
    """How many beats an event needs so that half of it holds the whole recording."""
    return math.ceil((recording.duration_s + 2 * MARGIN_S) / (BEAT_S / 2))


def write_real_script(material: Material, seed: int, beats: int) -> RealScript:
    """A random video of `beats` beats; the same material and seed give the same video.

    All words of a video are said by trained voices, or all by unseen ones where the material has both.

    Raises:
        ValueError: no beat.
    """
    if beats < 1:
        raise ValueError(f"a video needs at least 1 beat, not {beats}")
    rng = random.Random(f"longtake real world {seed} {beats}")
    voices: list[Voice] = sorted({recording.voice for recording in material.recordings})
    voice = rng.choice(voices)
    spoken: dict[str, list[int]] = {}
    for number, recording in enumerate(material.recordings):
        if recording.voice == voice:
            spoken.setdefault(recording.label, []).append(number)
    # A name or more is missing from every video (but of two), so that what was not there can be asked.
    objects = material.objects
    most = max(2, len(objects) - 1)
    cast = rng.sample(objects, min(most, max(2, round(len(objects) * rng.uniform(0.6, 0.95)))))
    pictures = {name: [n for n, other in enumerate(material.names) if other == name] for name in cast}
    scenes = draw_scenes(rng, beats)
    clutter = {b for s in scenes if s.kind == CLUTTER for b in range(int(s.start_s), int(s.stop_s))}
    free = set(range(beats)) - clutter
    shown: list[Showing] = []
    sayings: list[Saying] = []
    noises: list[Sound] = []
    flashes: list[Flash] = []
    events: list[tuple[int, int]] = []
    video_snr_db = rng.uniform(*SNR_DB)
    for name in _words_said(rng, sorted(spoken), max(1, beats // 3)):
        number = rng.choice(spoken[name])
        first = _room(rng, free, event_beats(material.recordings[number]))
        if first is None:
            continue
        last = first + event_beats(material.recordings[number])
        free -= set(range(first, last))
        events.append((first, last))
        half, side = (last - first) * BEAT_S / 2, rng.randrange(2)
        snr_db = min(SNR_DB[1], max(SNR_DB[0], video_snr_db + rng.uniform(-3, 3)))
        sayings.append(_saying(rng, material, number, first * BEAT_S + side * half, half, snr_db))
        if rng.random() < 0.3:
            noises.append(_noise(rng, first * BEAT_S + (1 - side) * half, half))
        # Now and then a word is said over an empty screen.
        if rng.random() >= 0.06:
            shown += _pair(rng, cast, first * BEAT_S, half)
    if free and rng.random() < 8 / 9:
        beat = rng.choice(sorted(free))
        free.remove(beat)
        shown.append(_showing(rng, cast, beat * BEAT_S, (beat + 1) * BEAT_S))
        flashes.append(Flash(start_s=beat * BEAT_S + 0.25, stop_s=beat * BEAT_S + 0.75))
    for _ in range(round(beats * 0.1)):
        if not free:
            break
        beat = rng.choice(sorted(free))
        free.remove(beat)
        shown += _pair(rng, cast, beat * BEAT_S, BEAT_S / 2)
        if rng.random() < 0.5:
            noises.append(_noise(rng, beat * BEAT_S + rng.randrange(2) * BEAT_S / 2, BEAT_S / 2))
    shown += _wanderers(rng, cast, sorted(free))
    noises.extend(
        _noise(rng, beat * BEAT_S + rng.randrange(2) * BEAT_S / 2, BEAT_S / 2)
        for beat in sorted(free | clutter)
        if rng.random() < 0.25
    )
    return RealScript(
        beats=beats,
        showings=_dressed(rng, cast, pictures, sorted(shown, key=lambda showing: showing.start_s)),
        sayings=tuple(sorted(sayings, key=lambda saying: saying.start_s)),
        noises=tuple(sorted(noises, key=lambda sound: sound.start_s)),
        flashes=tuple(flashes),
        scenes=tuple(scenes),
        events=tuple(sorted(events)),
        words=tuple(sorted(spoken)),
        objects=objects,
        voice=voice,
        noise=rng.choice(get_args(NoiseColour)),
        noise_rms=rng.uniform(0.03, 0.1) / 10 ** (video_snr_db / 20),
        seed=seed,
    )


def _words_said(rng: random.Random, words: list[str], most: int) -> list[str]:
    """The words of a video in the order of placing, each said 0 to 4 times, `most` in all."""
    said: list[str] = []
    for word in rng.sample(words, len(words)):
        times = rng.choices(range(MAX_COUNT + 1), weights=(20, 32, 16, 16, 16))[0]
        said += [word] * min(times, most - len(said))
    return said


def _room(rng: random.Random, free: set[int], beats: int) -> int | None:
    """The first of `beats` free beats in a row, or None."""
    starts = [b for b in sorted(free) if all(b + more in free for more in range(beats))]
    return rng.choice(starts) if starts else None


def _saying(
    rng: random.Random, material: Material, number: int, start_s: float, half_s: float, snr_db: float
) -> Saying:
    recording = material.recordings[number]
    start_s += rng.uniform(MARGIN_S, half_s - recording.duration_s - MARGIN_S)
    return Saying(
        name=recording.label,
        recording=number,
        start_s=start_s,
        stop_s=start_s + recording.duration_s,
        snr_db=snr_db,
    )


def _noise(rng: random.Random, start_s: float, half_s: float) -> Sound:
    return Sound(
        name=rng.choice(NOISES),
        start_s=start_s + rng.uniform(0.02, 0.08),
        stop_s=start_s + half_s - rng.uniform(0.02, 0.06),
        pitch=rng.uniform(0.92, 1.08),
        gain=rng.uniform(0.05, 0.5),
    )


def _pair(rng: random.Random, cast: list[str], start_s: float, half_s: float) -> list[Showing]:
    """One showing in each half; that they differ is seen to when all are known."""
    middle = start_s + half_s
    return [_showing(rng, cast, start_s, middle), _showing(rng, cast, middle, middle + half_s)]


def _showing(rng: random.Random, cast: list[str], start_s: float, stop_s: float) -> Showing:
    size, growth = rng.uniform(0.18, 0.26), rng.uniform(-0.25, 0.3)
    # Inside the picture (square or wider) by the larger of the sizes at both ends, corners that turn excepted.
    room = size * max(1.0, 1 + growth)
    x0, x1, y0, y1 = (rng.uniform(room, 1 - room) for _ in range(4))
    length = stop_s - start_s
    reach = min(1.0, 0.5 * length)
    return Showing(
        name=rng.choice(cast),
        picture=-1,
        start_s=start_s,
        stop_s=stop_s,
        x=x0,
        y=y0,
        vx=(x1 - x0) * reach / length,
        vy=(y1 - y0) * reach / length,
        size=size,
        growth=growth,
        angle=rng.uniform(-0.4, 0.4),
        turn=rng.uniform(-0.6, 0.6),
        fade_s=rng.uniform(0.04, 0.12) * min(2.0, 2 * length),
    )


def _dressed(
    rng: random.Random, cast: list[str], pictures: dict[str, list[int]], shown: list[Showing]
) -> tuple[Showing, ...]:
    """Showings in order of time, each with its picture, and none named as the one before it: two of a name in a row
    would look like one."""
    dressed: list[Showing] = []
    for showing in shown:
        name = showing.name
        while dressed and name == dressed[-1].name:
            name = rng.choice(cast)
        dressed.append(dataclasses.replace(showing, name=name, picture=rng.choice(pictures[name])))
    return tuple(dressed)


def _wanderers(rng: random.Random, cast: list[str], free: list[int]) -> list[Showing]:
    """Single pictures that stay for one to four beats in a row of otherwise empty beats."""
    shown = []
    place = 0
    while place < len(free):
        run = 1
        while run < 4 and place + run < len(free) and free[place + run] == free[place] + run:
            run += 1
        run = rng.randint(1, run)
        if rng.random() < 0.5:
            shown.append(_showing(rng, cast, free[place] * BEAT_S, (free[place] + run) * BEAT_S))
        place += run
    return shown
