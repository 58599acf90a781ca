"""What a real world is made of: named pictures and recordings of spoken words, as arrays, and who may train on which.

Shapes: P pictures, R recordings, S the side of a picture.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from longtake.errors import InputError
from longtake.operators.synthetic.sounds import SAMPLE_RATE_HZ

Split = Literal["train", "test", "all"]
Voice = Literal["trained", "unseen"]
Wave: TypeAlias = npt.NDArray[np.float32]
Sprites: TypeAlias = npt.NDArray[np.uint8]

# The side of every picture, in pixels: more than the largest size that a world shows on its largest frames.
SIDE = 128
# A recording is kept whole, inside half an event; an event is at most three beats long, so half of one is 1.5 s.
LONGEST_S = 1.45
# Of each voice and word this share of the recordings, the first by take, is for tests only.
TEST_SHARE = 0.1
FEWEST_LABELS = 2


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One recording of a word: float32 mono at 16 kHz. `take` orders a speaker's recordings of a word."""

    label: str
    speaker: str
    take: str
    samples: Wave
    voice: Voice = "trained"

    def __post_init__(self) -> None:
        if self.samples.dtype != np.float32 or self.samples.ndim != 1 or not len(self.samples):
            raise ValueError(f"a recording is float32 of one dimension, not {self.samples.dtype} {self.samples.shape}")
        if self.duration_s > LONGEST_S:
            raise ValueError(f"a recording is at most {LONGEST_S} s long, not {self.duration_s:.2f} s")

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / SAMPLE_RATE_HZ


@dataclass(frozen=True, kw_only=True)
class Material:
    """Pictures (`sprites_PSS4`, uint8 RGBA, not premultiplied, each named by `names`) and recordings."""

    names: tuple[str, ...]
    sprites_PSS4: Sprites
    recordings: tuple[Recording, ...]

    def __post_init__(self) -> None:
        if self.sprites_PSS4.dtype != np.uint8 or self.sprites_PSS4.shape != (len(self.names), SIDE, SIDE, 4):
            raise ValueError(
                f"{len(self.names)} pictures are uint8 [{len(self.names)}, {SIDE}, {SIDE}, 4], not "
                f"{self.sprites_PSS4.dtype} {list(self.sprites_PSS4.shape)}"
            )

    @property
    def objects(self) -> tuple[str, ...]:
        """The labels of the pictures, sorted."""
        return tuple(sorted(set(self.names)))

    @property
    def words(self) -> tuple[str, ...]:
        """The labels of the recordings, sorted."""
        return tuple(sorted({recording.label for recording in self.recordings}))

    @property
    def speakers(self) -> tuple[str, ...]:
        """Whose recordings there are, sorted."""
        return tuple(sorted({recording.speaker for recording in self.recordings}))

    def split(self, split: Split, hold_out_voice: str | None = None) -> Material:
        """The same pictures with the recordings that a split may use.

        The held-out voice is in "test" only, and its recordings are marked "unseen". Of each other voice and word the
        first tenth of the recordings in order of their takes (at least one where there are two) is in "test" only,
        the others in "train" only. "all" holds everything.

        Raises:
            InputError: no such split or voice, or fewer than two words are left.
        """
        if split not in get_args(Split):
            raise InputError(f"a split is one of {', '.join(get_args(Split))}, not {split!r}")
        if hold_out_voice is not None and hold_out_voice not in self.speakers:
            raise InputError(f"no voice is named {hold_out_voice!r}; there are {', '.join(self.speakers)}")
        kept: list[Recording] = []
        for tests_only, recording in zip(_tests_only(self.recordings), self.recordings, strict=True):
            unseen = recording.speaker == hold_out_voice
            if split == "all" or (split == "test") == (tests_only or unseen):
                kept.append(dataclasses.replace(recording, voice="unseen" if unseen else "trained"))
        chosen = dataclasses.replace(self, recordings=tuple(kept))
        if len(chosen.words) < FEWEST_LABELS:
            without = f" without {hold_out_voice}" if hold_out_voice is not None and split == "train" else ""
            raise InputError(
                f"the split {split!r}{without} has recordings of {len(chosen.words)} words; "
                f"at least {FEWEST_LABELS} are wanted"
            )
        return chosen

    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any picture, recording or name."""
        digest = hashlib.sha256(repr(self.names).encode())
        digest.update(self.sprites_PSS4.tobytes())
        for recording in self.recordings:
            digest.update(repr((recording.label, recording.speaker, recording.take, recording.voice)).encode())
            digest.update(recording.samples.tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write everything into one `.npz`: a machine without decoders can then render the same world.

        Raises:
            InputError: the file cannot be written.
        """
        waves = [recording.samples for recording in self.recordings]
        try:
            with path.open("wb") as file:
                np.savez(
                    file,
                    names=np.array(self.names),
                    sprites=self.sprites_PSS4,
                    labels=np.array([recording.label for recording in self.recordings]),
                    speakers=np.array([recording.speaker for recording in self.recordings]),
                    takes=np.array([recording.take for recording in self.recordings]),
                    voices=np.array([recording.voice for recording in self.recordings]),
                    stops=np.cumsum([len(wave) for wave in waves]),
                    samples=np.concatenate(waves),
                )
        except OSError as error:
            raise InputError(f"{path}: cannot write the material: {error.strerror}") from error

    @staticmethod
    def load(path: Path) -> Material:
        """Read what `save` wrote.

        Raises:
            InputError: the file cannot be read or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                waves = np.split(data["samples"], data["stops"][:-1])
                columns = (data[name].tolist() for name in ("labels", "speakers", "takes", "voices"))
                return Material(
                    names=tuple(data["names"].tolist()),
                    sprites_PSS4=data["sprites"],
                    recordings=tuple(
                        Recording(label=label, speaker=speaker, take=take, voice=voice, samples=wave)
                        for label, speaker, take, voice, wave in zip(*columns, waves, strict=True)
                    ),
                )
        except (OSError, KeyError, ValueError, EOFError) as error:
            raise InputError(f"{path}: not a saved material: {error}") from error


def _tests_only(recordings: Sequence[Recording]) -> list[bool]:
    """For each recording whether it is kept for tests."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, recording in enumerate(recordings):
        groups[recording.speaker, recording.label].append(number)
    chosen = [False] * len(recordings)
    for numbers in groups.values():
        ordered = sorted(numbers, key=lambda number: _order(recordings[number].take))
        count = max(1, round(TEST_SHARE * len(ordered))) if len(ordered) > 1 else 0
        for number in ordered[:count]:
            chosen[number] = True
    return chosen


def _order(take: str) -> tuple[int, int, str]:
    # Takes that are numbers come first, by value: take 10 is after take 9.
    return (0, int(take), take) if take.isdecimal() else (1, 0, take)
