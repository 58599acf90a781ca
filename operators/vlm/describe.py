"""What indexing has to know of a public model before its weights are loaded, in an object that can be pickled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from longtake.errors import CheckpointError
from longtake.operators.hub.locate import locate, read_config, require_transformers
from longtake.operators.hub.mel_front import MelFront
from longtake.operators.hub.picture_preparation import fit
from longtake.operators.hub.weights import fingerprint, one_line, weight_files
from longtake.operators.vlm.family import MOST_TOKENS_A_STEP
from longtake.operators.vlm.loading import recognise


@dataclass(frozen=True, kw_only=True)
class VLMDescription:
    """A public model without its weights; its numbers are those of the loaded `VLM`.

    `side` is what both sides of a picture are multiples of, in pixels; `fixed_size` is the one (height, width) that the
    tower takes, where it takes no other. Of a deaf model `front` is None, `sound_hz` and `sound_chunk_s` are 0.
    """

    path: Path
    fingerprint: str
    width: int
    pictures_a_step: int
    side: int
    fixed_size: tuple[int, int] | None
    front: MelFront | None
    sound_hz: float
    sound_chunk_s: float

    def frame_size(self, height: int, width: int, most_tokens: int = MOST_TOKENS_A_STEP) -> tuple[int, int]:
        """The (height, width) to bring a video's pictures to; see `VLM.frame_size`."""
        return self.fixed_size or fit(height, width, side=self.side, most=most_tokens)


def describe_vlm(path: str | Path) -> VLMDescription:
    """Read a model's config, its preprocessor's files and samples of its weights.

    Raises:
        CheckpointError: transformers is missing or old, the class is unknown, or a file is missing or damaged; one line
            that says what to do.
    """
    transformers = require_transformers()
    folder = locate(path)
    name, family = recognise(folder, read_config(folder))
    files = weight_files(folder)
    try:
        config = getattr(transformers, name).config_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever the config led it to
        raise CheckpointError(
            f"{folder}: the config cannot be read: {type(error).__name__}: {one_line(error)}"
        ) from error
    shapes = family.without_weights(config, folder)
    return VLMDescription(
        path=folder,
        fingerprint=fingerprint(folder, files),
        width=shapes.width,
        pictures_a_step=shapes.preparation.step,
        side=shapes.preparation.side,
        fixed_size=shapes.fixed_size,
        front=shapes.front,
        sound_hz=shapes.sound_hz,
        sound_chunk_s=shapes.sound_chunk_s,
    )
