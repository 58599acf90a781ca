"""What a training batch holds, as tensors: pictures and sound of its snippets, and questions about its videos.

Shapes: Q questions in the batch, L text tokens, T snippets a video, S snippets of all videos, F pictures, H rows, W
columns, A mel frames, M mels (for a public sound encoder A are samples and M is 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(kw_only=True)
class Questions:
    """Questions of a batch as tensors, the same number for each video, video-major."""

    ids_QL: Tensor  # int64, prompt and answer, padded
    answer_QL: Tensor  # bool, True on the tokens that the loss is taken on (the answer and its two markers)
    span_QT: Tensor  # bool, the snippets that may be looked at
    evidence_QT: Tensor  # bool, the snippets that prove the answer; none where nothing happened
    content_QL: Tensor  # bool, True on the answer's words alone (where evidence is wanted)


@dataclass(kw_only=True)
class Clips:
    """Pictures and sound of a batch, V * T snippets, video-major."""

    frames_SFHWC: Tensor  # uint8
    frame_mask_SF: Tensor  # bool
    mel_SAM: Tensor  # float32
    mel_mask_SA: Tensor  # bool

    @property
    def heard_S(self) -> Tensor:
        """Which snippets come with sound; bool [S]."""
        return self.mel_mask_SA.any(1)
