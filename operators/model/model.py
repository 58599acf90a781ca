"""The whole model: encoders, combiner, latent model and text decoder (Mirasol3B, arXiv 2311.05698).

Shapes: B videos, T snippets, S = B * T snippets, F pictures, A mel frames or samples, M mels, m tokens a snippet,
D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from longtake.operators.model import combiners
from longtake.operators.model.combiners import Features
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.encoders.own import AudioEncoder, VideoEncoder
from longtake.operators.model.feature_layout import feature_layout
from longtake.operators.model.latent import LatentModel
from longtake.operators.model.text import TextDecoder

if TYPE_CHECKING:
    from longtake.operators.model.encoders import PictureEncoder, SoundEncoder, Towers


class LongTakeModel(nn.Module):
    """Five parts with one config; each may be called alone, since indexing and answering use different ones.

    Where the config names public encoders, `towers` are these; None loads them. Without `encoders` there is neither
    an encoder nor a combiner: what is left answers from stored tokens.

    Raises:
        CheckpointError: a public encoder cannot be loaded.
        ValueError: the parts do not fit together.
    """

    video_encoder: VideoEncoder | PictureEncoder
    audio_encoder: AudioEncoder | SoundEncoder

    def __init__(self, config: ModelConfig, towers: Towers | None = None, *, encoders: bool = True) -> None:
        super().__init__()
        self.config = config
        if encoders:
            self._add_encoders(towers or named_towers(config))
        self.latent_model = LatentModel(config)
        self.text_decoder = TextDecoder(config)

    def _add_encoders(self, towers: Towers | None) -> None:
        config = self.config
        video_grid, audio_grid = None, None
        if towers is not None and towers.video is not None:
            self.video_encoder = towers.video.for_model(config.video, config.width)
            video_grid = towers.video.grid(*config.video.clip)
        else:
            self.video_encoder = VideoEncoder(config.video, config.width)
        if towers is not None and towers.audio is not None:
            self.audio_encoder = towers.audio.for_model(config.audio, config.width)
            audio_grid = towers.audio.grid(config.audio.frames)[:2]
        else:
            self.audio_encoder = AudioEncoder(config.audio, config.width)
        self.combiner = combiners.build(config, feature_layout(config, video=video_grid, audio=audio_grid))

    def features(
        self, frames_SFHWC: Tensor, frame_mask_SF: Tensor, sound_SAM: Tensor, sound_mask_SA: Tensor
    ) -> Features:
        """Encode snippets one by one: uint8 pictures, and float log-mel or waves (M is 1), with their masks."""
        video_SND, video_mask_SN = self.video_encoder(frames_SFHWC, frame_mask_SF)
        if self.config.audio.pretrained is not None:
            sound_SAM = sound_SAM.squeeze(-1)
        audio_SND, audio_mask_SN = self.audio_encoder(sound_SAM, sound_mask_SA)
        return Features(
            video_BND=video_SND, video_mask_BN=video_mask_SN, audio_BND=audio_SND, audio_mask_BN=audio_mask_SN
        )


def named_towers(config: ModelConfig, folder: Path | None = None) -> Towers | None:
    """The public encoders that a config names, loaded; None where it names none. `folder` is the checkpoint's.

    Raises:
        CheckpointError: one cannot be loaded.
    """
    if config.video.pretrained is None and config.audio.pretrained is None:
        return None
    from longtake.operators.model.encoders import load_towers

    return load_towers(config, folder)
