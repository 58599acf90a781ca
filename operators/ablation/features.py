"""Features of a pool's beats, computed once by a model's frozen encoders and read from disk by every variant.

Shapes: P beats of the pool, N video tokens, A audio tokens, D width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from longtake.operators.model.checkpoint import LoadedModel
from longtake.operators.model.combiners import Features
from longtake.operators.model.config import ModelConfig
from longtake.operators.synthetic.script import Script
from longtake.operators.synthetic.training.render import render_clips
from longtake.operators.training.batch_tensors import Clips

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class SnippetFeatures:
    """Encoded beats, memory-mapped: float16 features, and bool masks that are False where a beat came without sound."""

    video_PND: Tensor
    audio_PAD: Tensor
    audio_mask_PA: Tensor

    def __len__(self) -> int:
        return len(self.video_PND)

    def of(self, pictures_S: Tensor, sounds_S: Tensor, device: torch.device) -> Features:
        """Float32 features of snippets that show one beat and sound as another (the same, unless shuffled)."""
        video_SND = self.video_PND[pictures_S].to(device).float()
        return Features(
            video_BND=video_SND,
            video_mask_BN=torch.ones(video_SND.shape[:2], dtype=torch.bool, device=device),
            audio_BND=self.audio_PAD[sounds_S].to(device).float(),
            audio_mask_BN=self.audio_mask_PA[sounds_S].to(device),
        )


class Rendered(Dataset[Clips]):
    """Item n is the n-th script's pictures and sound with the wear of real files, but never a silent file.

    What cannot be heard would only make questions that nobody can answer, in every variant.
    """

    def __init__(self, config: ModelConfig, scripts: Sequence[Script], seed: int) -> None:
        self.config, self.scripts, self.seed = config, scripts, seed

    def __len__(self) -> int:
        return len(self.scripts)

    def __getitem__(self, number: int) -> Clips:
        for attempt in itertools.count():
            rng = np.random.default_rng((self.seed, number, attempt))
            clips = render_clips([self.scripts[number]], self.config, rng)
            if bool(clips.mel_mask_SA.any()):
                return clips
        raise AssertionError("a count that never ends has ended")


def delayed(script: Script, delay_s: float) -> Script:
    """A script whose sounds come later; what would end after the video is left out."""
    sounds = tuple(
        dataclasses.replace(sound, start_s=sound.start_s + delay_s, stop_s=sound.stop_s + delay_s)
        for sound in script.sounds
        if sound.stop_s + delay_s <= script.duration_s
    )
    return dataclasses.replace(script, sounds=sounds)


def encoded(
    folder: Path,
    loaded: LoadedModel,
    scripts: Sequence[Script],
    seed: int,
    *,
    workers: int = 1,
    device: str = "cpu",
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> SnippetFeatures:
    """The features of all beats of `scripts`, in order, from `folder` where they lie there already.

    Args:
        folder: gets a folder named after the model and the scripts, so that others' features are never taken for these.
        seed: of the wear.
        on_video: told how many scripts are done, of how many.
    """
    text = json.dumps([VERSION, loaded.fingerprint, seed, [repr(script) for script in scripts]])
    place = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not place.is_dir():
        part = folder / f"{place.name}.{os.getpid()}.part"
        part.mkdir(parents=True)
        _write(part, loaded, Rendered(loaded.config, scripts, seed), workers, device, on_video)
        part.replace(place)
    return SnippetFeatures(
        video_PND=_mapped(place / "video.npy"),
        audio_PAD=_mapped(place / "audio.npy"),
        audio_mask_PA=_mapped(place / "audio_mask.npy"),
    )


def _write(
    folder: Path,
    loaded: LoadedModel,
    clips: Rendered,
    workers: int,
    device: str,
    on_video: Callable[[int, int], None],
) -> None:
    arrays: dict[str, Any] = {}
    total, first = sum(script.beats for script in clips.scripts), 0
    model = loaded.model.to(device)
    for number, features in enumerate(_features(model.features, clips, workers, device)):
        parts = {"video": features.video_BND, "audio": features.audio_BND, "audio_mask": features.audio_mask_BN}
        for name, value in parts.items():
            found = value.cpu() if value.dtype is torch.bool else value.half().cpu()
            if name not in arrays:
                shape = (total, *found.shape[1:])
                arrays[name] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                    folder / f"{name}.npy", mode="w+", dtype=found.numpy().dtype, shape=shape
                )
            arrays[name][first : first + len(found)] = found.numpy()
        first += len(features.video_BND)
        on_video(number + 1, len(clips))
    for array in arrays.values():
        array.flush()


def _features(encode: Callable[..., Features], clips: Rendered, workers: int, device: str) -> Iterator[Features]:
    loader: DataLoader[Clips] = DataLoader(
        clips, batch_size=None, num_workers=workers, multiprocessing_context="spawn" if workers else None
    )
    for one in loader:
        parts = (one.frames_SFHWC, one.frame_mask_SF, one.mel_SAM, one.mel_mask_SA)
        with torch.inference_mode():
            yield encode(*(part.to(device) for part in parts))


def _mapped(path: Path) -> Tensor:
    # Copy on write: PyTorch has no read-only tensors, and nothing here writes.
    return torch.from_numpy(np.load(path, mmap_mode="c"))
