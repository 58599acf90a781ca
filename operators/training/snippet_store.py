"""Decoded snippets on disk: what encoders that learn read again in every epoch, without decoding.

A video is one file of records of one size, a record a snippet, and a note beside it that says which windows they are;
a video without its note is not there. Files are read by mapping them.

Shapes: T snippets, F pictures, H rows, W columns, A mel frames or samples, M mels.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longtake.errors import InputError
from longtake.operators.model.config import ModelConfig
from longtake.operators.training.batch_tensors import Clips

# One snippet: pictures uint8 [F, H, W, 3], their mask [F], sound float32 [A, M], its mask [A]; and its window in ns.
Record = tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.float32], NDArray[np.bool_]]
Window = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class StoredVideo:
    """What a video's note says: the windows of its snippets in order, or why there are none."""

    windows: tuple[Window, ...]
    error: str = ""


class SnippetStore:
    """The snippets of many videos for one shape of input. Different processes may write different videos.

    Args:
        path: its directory.
        config: of the model; pictures and sound are of its shapes.
        key: whatever else the snippets depend on, such as the sampling.
    """

    def __init__(self, path: Path, config: ModelConfig, key: str) -> None:
        self.path = path
        video, audio = config.video, config.audio
        self.record = np.dtype(
            [
                ("frames", np.uint8, (*video.clip, 3)),
                ("frame_mask", np.bool_, (video.frames,)),
                ("sound", np.float32, (audio.frames, audio.mels)),
                ("sound_mask", np.bool_, (audio.frames,)),
            ]
        )
        waves = audio.pretrained is not None
        self.key = f"{key} {video.clip} {(audio.frames, audio.mels, audio.sample_rate_hz, audio.hop, audio.fft, waves)}"

    def require_room(self, snippets: int) -> None:
        """Refuse what will not go on the disk.

        Raises:
            InputError: so many snippets more take more than is free; names both sizes.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(self.path).free
        size_bytes = snippets * self.record.itemsize
        if size_bytes > free_bytes:
            raise InputError(
                f"{self.path}: the decoded snippets take {size_bytes / 2**30:.1f} GiB more, and"
                f" {free_bytes / 2**30:.1f} GiB are free; freeze the encoders, or use fewer or shorter videos"
            )

    def find(self, name: str) -> StoredVideo | None:
        """A video's note, None where it has none or one of another key."""
        try:
            note = json.loads(self._note(name).read_text())
        except (OSError, ValueError):
            return None
        if note.get("key") != self.key:
            return None
        return StoredVideo(windows=tuple((start, stop) for start, stop in note["windows"]), error=note["error"])

    def write(self, name: str, snippets: Iterable[tuple[Window, Record]]) -> StoredVideo:
        """Store a video in one pass.

        Raises:
            InputError: the disk is full.
        """
        windows: list[Window] = []
        self.path.mkdir(parents=True, exist_ok=True)
        self._note(name).unlink(missing_ok=True)
        try:
            with self._file(name).open("wb") as file:
                one = np.zeros((), self.record)
                for window, parts in snippets:
                    for field, part in zip(("frames", "frame_mask", "sound", "sound_mask"), parts, strict=True):
                        one[field] = part
                    file.write(one.tobytes())
                    windows.append(window)
        except OSError as error:
            self._file(name).unlink(missing_ok=True)
            if error.errno != errno.ENOSPC:
                raise
            raise InputError(f"{self.path}: the disk is full; the decoded snippets need more room") from error
        return self.note(name, StoredVideo(windows=tuple(windows)))

    def note(self, name: str, video: StoredVideo) -> StoredVideo:
        """Write a video's note; from then on it is there, or known not to be readable."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not video.windows:
            self._file(name).unlink(missing_ok=True)
        part = self._note(name).with_suffix(".part")
        part.write_text(json.dumps({"key": self.key, "windows": video.windows, "error": video.error}))
        part.replace(self._note(name))
        return video

    def read(self, name: str, numbers_T: NDArray[np.int64]) -> Clips:
        """Some snippets of a video, by their places among those that there are."""
        records: Any = np.memmap(self._file(name), dtype=self.record, mode="r")[numbers_T]
        return Clips(
            frames_SFHWC=torch.from_numpy(np.ascontiguousarray(records["frames"])),
            frame_mask_SF=torch.from_numpy(np.ascontiguousarray(records["frame_mask"])),
            mel_SAM=torch.from_numpy(np.ascontiguousarray(records["sound"])),
            mel_mask_SA=torch.from_numpy(np.ascontiguousarray(records["sound_mask"])),
        )

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.bin"

    def _note(self, name: str) -> Path:
        return self.path / f"{name}.json"


def join_clips(parts: list[Clips]) -> Clips:
    """Clips after one another."""
    return Clips(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})
