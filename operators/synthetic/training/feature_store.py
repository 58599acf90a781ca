"""A pool's beats as frozen public encoders see them: computed once, kept on disk, read by mapping the files.

Of each modality is kept the last thing that training does not change: a frozen tower's features, in bfloat16, or the
input of an encoder that learns, as it is rendered.

Shapes: S snippets, P beats of the pool, N tokens of a tower.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longtake.errors import InputError
from longtake.operators.model.combiners import Features
from longtake.operators.model.model import LongTakeModel
from longtake.operators.synthetic.training.shapes_task import BUILT_IN_COURSE
from longtake.operators.synthetic.training.task import PoolSpec
from longtake.operators.training.batch_tensors import Clips

NOTES = "features.json"
# Snippets that go through a tower at a time.
TOGETHER = 8
DTYPES = {name: getattr(torch, name) for name in ("uint8", "bool", "float32", "bfloat16")}


@dataclass(kw_only=True)
class StoredClips:
    """Stored beats, by the names of the store's files; every first axis is the snippets."""

    video: Tensor
    video_mask: Tensor
    audio: Tensor
    audio_mask: Tensor

    @staticmethod
    def of(clips: Clips) -> StoredClips:
        """Rendered clips as they are, for a model without frozen encoders."""
        return StoredClips(
            video=clips.frames_SFHWC, video_mask=clips.frame_mask_SF, audio=clips.mel_SAM, audio_mask=clips.mel_mask_SA
        )

    @property
    def heard_S(self) -> Tensor:
        """Which snippets come with sound; bool [S]."""
        return self.audio_mask.any(1)


PARTS = tuple(StoredClips.__annotations__)


