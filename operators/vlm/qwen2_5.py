"""Qwen2.5-VL and the thinker of Qwen2.5-Omni: one block of tokens for the whole video, time as a position.

Shapes: K kept tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from longtake.operators.hub.mel_front import MelFront
from longtake.operators.vlm.family import PatchFamily, grid_positions, seconds_to_positions
from longtake.operators.vlm.layout import Layout, LayoutBuilder, Positions, in_order
from longtake.operators.vlm.prompt import Around
from longtake.operators.vlm.tokens import SOUND, VideoTokens


class Qwen25VL(PatchFamily):
    """Qwen2.5-VL.

    `positions`: the text after a video was trained to go on after the video's last position; transformers (5.3 ...
    5.23) puts it right after the larger side of one step's grid, in the middle of the video's time. "trained" is the
    former, "hf" the latter.
    """

    axes = 3
    placeholder = "<|video_pad|>"
    opening, closing = "<|vision_start|>", "<|vision_end|>"

    def layout(self, video: VideoTokens, keep_S: Tensor, around: Around, positions: Positions) -> Layout:
        rate_hz = float(self.model.config.vision_config.tokens_per_second)
        times_T = seconds_to_positions(video.step_s, rate_hz)
        builder = LayoutBuilder(axes=self.axes)
        start = builder.text(self.prompt.ids(around.before + (self.opening if around.wrapped else "")), 0)
        numbers_K, positions_3K = grid_positions(video, keep_S, times_T, start)
        row_major = in_order(positions_3K[0], positions_3K[1], positions_3K[2])
        builder.stored(numbers_K[row_major], positions_3K[:, row_major])
        side = max(video.rows, video.columns)
        end = start + (side if positions == "hf" else max(side, int(times_T[-1]) + 1))
        if around.wrapped:
            end = builder.text([self.prompt.marker(self.closing)], end)
        return builder.build(end)


class Qwen25Omni(PatchFamily):
    """The thinker of Qwen2.5-Omni: pictures and sound, interleaved in chunks of 2 s, on one clock of 25 positions/s.

    "trained" and "hf" are the same for pictures spaced evenly, at least one step a chunk. A video without sound is
    laid out as one without a sound track.
    """

    axes = 3
    placeholder = "<|VIDEO|>"
    opening, closing = "<|vision_bos|>", "<|vision_eos|>"
    sound_opening, sound_closing = "<|audio_bos|>", "<|audio_eos|>"

    def read_front(self, path: Path) -> MelFront:
        return MelFront.read(path, int(self.model.config.audio_config.num_mel_bins))

    @property
    def sound_chunk_s(self) -> float:
        assert self.front is not None
        return 2 * int(self.model.config.audio_config.n_window) / self.front.frames_hz

    @property
    def sound_hz(self) -> float:
        """25 sound tokens a second: the front end's 100 frames, halved twice."""
        assert self.front is not None
        return self.front.frames_hz / 4

    def sound_count(self, frames: int) -> int:
        return ((frames - 1) // 2 + 1 - 2) // 2 + 1

    def sound_features(self, mel_LNM: Tensor) -> Tensor:
        clips, frames, _ = mel_LNM.shape
        tower = self.model.model.audio_tower
        lengths_L = torch.full((clips,), frames, device=mel_LNM.device)
        flat_MN = mel_LNM.flatten(0, 1).T.to(tower.dtype)
        flat_KD = tower(flat_MN, feature_lens=lengths_L).last_hidden_state
        features_LnD: Tensor = flat_KD.unflatten(0, (clips, self.sound_count(frames)))
        return features_LnD

    def layout(self, video: VideoTokens, keep_S: Tensor, around: Around, positions: Positions) -> Layout:
        config = self.model.config
        rate_hz, places_S4 = float(config.position_id_per_seconds), video.places_S4
        times_T = seconds_to_positions(video.step_s, rate_hz)
        builder = LayoutBuilder(axes=self.axes)
        start = builder.text(self.prompt.ids(around.before), 0)
        markers = [self.opening, self.closing] if around.wrapped else ["", ""]
        if video.sounds:
            markers = [markers[0] + self.sound_opening, self.sound_closing + markers[1]]
        # With sound two markers stand on each side of the video, and each pair shares one position.
        opening, closing = (self.prompt.ids(marker) for marker in markers)
        start = self._at_one_position(builder, opening, start, shared=bool(video.sounds))
        numbers_K, positions_3K = grid_positions(video, keep_S, times_T, start)
        heard_K = torch.nonzero(keep_S & (places_S4[:, 0] == SOUND))[:, 0]
        numbers_K = torch.cat([numbers_K, heard_K])
        positions_3K = torch.cat([positions_3K, (places_S4[heard_K, 1] + start).expand(3, -1)], dim=1)
        chunk_K = (positions_3K[0] - start) // int(rate_hz * config.seconds_per_chunk)
        if not video.sounds:
            chunk_K = torch.zeros_like(chunk_K)
        order = in_order(chunk_K, places_S4[numbers_K, 0], positions_3K[0], positions_3K[1], positions_3K[2])
        builder.stored(numbers_K[order], positions_3K[:, order])
        end = self._end(video, times_T, int(rate_hz * config.seconds_per_chunk)) + start
        return builder.build(self._at_one_position(builder, closing, end, shared=bool(video.sounds)))

    @staticmethod
    def _at_one_position(builder: LayoutBuilder, ids: list[int], place: int, *, shared: bool) -> int:
        if not shared:
            return builder.text(ids, place)
        for one in ids:
            builder.text([one], place)
        return place + 1

    @staticmethod
    def _end(video: VideoTokens, times_T: Tensor, chunk: int) -> int:
        """The position after the uncompressed video, from its start."""
        seen = max(video.rows, video.columns, int(times_T[-1]) + 1) if len(times_T) else 0
        heard = video.sounds
        if not heard:
            return seen
        # The model's own code goes on after the last piece that it laid out: sound, where the last chunk has any.
        last_seen = int(times_T[-1]) // chunk if len(times_T) else -1
        return heard if (heard - 1) // chunk >= last_seen else seen
