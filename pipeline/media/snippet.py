"""A snippet: the pictures, the sound and the text of one window of a video, ready for the model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# F frames, H rows, W columns, C = 3 colours, A mel frames, M mels


@dataclass(frozen=True, kw_only=True, eq=False)
class Snippet:
    """One window [start_ns, stop_ns) of a video, on the video's clock (0 is the first picture).

    `frames_FHWC` is uint8 RGB in the model's picture format; where `frame_mask_F` is False
    there is no picture (past the video's end, or inside damage) and the frame is black. `sound_AM` is float32;
    where `mel_mask_A` is False there is no sound and the row is zero. `text` is the subtitles of the window.

    Raises:
        ValueError: an empty window, a shape or dtype that does not fit, or no picture at all.
    """

    index: int
    start_ns: int
    stop_ns: int
    frames_FHWC: NDArray[np.uint8] = field(repr=False)
    frame_mask_F: NDArray[np.bool_] = field(repr=False)
    sound_AM: NDArray[np.float32] = field(repr=False)
    mel_mask_A: NDArray[np.bool_] = field(repr=False)
    text: str

    def __post_init__(self) -> None:
        if self.index < 0 or self.start_ns < 0 or self.stop_ns <= self.start_ns:
            raise ValueError(f"snippet {self.index} of [{self.start_ns}, {self.stop_ns}) ns is empty or negative")
        frames, mel = self.frames_FHWC, self.sound_AM
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise ValueError(
                f"snippet {self.index}: frames are {frames.dtype} {frames.shape}, uint8 [F, H, W, 3] wanted"
            )
        if self.frame_mask_F.dtype != np.bool_ or self.frame_mask_F.shape != frames.shape[:1]:
            raise ValueError(f"snippet {self.index}: frame mask {self.frame_mask_F.shape} for {len(frames)} frames")
        if mel.dtype != np.float32 or mel.ndim != 2:
            raise ValueError(f"snippet {self.index}: log-mel is {mel.dtype} {mel.shape}, float32 [A, M] wanted")
        if self.mel_mask_A.dtype != np.bool_ or self.mel_mask_A.shape != mel.shape[:1]:
            raise ValueError(f"snippet {self.index}: mel mask {self.mel_mask_A.shape} for {len(mel)} mel frames")
        if not self.frame_mask_F.any():
            raise ValueError(f"snippet {self.index} has no picture: it is damage, not a snippet")

    @property
    def size_bytes(self) -> int:
        """Bytes that the snippet's arrays hold."""
        return int(self.frames_FHWC.nbytes + self.sound_AM.nbytes)
