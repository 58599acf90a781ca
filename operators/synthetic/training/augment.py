"""Cheap variations of stored snippets, so that a beat that is drawn again is not quite the same.

Shapes: S snippets, F pictures, H rows, W columns, A mel frames, M mels.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

# The widest stripes of mel bands and of frames that are silenced (SpecAugment, arXiv 1904.08779, on short sounds).
BANDS, FRAMES = 6, 6
# Mel bands that a voice is moved by at most: a longer or shorter vocal tract.
SHIFT = 2
SILENCE = -2.0


def vary_pictures(pictures_SFHWC: Tensor, rng: random.Random) -> Tensor:
    """Half of the snippets, uint8, in a mirror."""
    mirrored_S = torch.rand(len(pictures_SFHWC), generator=_generator(rng)) < 0.5
    return torch.where(mirrored_S[:, None, None, None, None], pictures_SFHWC.flip(3), pictures_SFHWC)


def vary_sound(mel_SAM: Tensor, rng: random.Random) -> Tensor:
    """Log-mel sound moved by some bands, tilted (by at most 10 dB from the lowest to the highest band), made louder or
    softer, and without a stripe of bands and one of frames."""
    snippets, frames, bands = mel_SAM.shape
    generator = _generator(rng)

    def drawn(low: float, high: float) -> Tensor:
        return torch.rand(snippets, 1, 1, generator=generator) * (high - low) + low

    band_M, frame_A1 = torch.arange(bands), torch.arange(frames)[:, None]
    shift_S11 = drawn(-SHIFT, SHIFT + 1).floor().long()
    moved_SAM = mel_SAM.gather(2, (band_M + shift_S11).clamp(0, bands - 1).expand(-1, frames, -1))
    # Log-mel is log10 of the power over 2.5: 10 dB are 0.4.
    moved_SAM = moved_SAM + drawn(-0.2, 0.2) * (2 * band_M / (bands - 1) - 1) + drawn(-0.2, 0.2)
    for place, count, most in ((band_M, bands, BANDS), (frame_A1, frames, FRAMES)):
        first, width = drawn(0, count), drawn(0, most)
        moved_SAM = torch.where((place >= first) & (place < first + width), SILENCE, moved_SAM)
    return moved_SAM.clamp_min(SILENCE)


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.randrange(2**62))
