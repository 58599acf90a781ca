"""The made world's sounds, synthesized: six that questions name and five that they do not.

Each is a function of a time axis t in seconds from the sound's start, its length, a pitch factor and a random source,
and gives float32 samples of about unit loudness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from longtake.operators.synthetic.script import Script, Sound

SAMPLE_RATE_HZ = 16_000

Array: TypeAlias = npt.NDArray[np.float64]
Synth = Callable[[Array, float, float, np.random.Generator], Array]


def render_sound(script: Script) -> npt.NDArray[np.float32]:
    """The sound of a script, float32 mono at 16 kHz, within [-1, 1]."""
    samples = round(script.duration_s * SAMPLE_RATE_HZ)
    rng = np.random.default_rng(script.seed)
    wave = rng.standard_normal(samples).astype(np.float32) * np.float32(script.ambience)
    add_sounds(wave, script.sounds, script.seed)
    return wave.clip(-1.0, 1.0)


def add_sounds(wave: npt.NDArray[np.float32], sounds: Sequence[Sound], seed: int) -> None:
    """Mix sounds into a float32 wave of 16 kHz, in place; their noise is fixed by the seed and by their number."""
    for number, sound in enumerate(sounds):
        begin, end = round(sound.start_s * SAMPLE_RATE_HZ), round(sound.stop_s * SAMPLE_RATE_HZ)
        t = np.arange(end - begin) / SAMPLE_RATE_HZ
        length = len(t) / SAMPLE_RATE_HZ
        voice = SYNTHS[sound.name](t, length, sound.pitch, np.random.default_rng((seed, number)))
        # Ten milliseconds of fade at both ends, against clicks.
        fade = np.minimum(1.0, np.minimum(t, length - t) / 0.01)
        wave[begin:end] += (voice * fade * sound.gain * 0.4).astype(np.float32)


def _harmonics(t: Array, hz: float, weights: list[float]) -> Array:
    wave = np.zeros(len(t))
    for k, weight in enumerate(weights):
        wave += weight * np.sin(2 * math.pi * hz * (k + 1) * t)
    return wave / sum(weights)


def _horn(t: Array, length: float, pitch: float, rng: np.random.Generator) -> Array:
    rise = np.minimum(1.0, t / 0.06)
    return rise * (
        _harmonics(t, 220 * pitch, [1, 0.9, 0.8, 0.6, 0.4, 0.3]) + _harmonics(t, 277 * pitch, [1, 0.8, 0.6, 0.4])
    )


def _bell(t: Array, length: float, pitch: float, rng: np.random.Generator) -> Array:
    partials = [(880, 1.0, 3), (2120, 0.7, 5), (2990, 0.5, 7), (4300, 0.35, 10)]
    wave = np.zeros(len(t))
    for hz, weight, decay in partials:
        wave += weight * np.exp(-decay * t) * np.sin(2 * math.pi * hz * pitch * t)
    return wave


def _whistle(t: Array, length: float, pitch: float, rng: np.random.Generator) -> Array:
    phase = 2 * math.pi * (2300 * pitch * t + 12 * np.sin(2 * math.pi * 7 * t) / 7)
    return np.sin(phase) + 0.05 * rng.standard_normal(len(t))


def _drum(t: Array, length: float, pitch: float, rng: np.random.Generator) -> Array:
    beat = np.mod(t, 0.14)
    body = np.sin(2 * math.pi * (70 * pitch * beat + 2.5 * (1 - np.exp(-30 * beat))))
    wave: Array = np.exp(-18 * beat) * (1.3 * body + 0.25 * rng.standard_normal(len(t)) * np.exp(-60 * beat))
    return wave


def _siren(t: Array, length: float, pitch: float, rng: np.random.Generator) -> Array:
    sweep = 900 * pitch * t - 350 * pitch * np.cos(2 * math.pi * 4 * t) / (2 * math.pi * 4)
    return np.sin(2 * math.pi * sweep) + 0.3 * np.sin(4 * math.pi * sweep)


def _buzzer(t: Array, length: float, pitch: float, rng: np.random.Generator) -> Array:
    rattle = 0.6 + 0.4 * np.sign(np.sin(2 * math.pi * 23 * t))
    wave: Array = np.sign(np.sin(2 * math.pi * 110 * pitch * t)) * rattle * 0.8
    return wave


def _hiss(t: Array, length: float, pitch: float, rng: np.random.Generator) -> Array:
    return 0.5 * rng.standard_normal(len(t))


def _click(t: Array, length: float, pitch: float, rng: np.random.Generator) -> Array:
    wave = np.zeros(len(t))
    for _ in range(int(rng.integers(3, 9))):
        at = int(rng.integers(0, len(t)))
        wave[at : at + 40] += rng.standard_normal(len(wave[at : at + 40]))
    return wave


def _hum(t: Array, length: float, pitch: float, rng: np.random.Generator) -> Array:
    return _harmonics(t, rng.uniform(45, 60) * pitch, [1.0, 0.4, 0.1])


def _pluck(t: Array, length: float, pitch: float, rng: np.random.Generator) -> Array:
    """A short melody of decaying notes, at random pitches."""
    wave = np.zeros(len(t))
    for onset in np.arange(0, length, 0.11):
        hz = 180 * 2 ** (float(rng.integers(0, 25)) / 12)
        local = np.clip(t - onset, 0, None)
        wave += (t >= onset) * np.exp(-9 * local) * _harmonics(local, hz, [1, 0.5, 0.25, 0.12])
    return wave


def _babble(t: Array, length: float, pitch: float, rng: np.random.Generator) -> Array:
    """Voice-like: a buzz with a wandering pitch through two wandering resonances."""
    glide = rng.uniform(110, 230) * (1 + 0.2 * np.sin(2 * math.pi * rng.uniform(2, 5) * t + rng.uniform(0, 6)))
    phase = 2 * math.pi * np.cumsum(glide) / SAMPLE_RATE_HZ
    wave = np.zeros(len(t))
    for low, high in ((300, 800), (900, 2400)):
        formant = rng.uniform(low, high) * (1 + 0.3 * np.sin(2 * math.pi * rng.uniform(2, 6) * t))
        for k in range(1, 16):
            wave += np.exp(-(((k * glide - formant) / 180) ** 2)) * np.sin(k * phase)
    return wave * (0.55 + 0.45 * np.sin(2 * math.pi * rng.uniform(3, 7) * t))


SYNTHS: dict[str, Synth] = {
    "horn": _horn,
    "bell": _bell,
    "whistle": _whistle,
    "drum": _drum,
    "siren": _siren,
    "buzzer": _buzzer,
    "hiss": _hiss,
    "click": _click,
    "hum": _hum,
    "pluck": _pluck,
    "babble": _babble,
}
