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


def vary(pictures_SFHWC: Tensor, mel_SAM: Tensor, rng: random.Random) -> dict[str, Tensor]:
    """Variations of uint8 pictures and log-mel sound, under the names that they have in `StoredClips`.

    Half of the snippets are seen in a mirror. What is heard is moved by some mel bands, tilted (by at most 10 dB
    from the lowest to the highest band), made louder or softer, and loses a stripe of bands and one of frames.
    """
    snippets = len(mel_SAM)
    generator = torch.Generator().manual_seed(rng.randrange(2**62))

    def drawn(low: float, high: float) -> Tensor:
        return torch.rand(snippets, 1, 1, generator=generator) * (high - low) + low

    mirrored_S1111 = (drawn(0, 1) < 0.5)[..., None, None]
    pictures_SFHWC = torch.where(mirrored_S1111, pictures_SFHWC.flip(3), pictures_SFHWC)
    frames, bands = mel_SAM.shape[1:]
    frame_A1, band_M = torch.arange(frames)[:, None], torch.arange(bands)
    shift_S11 = drawn(-SHIFT, SHIFT + 1).floor().long()
    moved_SAM = mel_SAM.gather(2, (band_M + shift_S11).clamp(0, bands - 1).expand(-1, frames, -1))
    # Log-mel is log10 of the power over 2.5: 10 dB are 0.4.
    moved_SAM = moved_SAM + drawn(-0.2, 0.2) * (2 * band_M / (bands - 1) - 1) + drawn(-0.2, 0.2)
    for place, count, most in ((band_M, bands, BANDS), (frame_A1, frames, FRAMES)):
        first, width = drawn(0, count), drawn(0, most)
        hidden = (place >= first) & (place < first + width)
        moved_SAM = torch.where(hidden, SILENCE, moved_SAM)
    return {"video": pictures_SFHWC, "audio": moved_SAM.clamp_min(SILENCE)}
