"""How the features of a snippet lie in space and time: what a combiner has to know of the encoders before it."""

from __future__ import annotations

from dataclasses import dataclass

from longtake.operators.model.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class FeatureLayout:
    """The grids on which features lie, in the order of the tokens.

    `video` are grids of (steps in time, rows, columns), one for each kind of tube, and `flat` says which of them are
    of 2D patches, the ones that sparse tubes lie beside. `audio` is (times, bands), the time first.
    """

    video: tuple[tuple[int, int, int], ...]
    flat: tuple[bool, ...]
    audio: tuple[int, int]

    @property
    def tokens(self) -> int:
        """How many feature tokens, of pictures and sound together, a snippet has."""
        return sum(steps * rows * columns for steps, rows, columns in self.video) + self.audio[0] * self.audio[1]


def feature_layout(
    config: ModelConfig, *, video: tuple[int, int, int] | None = None, audio: tuple[int, int] | None = None
) -> FeatureLayout:
    """The layout of a config.

    Args:
        video, audio: the grids of public encoders, where the config names such: only their checkpoints know.
    Raises:
        ValueError: the config names a public encoder whose grid is not given.
    """
    if (video is None and config.video.pretrained) or (audio is None and config.audio.pretrained):
        raise ValueError("how a public encoder's features lie is known once it is loaded: give its grid")
    tubes = config.video.tubes
    return FeatureLayout(
        video=tuple(tube.grid(config.video.clip) for tube in tubes) if video is None else (video,),
        flat=tuple(tube.kernel[0] == 1 for tube in tubes) if video is None else (True,),
        audio=config.audio.grid if audio is None else audio,
    )
