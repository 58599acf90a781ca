"""Qwen3.5: every step of a video stands alone, after its time in words: `<1.2 seconds>` and one grid of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from longtake.operators.vlm.family import PatchFamily
from longtake.operators.vlm.layout import Layout, LayoutBuilder, Positions, in_order
from longtake.operators.vlm.prompt import Around
from longtake.operators.vlm.tokens import VideoTokens


class Qwen35(PatchFamily):
    """Qwen3.5 (transformers 5.2 or newer), a hybrid of linear and full attention.

    `positions`: the processor of the model's release put the steps in place of the template's whole
    `<|vision_start|><|video_pad|><|vision_end|>`; transformers as of 5.23 (since 5.12 at the latest) replaces only the
    middle and so leaves a second pair of markers around all steps. "trained" leaves that pair away, "hf" keeps it.
    """

    axes = 3
    placeholder = "<|video_pad|>"
    opening, closing = "<|vision_start|>", "<|vision_end|>"

    def layout(self, video: VideoTokens, keep_S: Tensor, around: Around, positions: Positions) -> Layout:
        start_id, end_id = self.prompt.marker(self.opening), self.prompt.marker(self.closing)
        places_S4 = video.places_S4
        order = in_order(places_S4[:, 1], places_S4[:, 2], places_S4[:, 3])
        order = order[keep_S[order]]
        counts = torch.bincount(places_S4[order, 1], minlength=len(video.step_s)).tolist()
        kept = order.split(counts)
        outer = around.wrapped and positions == "hf"
        before = around.before + (self.opening if outer else "")
        builder, place = LayoutBuilder(axes=self.axes), 0
        before_ids = self.prompt.ids(before)
        for step, time_s in enumerate(video.step_s):
            words = f"<{time_s:.1f} seconds>"
            # The first time follows the text before the video without a special token between: read as one.
            joined = self.prompt.ids(before + words) if step == 0 else self.prompt.ids(words)
            after_words = place + len(joined)
            if len(kept[step]):
                builder.text(joined, place)
            elif step == 0:
                builder.text(before_ids, place)
            grid_start = after_words + 1
            grid_end = grid_start + max(video.rows, video.columns)
            if len(kept[step]):
                builder.text([start_id], after_words)
                _, _, row_K, column_K = places_S4[kept[step]].unbind(1)
                builder.stored(kept[step], torch.stack([torch.zeros_like(row_K), row_K, column_K]) + grid_start)
                builder.text([end_id], grid_end)
            place = grid_end + 1
        if outer:
            place = builder.text([end_id], place)
        return builder.build(place)