class BeatStore:
    """The beats of one pool for one model's encoders, in a directory that may outlive a run.

    One process fills it; any number may read it then. Pickled it is without its files: a worker maps them itself.
    """

    def __init__(self, path: Path, spec: PoolSpec, model: LongTakeModel, world_key: str = BUILT_IN_COURSE.key) -> None:
        self.path, self.spec = path, spec
        self.key = store_key(spec, model, world_key)
        self._files: dict[str, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_files": None}

    def __len__(self) -> int:
        return self.spec.videos * self.spec.beats

    @property
    def videos_done(self) -> int:
        """How many of the pool's videos are stored; 0 where the directory holds those of other encoders."""
        notes = self._notes()
        return int(notes["videos"]) if notes is not None else 0

    def fill(
        self, model: LongTakeModel, videos: Iterable[Clips], device: torch.device, on_video: Callable[[int], None]
    ) -> None:
        """Store the videos that are not there yet.

        Args:
            videos: the pool's from number `videos_done` on.
            on_video: told how many are done, after each.
        Raises:
            InputError: the disk has no room for them.
        """
        done, beats = self.videos_done, self.spec.beats
        for number, clips in enumerate(videos, start=done):
            stored = vars(look(model, clips, device))
            if self._notes() is None:
                self._create(stored)
            for name, file in self._open().items():
                file[number * beats : (number + 1) * beats] = stored[name]
            self._write_notes({**self._read_notes(), "videos": number + 1})
            on_video(number + 1)

    def read(self, numbers_S: Tensor) -> StoredClips:
        """Some beats, by their numbers in the pool, int64 [S]."""
        return StoredClips(**{name: file[numbers_S] for name, file in self._open().items()})

    def read_sound(self, numbers_S: Tensor) -> tuple[Tensor, Tensor]:
        """The sound of some beats, and its mask; pictures are not read."""
        files = self._open()
        return files["audio"][numbers_S], files["audio_mask"][numbers_S]

    def _open(self) -> dict[str, Tensor]:
        if self._files is None:
            self._files = {}
            for name, (shape, dtype) in self._read_notes()["files"].items():
                size = torch.Size([len(self), *shape])
                mapped = torch.from_file(
                    str(self.path / f"{name}.bin"), shared=True, size=size.numel(), dtype=DTYPES[dtype]
                )
                self._files[name] = mapped.view(size)
        return self._files

    def _create(self, stored: dict[str, Tensor]) -> None:
        """Files of the full size, and no videos yet."""
        files = {name: (list(one.shape[1:]), str(one.dtype).removeprefix("torch.")) for name, one in stored.items()}
        size_bytes = len(self) * sum(one[0].nbytes for one in stored.values())
        self.path.mkdir(parents=True, exist_ok=True)
        for old in (self.path / NOTES, *(self.path / f"{name}.bin" for name in PARTS)):
            old.unlink(missing_ok=True)
        free_bytes = shutil.disk_usage(self.path).free
        if size_bytes > free_bytes:
            raise InputError(
                f"{self.path}: the features of {len(self)} snippets take {size_bytes / 2**30:.1f} GiB, and"
                f" {free_bytes / 2**30:.1f} GiB are free; use fewer pool videos"
            )
        for name, one in stored.items():
            with (self.path / f"{name}.bin").open("wb") as file:
                # Reserved on the disk: a mapped file that runs out of it ends the process.
                os.posix_fallocate(file.fileno(), 0, len(self) * one[0].nbytes)
        self._files = None
        self._write_notes({"key": self.key, "videos": 0, "files": files})

    def _notes(self) -> dict[str, Any] | None:
        """What the directory says of itself, None where it is not this store."""
        if not (self.path / NOTES).is_file():
            return None
        notes = self._read_notes()
        return notes if notes["key"] == self.key else None

    def _read_notes(self) -> dict[str, Any]:
        notes: dict[str, Any] = json.loads((self.path / NOTES).read_text())
        return notes

    def _write_notes(self, notes: dict[str, Any]) -> None:
        part = self.path / f"{NOTES}.part"
        part.write_text(json.dumps(notes, indent=2))
        part.replace(self.path / NOTES)


def store_key(spec: PoolSpec, model: LongTakeModel, world_key: str) -> str:
    """Sixteen hex digits of all that stored beats depend on: the pool and its world, the shapes of the input, the
    frozen towers."""
    video, audio = model.config.video, model.config.audio
    parts: list[Any] = [
        repr(spec),
        world_key,
        video.clip,
        (audio.frames, audio.mels, audio.sample_rate_hz, audio.hop, audio.fft),
    ]
    for config, encoder in ((video, model.video_encoder), (audio, model.audio_encoder)):
        layer = None if config.pretrained is None else config.pretrained.layer
        parts.append([getattr(encoder, "fingerprint", None), layer] if is_frozen(encoder) else None)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def is_frozen(encoder: torch.nn.Module) -> bool:
    """Whether an encoder is a public one whose tower does not learn."""
    return getattr(encoder, "trained", True) is False


def look(model: LongTakeModel, clips: Clips, device: torch.device) -> StoredClips:
    """Clips as far as what does not learn takes them, on the CPU."""
    video, video_mask = _look(model.video_encoder, clips.frames_SFHWC, clips.frame_mask_SF, device)
    sound = clips.mel_SAM if model.config.audio.pretrained is None else clips.mel_SAM.squeeze(-1)
    audio, audio_mask = _look(model.audio_encoder, sound, clips.mel_mask_SA, device)
    return StoredClips(video=video, video_mask=video_mask, audio=audio, audio_mask=audio_mask)


def _look(encoder: Any, given: Tensor, mask: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    if not is_frozen(encoder):
        return given, mask
    features, masks = [], []
    for part, part_mask in zip(given.split(TOGETHER), mask.split(TOGETHER), strict=True):
        with torch.inference_mode():
            made, made_mask = encoder.features(part.to(device), part_mask.to(device))
        features.append(made.to(torch.bfloat16).cpu())
        masks.append(made_mask.cpu())
    return torch.cat(features), torch.cat(masks)


def features_of(model: LongTakeModel, stored: StoredClips, device: torch.device) -> Features:
    """The rest of the way: stored beats to the features that `LongTakeModel.features` gives."""
    video, video_mask = _finish(model.video_encoder, stored.video, stored.video_mask, device)
    audio, audio_mask = _finish(model.audio_encoder, stored.audio, stored.audio_mask, device)
    return Features(video_BND=video, video_mask_BN=video_mask, audio_BND=audio, audio_mask_BN=audio_mask)


def sound_features_of(model: LongTakeModel, audio: Tensor, audio_mask: Tensor, device: torch.device) -> Tensor:
    """Likewise of stored sound alone, [S, N, D]."""
    return _finish(model.audio_encoder, audio, audio_mask, device)[0]


def _finish(encoder: Any, value: Tensor, mask: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    value, mask = value.to(device, non_blocking=True), mask.to(device, non_blocking=True)
    if is_frozen(encoder):
        return encoder.project(value), mask
    features_SND, mask_SN = encoder(value, mask)
    return features_SND, mask_SN
