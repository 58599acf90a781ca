"""What every supported class of models does in its own way: prepare pictures and sound, and lay out the sequence.

Shapes: L clips, F pictures, H rows, W columns of pixels, T steps, R rows, C columns of a step's grid, D width, N mel
frames, M mels, A axes of position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from longtake.errors import CheckpointError
from longtake.operators.hub.mel_front import MelFront
from longtake.operators.hub.picture_preparation import Preparation, fit
from longtake.operators.vlm.layout import Layout, Positions
from longtake.operators.vlm.prompt import Around, ChatPrompt, read_template
from longtake.operators.vlm.tokens import PICTURE, VideoTokens

# Tokens that one step takes at most, unless the caller says otherwise: 16 x 16.
MOST_TOKENS_A_STEP = 256


class Family(ABC):
    """One class of models.

    `axes` is how many axes a position has, `front` the sound front end (None: the model is deaf).
    """

    axes: ClassVar[int]
    # The video's place in the chat template, and the markers around it.
    placeholder: ClassVar[str]
    opening: ClassVar[str] = ""
    closing: ClassVar[str] = ""

    front: MelFront | None = None

    def __init__(self, model: Any, tokenizer: Any, path: Path) -> None:
        self.model = model
        self.prompt = ChatPrompt(
            tokenizer=tokenizer,
            template=read_template(path, tokenizer),
            placeholder=self.placeholder,
            opening=self.opening,
            closing=self.closing,
        )
        read, meant = self.prompt.ids(self.placeholder), int(model.config.video_token_id)
        if read != [meant]:
            raise CheckpointError(f"{path}: the tokenizer reads {self.placeholder} as {read}, config.json says {meant}")
        self._read(path)

    @classmethod
    def without_weights(cls, config: Any, path: Path) -> Self:
        """What follows from a config and the preprocessor's files alone: sizes and rates. Nothing else works."""
        made = cls.__new__(cls)
        made.model = SimpleNamespace(config=config)
        made._read(path)
        return made

    def _read(self, path: Path) -> None:
        self.preparation = self.read_preparation(path)
        self.front = self.read_front(path)

    def forget_language(self) -> None:
        """Let go of the language model: its memory, where nothing but towers and projectors is used."""
        self.model.model.language_model = torch.nn.Identity()
        self.model.lm_head = torch.nn.Identity()

    @property
    def language(self) -> Any:
        """The language model, without its head."""
        return self.model.model.language_model

    @property
    def width(self) -> int:
        """D of the stored tokens."""
        return int(self.model.config.get_text_config().hidden_size)

    @abstractmethod
    def read_preparation(self, path: Path) -> Preparation:
        """How pictures are prepared."""

    def read_front(self, path: Path) -> MelFront | None:
        """The sound front end; None of a deaf model."""
        return None

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The one (height, width) that the tower takes, whatever the video; None where it takes others."""
        return None

    def frame_size(self, height: int, width: int, most_tokens: int = MOST_TOKENS_A_STEP) -> tuple[int, int]:
        """The (height, width) that a video's pictures are brought to, fixed for the whole video."""
        return self.fixed_size or fit(height, width, side=self.preparation.side, most=most_tokens)

    @abstractmethod
    def picture_features(self, frames_LFHWC: Tensor) -> Tensor:
        """Tower and projector: uint8 pictures to [L, T, R, C, D]. F is a multiple of the pictures a step."""

    def sound_features(self, mel_LNM: Tensor) -> Tensor:
        """Audio tower and projector: mel frames that were raised to the peak, to [L, n, D]."""
        raise NotImplementedError(f"{type(self).__name__} does not hear")

    def sound_count(self, frames: int) -> int:
        """How many sound tokens `frames` mel frames become."""
        raise NotImplementedError(f"{type(self).__name__} does not hear")

    @property
    def sound_hz(self) -> float:
        """Sound tokens a second; 0 of a deaf model."""
        return 0.0

    @property
    def sound_chunk_s(self) -> float:
        """Seconds of sound that the audio tower reads together; 0 of a deaf model."""
        return 0.0

    @abstractmethod
    def layout(self, video: VideoTokens, keep_S: Tensor, around: Around, positions: Positions) -> Layout:
        """The prefix up to the end of the video.

        Args:
            keep_S: bool, which stored tokens take part.
            around: the text around the video; only `before` is laid out.
        """

    def extra_vector(self) -> Tensor:
        """The vector [D] that stands for NEWLINE in a layout."""
        raise NotImplementedError(f"{type(self).__name__} has no vector of its own")

    def steps_of(self, frames: int) -> int:
        """How many steps that many pictures make; the last picture is repeated where a step is not full."""
        return -(-frames // self.preparation.step)

    def step_times(self, times_s: tuple[float, ...]) -> tuple[float, ...]:
        """Times of the steps: the mean of a step's first and last picture."""
        step = self.preparation.step
        full = (*times_s, *times_s[-1:] * (-len(times_s) % step))
        return tuple((full[n] + full[n + step - 1]) / 2 for n in range(0, len(full), step))

    def full_step(self, frames_LFHWC: Tensor) -> Tensor:
        """Pictures with the last one repeated up to a whole number of steps."""
        short = -frames_LFHWC.shape[1] % self.preparation.step
        if short == 0:
            return frames_LFHWC
        return torch.cat([frames_LFHWC, frames_LFHWC[:, -1:].expand(-1, short, -1, -1, -1)], dim=1)


class PatchFamily(Family):
    """The Qwen towers: patches of several pictures, blocks of patches merged to a token."""

    def read_preparation(self, path: Path) -> Preparation:
        vision = self.model.config.vision_config
        return Preparation.read(
            path, patch=vision.patch_size, step=vision.temporal_patch_size, merge=vision.spatial_merge_size
        )

    def picture_features(self, frames_LFHWC: Tensor) -> Tensor:
        tower, merge = self.model.model.visual, self.preparation.merge
        pixels = self.preparation.normalise(self.full_step(frames_LFHWC))
        patches, (steps, rows, columns) = self.preparation.patchify(pixels)
        grid_L3 = torch.tensor([[steps, rows, columns]] * len(frames_LFHWC), device=patches.device)
        merged = tower(patches.to(tower.dtype), grid_thw=grid_L3).pooler_output
        shape = (len(frames_LFHWC), steps, rows // merge, columns // merge)
        features: Tensor = merged.unflatten(0, shape)
        return features


def grid_positions(video: VideoTokens, keep_S: Tensor, step_positions_T: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Positions of kept picture tokens on three axes, as Qwen2.5 counts them from `start`.

    Args:
        step_positions_T: what each step adds on the axis of time.
    Returns:
        The numbers of the kept picture tokens, int64 [K], in order of step, row and column, and [3, K].
    """
    places_S4 = video.places_S4
    numbers_K = torch.nonzero(keep_S & (places_S4[:, 0] == PICTURE))[:, 0]
    _, step_K, row_K, column_K = places_S4[numbers_K].unbind(1)
    return numbers_K, torch.stack([step_positions_T[step_K], row_K, column_K]) + start


def seconds_to_positions(step_s: tuple[float, ...], rate_hz: float) -> Tensor:
    """What each step adds on the axis of time, int64 [T]: time since the first step, in positions, rounded down.

    transformers counts steps times the seconds a step; these are the times themselves, which is the same where
    pictures are evenly spaced. A thousandth of a position is allowed for times that are no binary fractions.
    """
    times_T = torch.tensor(step_s, dtype=torch.float64)
    return ((times_T - times_T[:1]) * rate_hz + 1e-3).floor().long()
