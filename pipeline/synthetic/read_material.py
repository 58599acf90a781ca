"""Reading the material of a world from two folders: named pictures and recorded words.

The name of a folder is the label of the files in it. Recordings are named speaker_take.*; without an underscore, the
whole name is the take and the speaker has no name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
import torch
from PIL import Image, ImageOps
from torchaudio.transforms import Resample

from longtake.errors import InputError
from longtake.operators.synthetic.recorded.material import (
    FEWEST_LABELS,
    LONGEST_S,
    SIDE,
    Material,
    Recording,
    Sprites,
    Wave,
)
from longtake.operators.synthetic.sounds import SAMPLE_RATE_HZ

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")
SOUND_ENDINGS = (".wav", ".flac", ".ogg")
# Quieter than this is silence: nothing can be heard in it, at any loudness.
LEAST_RMS = 1e-4
# The speaker of a recording whose name has no underscore.
NAMELESS = "unnamed"

T = TypeVar("T")
Warn = Callable[[str], None]


def read_material(pictures: Path, sounds: Path, on_warning: Warn | None = None) -> Material:
    """Read all pictures (PNG, JPEG) and recordings (WAV, FLAC, OGG, of any rate) of two labelled folders.

    Files that cannot be used are left out, each with one call of `on_warning`: damaged, empty, silent, or longer
    than `LONGEST_S`. Files with other endings are no material and are passed over.

    Raises:
        InputError: a folder is missing, or holds usable files of fewer than two labels.
    """
    warn = on_warning or (lambda _: None)
    names, sprites = [], []
    for label, path in _labelled(pictures, PICTURE_ENDINGS):
        sprite = _usable(path, read_sprite, warn)
        if sprite is not None:
            names.append(label)
            sprites.append(sprite)
    _enough(pictures, set(names), "pictures", PICTURE_ENDINGS)
    recordings = []
    with _one_thread():
        for label, path in _labelled(sounds, SOUND_ENDINGS):
            wave = _usable(path, read_recording, warn)
            if wave is not None:
                speaker, underscore, take = path.stem.rpartition("_")
                recordings.append(
                    Recording(label=label, speaker=speaker if underscore else NAMELESS, take=take, samples=wave)
                )
    _enough(sounds, {recording.label for recording in recordings}, "recordings", SOUND_ENDINGS)
    return Material(names=tuple(names), sprites_PSS4=np.stack(sprites), recordings=tuple(recordings))


def read_sprite(path: Path) -> Sprites:
    """A picture as uint8 RGBA [SIDE, SIDE, 4], its longer side fitted and the rest left clear; a JPEG is opaque.

    Raises:
        ValueError: the file cannot be decoded.
    """
    try:
        with warnings.catch_warnings():
            # A picture far too large to be meant is refused, not warned about.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as file:
                picture = ImageOps.exif_transpose(file).convert("RGBA")
    # Pillow's readers raise all of these on damaged files.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"cannot be decoded: {error}") from error
    # Pillow weighs colours by how much they cover while it scales.
    picture = ImageOps.contain(picture, (SIDE, SIDE), Image.Resampling.LANCZOS)
    sprite = np.zeros((SIDE, SIDE, 4), dtype=np.uint8)
    top, left = (SIDE - picture.height) // 2, (SIDE - picture.width) // 2
    sprite[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
    if not sprite[..., 3].any():
        raise ValueError("nothing is visible in it")
    return sprite


def read_recording(path: Path) -> Wave:
    """A recording as float32 mono at 16 kHz, whole; channels are averaged.

    Raises:
        ValueError: the file cannot be decoded, is silent, or is longer than `LONGEST_S`.
    """
    parts: list[Wave] = []
    seconds = 0.0
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise ValueError("holds no sound")
            to_float = av.AudioResampler(format="fltp")
            rate_hz = 0
            for frame in container.decode(audio=0):
                if rate_hz not in (0, frame.sample_rate):
                    raise ValueError(f"its rate changes from {rate_hz} to {frame.sample_rate} Hz")
                rate_hz = frame.sample_rate
                parts += [piece.to_ndarray().mean(0) for piece in to_float.resample(frame)]
                seconds += frame.samples / rate_hz
                if seconds > LONGEST_S:
                    raise ValueError(f"longer than {LONGEST_S} s, the most that half an event holds")
    except av.FFmpegError as error:
        raise ValueError(f"cannot be decoded: {error.strerror or error}") from error
    if not parts:
        raise ValueError("holds no sound")
    wave = torch.from_numpy(np.concatenate(parts))
    if not torch.isfinite(wave).all() or float(wave.square().mean().sqrt()) < LEAST_RMS:
        raise ValueError("nothing can be heard in it")
    if rate_hz != SAMPLE_RATE_HZ:
        wave = _resampler(rate_hz)(wave)
    samples: Wave = wave[: int(LONGEST_S * SAMPLE_RATE_HZ)].numpy()
    return samples


@lru_cache(maxsize=8)
def _resampler(rate_hz: int) -> Resample:
    # A longer and steeper filter than the default: speech at 8 kHz keeps its band and gets no mirror image above it.
    return Resample(rate_hz, SAMPLE_RATE_HZ, lowpass_filter_width=64, rolloff=0.95)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of short recordings: handing each of them to threads takes longer than resampling it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _labelled(folder: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Every file of a folder of labels, sorted, with its label in lower case words.

    Raises:
        InputError: there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; wanted is one that holds a folder for each label")
    try:
        for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
            label = " ".join(inner.name.lower().replace("_", " ").replace("-", " ").split())
            for path in sorted(inner.iterdir()):
                if path.suffix.lower() in endings and not path.name.startswith("."):
                    yield label, path
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be read: {error.strerror}") from error


def _usable(path: Path, read: Callable[[Path], T], warn: Warn) -> T | None:
    """What a reader gives, or None with a warning."""
    try:
        return read(path)
    except ValueError as error:
        warn(f"{path}: left out: {error}")
        return None


def _enough(folder: Path, labels: set[str], what: str, endings: tuple[str, ...]) -> None:
    if len(labels) < FEWEST_LABELS:
        raise InputError(
            f"{folder}: has usable {what} ({', '.join(endings)}) of {len(labels)} labels; at least {FEWEST_LABELS} "
            f"are wanted, each a folder named by its label"
        )
