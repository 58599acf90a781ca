"""LLaVA-OneVision: pictures of one fixed size, tokens one after the other, one newline vector after the video."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from longtake.operators.hub.picture_preparation import Preparation
from longtake.operators.vlm.family import Family
from longtake.operators.vlm.layout import NEWLINE, Layout, LayoutBuilder, Positions, in_order
from longtake.operators.vlm.prompt import Around
from longtake.operators.vlm.tokens import VideoTokens


class LlavaOnevision(Family):
    """LLaVA-OneVision: positions count tokens. "trained" and "hf" are the same.

    A long video at its original positions passes the positions that the model was trained on (32,768 with Qwen2) after
    167 pictures, compressed or not.
    """

    axes = 1
    placeholder = "<video>"

    def read_preparation(self, path: Path) -> Preparation:
        return Preparation.read(path)

    @property
    def _side(self) -> int:
        return int(self.model.config.vision_config.image_size)

    @property
    def fixed_size(self) -> tuple[int, int]:
        """Always the tower's own square, whatever the aspect and the wanted number of tokens."""
        return self._side, self._side

    def picture_features(self, frames_LFHWC: Tensor) -> Tensor:
        if frames_LFHWC.shape[2:4] != (self._side, self._side):
            raise ValueError(f"pictures are {tuple(frames_LFHWC.shape[2:4])}; wanted {self._side} x {self._side}")
        pixels = self.preparation.normalise(frames_LFHWC).to(self.model.dtype)
        features_LSD = self.model.model.get_video_features(pixels, return_dict=True).pooler_output
        side = math.ceil(self._side // self.model.config.vision_config.patch_size / 2)
        # Each call ends with a newline vector: the layout puts one after the whole video instead.
        features_LTRCD: Tensor = features_LSD[:, :-1].unflatten(1, (frames_LFHWC.shape[1], side, side))
        return features_LTRCD

    def extra_vector(self) -> Tensor:
        newline: Tensor = self.model.model.image_newline
        return newline

    def layout(self, video: VideoTokens, keep_S: Tensor, around: Around, positions: Positions) -> Layout:
        places_S4 = video.places_S4
        order = in_order(places_S4[:, 1], places_S4[:, 2], places_S4[:, 3])
        order = order[keep_S[order]]
        builder = LayoutBuilder(axes=self.axes)
        start = builder.text(self.prompt.ids(around.before), 0)
        _, step_K, row_K, column_K = places_S4[order].unbind(1)
        builder.stored(order, ((step_K * video.rows + row_K) * video.columns + column_K)[None] + start)
        end = start + len(video.step_s) * video.rows * video.columns
        return builder.build(builder.text([NEWLINE], end))
