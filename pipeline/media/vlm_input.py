"""What a public vision-language model takes of a video: pictures of its own size, and sound if it hears."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from longtake.errors import InputError
from longtake.operators.vlm.describe import VLMDescription
from longtake.pipeline.media.geometry import PictureFormat
from longtake.pipeline.media.model_input import SoundWindows
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.probe import MediaInfo
from longtake.pipeline.media.segment import SoundChunk
from longtake.pipeline.media.sound.reader import RATE_HZ
from longtake.pipeline.media.sound.whisper_mel import FrontStream, loudest_mel


class NoSound:
    """The windows of a model that does not hear."""

    def push(self, chunk: SoundChunk) -> None:
        """Nothing is kept."""

    def end(self) -> None:
        """Nothing changes."""

    def covers(self, stop_ns: int) -> bool:
        """Nothing is waited for."""
        return True

    def window(self, start_ns: int, stop_ns: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """No frame."""
        return np.zeros((0, 1), np.float32), np.zeros(0, np.bool_)


@dataclass(frozen=True, kw_only=True)
class VLMInput:
    """The input of a public model: `frames` pictures a snippet, each step of them of at most `most_tokens` tokens."""

    model: VLMDescription
    frames: int
    most_tokens: int

    @property
    def hears(self) -> bool:
        """Whether the sound is to be read at all."""
        return self.model.front is not None

    def require_sampling(self, sampling: Sampling) -> None:
        """Snippets are whole steps, and with sound whole chunks of it: every one must stand for itself.

        Raises:
            InputError: they are not.
        """
        step, name = self.model.pictures_a_step, self.model.path.name
        if self.frames % step:
            raise InputError(f"{name} reads {step} pictures together: a snippet of {self.frames} is no multiple")
        if self.model.front is None:
            return
        if self.model.front.rate_hz != RATE_HZ:
            raise InputError(f"{name} hears {self.model.front.rate_hz} Hz; only {RATE_HZ} Hz can be given")
        chunk_s = Fraction(self.model.sound_chunk_s).limit_denominator(1000)
        if sampling.rate_hz is None:
            raise InputError(
                f"{name} hears in chunks of {float(chunk_s):g} s, which a number of frames spread over a video does "
                f"not keep to; give a rate, such as {self.frames / (2 * float(chunk_s)):g} frames/s"
            )
        snippet_s = Fraction(self.frames) / Fraction(repr(float(sampling.rate_hz)))
        if (snippet_s / chunk_s).denominator != 1:
            raise InputError(
                f"{name} hears in chunks of {float(chunk_s):g} s: at {sampling.describe()} a snippet of {self.frames} "
                f"pictures lasts {float(snippet_s):g} s, which is no multiple; {self.frames / (2 * float(chunk_s)):g} "
                f"or {self.frames / float(chunk_s):g} frames/s are possible"
            )

    def picture_format(self, info: MediaInfo) -> PictureFormat:
        """By the model's own rule for the size that a viewer sees, with the filter of the stock processors."""
        height, width = self.model.frame_size(info.video.height, info.video.width, self.most_tokens)
        return PictureFormat(height=height, width=width, fit="stretch", filter="bicubic")

    def sound_peak(self, info: MediaInfo) -> float | None:
        """The loudest mel value of the whole sound, for a model that hears."""
        return loudest_mel(info, self.model.front) if self.model.front is not None and info.audio is not None else None

    def sound(self, first_ns: int) -> SoundWindows:
        """Mel frames, or nothing."""
        return FrontStream(self.model.front, first_ns=first_ns) if self.model.front is not None else NoSound()

    def snippet_bytes(self, form: PictureFormat) -> int:
        """Pictures as bytes; mel frames of the longest snippets that make sense, a minute."""
        front = self.model.front
        return self.frames * form.size_bytes + (int(60 * front.frames_hz) * front.mels * 4 if front is not None else 0)
