"""The sound of a video of real material: recorded words in noise at a known ratio, and the built-in distractors."""

from __future__ import annotations

import numpy as np

from longtake.operators.synthetic.recorded.material import Material, Wave
from longtake.operators.synthetic.recorded.script import NoiseColour, RealScript
from longtake.operators.synthetic.sounds import SAMPLE_RATE_HZ, add_sounds

# How fast the power of a noise falls with its frequency: power ~ frequency ** -slope.
SLOPES: dict[NoiseColour, float] = {"white": 0.0, "pink": 1.0, "brown": 2.0}
# Below this a steep noise is flat: rumble that nobody hears would take all of its loudness.
FLAT_BELOW_HZ = 60.0


def render_real_sound(script: RealScript, material: Material) -> Wave:
    """The sound of a script, float32 mono at 16 kHz, within [-1, 1].

    A word's root mean square is `snr_db` above that of the noise; no other sound lies beside a word.
    """
    samples = round(script.duration_s * SAMPLE_RATE_HZ)
    wave = _noise(script.noise, samples, np.random.default_rng(script.seed)) * np.float32(script.noise_rms)
    for saying in script.sayings:
        begin = round(saying.start_s * SAMPLE_RATE_HZ)
        voice = material.recordings[saying.recording].samples
        loudness = script.noise_rms * 10 ** (saying.snr_db / 20) / _rms(voice)
        wave[begin : begin + len(voice)] += voice * np.float32(loudness)
    add_sounds(wave, script.noises, script.seed)
    return wave.clip(-1.0, 1.0)


def _noise(colour: NoiseColour, samples: int, rng: np.random.Generator) -> Wave:
    """Noise of root mean square 1."""
    slope = SLOPES[colour]
    if slope == 0:
        return rng.standard_normal(samples, dtype=np.float32)
    # Ten seconds at a time, joined by crossfades of equal power, so that the transforms stay small.
    block, fade = 10 * SAMPLE_RATE_HZ, SAMPLE_RATE_HZ // 10
    wave = np.zeros(samples, dtype=np.float32)
    ramp = np.sqrt(np.linspace(0.0, 1.0, fade, dtype=np.float32))
    for start in range(0, samples, block):
        stop = min(samples, start + block + fade)
        part = rng.standard_normal(block + fade, dtype=np.float32)
        spectrum = np.fft.rfft(part)
        hz = np.fft.rfftfreq(len(part), 1 / SAMPLE_RATE_HZ)
        shaped = np.fft.irfft(spectrum * np.maximum(hz, FLAT_BELOW_HZ) ** (-slope / 2), len(part)).astype(np.float32)
        shaped /= _rms(shaped)
        if start:
            shaped[:fade] *= ramp
        shaped[block:] *= ramp[::-1]
        wave[start:stop] += shaped[: stop - start]
    return wave


def _rms(wave: Wave) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
