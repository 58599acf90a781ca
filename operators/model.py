"""The whole model: encoders, combiner, latent model and text decoder (Mirasol3B, arXiv 2311.05698).

Shapes: B videos, T snippets, S = B * T snippets, F pictures, m tokens a snippet, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from longtake.operators import combiners
from longtake.operators.combiners import Features
from longtake.operators.config import ModelConfig
from longtake.operators.encoders import AudioEncoder, VideoEncoder
from longtake.operators.latent import LatentModel
from longtake.operators.text import TextDecoder


class LongTakeModel(nn.Module):
    """Five parts with one config; each may be called alone, since indexing and answering use different ones."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.video_encoder = VideoEncoder(config.video, config.width)
        self.audio_encoder = AudioEncoder(config.audio, config.width)
        self.combiner = combiners.build(config)
        self.latent_model = LatentModel(config)
        self.text_decoder = TextDecoder(config)

    def features(self, frames_SFHWC: Tensor, frame_mask_SF: Tensor, mel_SAM: Tensor, mel_mask_SA: Tensor) -> Features:
        """Encode snippets one by one: uint8 pictures and float log-mel with their masks to features."""
        video_SND, video_mask_SN = self.video_encoder(frames_SFHWC, frame_mask_SF)
        audio_SND, audio_mask_SN = self.audio_encoder(mel_SAM, mel_mask_SA)
        return Features(
            video_BND=video_SND, video_mask_BN=video_mask_SN, audio_BND=audio_SND, audio_mask_BN=audio_mask_SN
        )
