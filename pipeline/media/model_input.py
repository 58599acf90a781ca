"""What a model takes of a video: how many pictures a snippet, of which size, and what becomes of the sound.

Everything between a file and an encoder asks this one object, and nothing else knows of models. It holds no weights
and is pickled to the demuxers and the encoders.

Shapes: A sound frames a snippet, M numbers each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from longtake.operators.model.config import ModelConfig
from longtake.pipeline.media.geometry import PictureFormat
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.probe import MediaInfo
from longtake.pipeline.media.segment import SoundChunk
from longtake.pipeline.media.sound.wave import WaveStream, require_short


class SoundWindows(Protocol):
    """A video's continuous sound in, what the model hears of any coming window out."""

    def push(self, chunk: SoundChunk) -> None:
        """Take the next chunk.

        Raises:
            ValueError: the chunk does not follow the one before.
        """

    def end(self) -> None:
        """No chunk follows: from here on there is silence."""

    def covers(self, stop_ns: int) -> bool:
        """Whether a window that stops here can be cut out now."""

    def window(self, start_ns: int, stop_ns: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """One window's sound, float32 [A, M], and bool [A] where there is any. Windows are asked for in order."""


class ModelInput(Protocol):
    """What is to be made of videos for one model."""

    @property
    def frames(self) -> int:
        """Pictures a snippet."""

    @property
    def hears(self) -> bool:
        """Whether the sound is to be read at all."""

    def require_sampling(self, sampling: Sampling) -> None:
        """Refuse a sampling that gives snippets which the model cannot take, as far as it says so beforehand.

        Raises:
            InputError: it does.
        """

    def picture_format(self, info: MediaInfo) -> PictureFormat:
        """The size that a video's pictures are brought to, one for the whole video."""

    def sound_peak(self, info: MediaInfo) -> float | None:
        """The loudest value of a video's sound, where the model has to know it before the first snippet; else None.

        Raises:
            MediaError: the file can no longer be opened.
        """

    def sound(self, first_ns: int) -> SoundWindows:
        """The windows of a video's sound; none before `first_ns` will be asked for."""

    def snippet_bytes(self, form: PictureFormat) -> int:
        """Bytes that one snippet's arrays hold."""


@dataclass(frozen=True, kw_only=True)
class NativeInput:
    """The input of LongTake's own models: letterboxed pictures of one size, and log-mel sound or waves."""

    config: ModelConfig

    @property
    def frames(self) -> int:
        """Pictures a snippet."""
        return self.config.video.frames

    @property
    def hears(self) -> bool:
        """All of LongTake's own models do."""
        return True

    @property
    def form(self) -> PictureFormat:
        """The size of every video's pictures."""
        return PictureFormat(height=self.config.video.height, width=self.config.video.width)

    def require_sampling(self, sampling: Sampling) -> None:
        """A public sound encoder hears windows up to a length: refuse a rate whose snippets are longer."""
        audio = self.config.audio
        if audio.pretrained is not None and sampling.rate_hz is not None:
            require_short(self.frames / sampling.rate_hz, audio)

    def picture_format(self, info: MediaInfo) -> PictureFormat:
        """The same for every video."""
        return self.form

    def sound_peak(self, info: MediaInfo) -> float | None:
        """Not needed."""
        return None

    def sound(self, first_ns: int) -> SoundWindows:
        """Log-mel frames, or the wave itself where the config names a public encoder."""
        if self.config.audio.pretrained is not None:
            return WaveStream(self.config.audio)
        # Here, where it is needed: demuxers hold an input and do without torch.
        from longtake.pipeline.media.sound.log_mel import MelStream

        return MelStream(self.config.audio, first_ns=first_ns)

    def snippet_bytes(self, form: PictureFormat) -> int:
        """Pictures as bytes, sound as float32."""
        audio = self.config.audio
        return self.frames * form.size_bytes + audio.frames * audio.mels * 4
