"""The baseline that LongTake is measured against: all tokens of a video in one sequence, and no combiner.

It is built from the modality encoders' own parts: their embeddings, and the video encoder's transformer over the tokens
of all snippets together. Its attention grows with the square of the video's length.

Shapes: V videos, T snippets, S = V * T, F pictures, A mel frames, M mels, N tokens a snippet, D width.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor
from torch import cat as concatenate

from longtake.operators.model.encoders.own import AudioEncoder, VideoEncoder
from longtake.operators.model.model import LongTakeModel


def joint_attention(
    model: LongTakeModel,
    videos: int,
    frames_SFHWC: Tensor,
    frame_mask_SF: Tensor,
    mel_SAM: Tensor,
    mel_mask_SA: Tensor,
) -> Tensor:
    """Features of all snippets of `videos` videos, [V, T * N, D]; snippets come video by video.

    Every picture and mel frame is taken to be there: masks say which stand for others, and hide nothing.
    """
    if not (isinstance(model.video_encoder, VideoEncoder) and isinstance(model.audio_encoder, AudioEncoder)):
        raise ValueError("joint attention is over our own encoders' tubes and patches")
    video_SND, _ = model.video_encoder.embed(frames_SFHWC, frame_mask_SF)
    audio_SND, _ = model.audio_encoder.embed(mel_SAM, mel_mask_SA)
    tokens_VND = rearrange(concatenate([video_SND, audio_SND], dim=1), "(v t) n d -> v (t n) d", v=videos)
    out_VND: Tensor = model.video_encoder.transformer(tokens_VND)
    return out_VND
