"""A material of made pictures and tones, for tests of worlds of real material."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from longtake.operators.synthetic.recorded.material import SIDE, Material, Recording
from longtake.operators.synthetic.recorded.script import RealScript, write_real_script
from longtake.operators.synthetic.sounds import SAMPLE_RATE_HZ
from longtake.operators.synthetic.worlds import RealWorld

OBJECTS = ("apple", "fire truck", "guitar", "rocket", "tree", "umbrella", "house", "key")
WORDS = ("one", "two", "three", "four", "five", "six")
SPEAKERS = ("anna", "ben", "carl")
TAKES = 20


@lru_cache
def material() -> Material:
    """Discs, each of a colour of its own; tones of 0.15 to 1.2 s, each speaker at frequencies of his own."""
    rng = np.random.default_rng(0)
    axis = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    sprites = np.zeros((len(OBJECTS), SIDE, SIDE, 4), dtype=np.uint8)
    sprites[..., 3] = 255 * (axis[:, None] ** 2 + axis[None] ** 2 < 0.81)
    for number in range(len(OBJECTS)):
        sprites[number, ..., :3] = colour(number)
    recordings = []
    for label in WORDS:
        for speaker in SPEAKERS:
            for take in range(TAKES):
                t = np.arange(int(rng.uniform(0.15, 1.2) * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
                hz = 200 + 100 * WORDS.index(label) + 37 * SPEAKERS.index(speaker)
                samples = (0.3 * np.sin(2 * np.pi * hz * t)).astype(np.float32)
                recordings.append(Recording(label=label, speaker=speaker, take=str(take), samples=samples))
    return Material(names=OBJECTS, sprites_PSS4=sprites, recordings=tuple(recordings))


def colour(number: int) -> tuple[int, int, int]:
    return 40 + 200 * (number & 1), 40 + 100 * (number & 2), 40 + 50 * (number & 4)


@lru_cache
def world() -> RealWorld:
    return RealWorld(material())


def script_of(seed: int, beats: int) -> RealScript:
    return write_real_script(material(), seed, beats)
