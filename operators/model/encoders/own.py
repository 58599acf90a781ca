"""The modality encoders: sparse video tubes and log-mel patches, each into a small ViT.

Shapes: S snippets, F pictures, H rows, W columns, A mel frames, M mels, N tokens, D width.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from longtake.kernels.tube_embed.op import tube_embed
from longtake.kernels.tube_embed.reference import TubeShape, tube_tokens
from longtake.operators.model.config import AudioConfig, Tube, VideoConfig
from longtake.operators.model.layers import Transformer, key_bias


def centre_positions(tube: Tube, clip: tuple[int, int, int]) -> Tensor:
    """Centres of a tube's tokens in input coordinates (frames, rows, columns), float32 [N, 3].

    Stride and offset are included, so tokens of different tubes share one coordinate system (TubeViT, section 3.2).
    """
    axes = [
        offset + torch.arange(count, dtype=torch.float32) * stride + kernel / 2
        for count, kernel, stride, offset in zip(tube.grid(clip), tube.kernel, tube.stride, tube.offset, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


def position_embedding(centres_N3: Tensor, width: int) -> Tensor:
    """Fixed sin/cos embedding of 3D centres, channels in groups of six: sin/cos of t, x, y; float32 [N, D].

    Channels beyond the last whole group of six stay zero.
    """
    groups = width // 6
    rates_G = 10_000.0 ** (-torch.arange(groups, dtype=torch.float32) / max(groups, 1))
    t_N, y_N, x_N = centres_N3.unbind(-1)
    angles_N3G = torch.stack([t_N, x_N, y_N], dim=-1)[..., None] * rates_G
    features = torch.stack([angles_N3G.sin(), angles_N3G.cos()], dim=-1)  # [N, 3, G, 2]
    return F.pad(rearrange(features, "n a g s -> n (g a s)"), (0, width - 6 * groups))


class TubeEmbedding(nn.Module):
    """One kind of tube: every tube's pixels through one dense layer, a strided 3D convolution without padding."""

    def __init__(self, tube: Tube, clip: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.tube = tube
        self.shape = TubeShape(tube.kernel, tube.stride, tube.offset)
        self.grid = tube.grid(clip)
        self.dense = nn.Linear(tube.kernel[0] * tube.kernel[1] * tube.kernel[2] * 3, width)
        position_ND = position_embedding(centre_positions(tube, clip), width)
        self.register_buffer("position_ND", position_ND, persistent=False)

    def forward(self, frames_SFHWC: Tensor) -> Tensor:
        """Float pictures [S, F, H, W, 3] to tokens [S, N, D]; the encoder embeds all kinds of tubes at once instead."""
        return tube_tokens(frames_SFHWC, self.shape, self.dense.weight, self.dense.bias, self.get_buffer("position_ND"))

    def mask(self, frame_mask_SF: Tensor) -> Tensor:
        """Which tokens see at least one real picture; bool [S, N]."""
        starts, rows, columns = self.grid
        kernel, stride, offset = self.tube.kernel[0], self.tube.stride[0], self.tube.offset[0]
        seen_ST = frame_mask_SF[:, offset:].unfold(1, kernel, stride).any(-1)[:, :starts]
        return seen_ST[:, :, None].expand(-1, -1, rows * columns).flatten(1)


class VideoEncoder(nn.Module):
    """Pictures to features: sparse tubes of the config, fixed centre positions, a ViT (TubeViT, arXiv 2212.03229)."""

    def __init__(self, config: VideoConfig, width: int) -> None:
        super().__init__()
        if config.encoder is None:
            raise ValueError("the config names a public video encoder, which is no part of ours")
        self.config = config
        self.tubes = nn.ModuleList(TubeEmbedding(tube, config.clip, width) for tube in config.tubes)
        self.transformer = Transformer(width, config.encoder)

    def forward(self, frames_SFHWC: Tensor, frame_mask_SF: Tensor) -> tuple[Tensor, Tensor]:
        """Encode uint8 pictures.

        Args:
            frames_SFHWC: uint8 [S, F, H, W, 3].
            frame_mask_SF: bool, False where there is no picture; such pictures show the last one before them.
        Returns:
            features [S, N, D] and their mask, bool [S, N], tubes in the config's order.
        Raises:
            ValueError: the pictures have another shape than the config's.
        """
        features_SND, mask_SN = self.embed(frames_SFHWC, frame_mask_SF)
        dtype = next(self.tubes.parameters()).dtype
        return self.transformer(features_SND, key_bias(mask_SN, dtype)), mask_SN

    def embed(self, frames_SFHWC: Tensor, frame_mask_SF: Tensor) -> tuple[Tensor, Tensor]:
        """The tubes' tokens before the ViT; as `forward` otherwise."""
        if frames_SFHWC.shape[1:] != (*self.config.clip, 3) or frames_SFHWC.dtype != torch.uint8:
            raise ValueError(
                f"pictures are {frames_SFHWC.dtype} {tuple(frames_SFHWC.shape)};"
                f" wanted uint8 [S, {self.config.clip}, 3]"
            )
        kinds = [cast(TubeEmbedding, tube) for tube in self.tubes]
        features_SND = tube_embed(
            frames_SFHWC.contiguous(),
            [kind.shape for kind in kinds],
            [kind.dense.weight for kind in kinds],
            [kind.dense.bias for kind in kinds],
            [kind.get_buffer("position_ND") for kind in kinds],
            fill_index(frame_mask_SF),
        )
        mask_SN = torch.cat([kind.mask(frame_mask_SF) for kind in kinds], dim=1)
        return features_SND, mask_SN


class AudioEncoder(nn.Module):
    """Log-mel patches to features, by the same ViT design."""

    def __init__(self, config: AudioConfig, width: int) -> None:
        super().__init__()
        if config.encoder is None:
            raise ValueError("the config names a public audio encoder, which is no part of ours")
        self.config = config
        self.dense = nn.Linear(config.patch[0] * config.patch[1], width)
        times, bands = config.grid
        centres = torch.stack(
            torch.meshgrid(
                (torch.arange(times) + 0.5) * config.patch[0],
                (torch.arange(bands) + 0.5) * config.patch[1],
                indexing="ij",
            ),
            dim=-1,
        ).flatten(0, 1)
        # The same scheme as for tubes: time is the first axis, the mel band takes the place of the row.
        centres_N3 = torch.stack([centres[:, 0], centres[:, 1], torch.zeros(times * bands)], dim=-1)
        self.register_buffer("position_ND", position_embedding(centres_N3, width), persistent=False)
        self.transformer = Transformer(width, config.encoder)

    def forward(self, mel_SAM: Tensor, mask_SA: Tensor) -> tuple[Tensor, Tensor]:
        """Encode log-mel frames: float [S, A, M] and bool [S, A] to features [S, N, D] and bool [S, N].

        Raises:
            ValueError: the spectrogram has another shape than the config's.
        """
        if mel_SAM.shape[1:] != (self.config.frames, self.config.mels):
            raise ValueError(
                f"log-mel frames are {tuple(mel_SAM.shape)}; wanted [S, {self.config.frames}, {self.config.mels}]"
            )
        features_SND, mask_SN = self.embed(mel_SAM, mask_SA)
        return self.transformer(features_SND, key_bias(mask_SN, features_SND.dtype)), mask_SN

    def embed(self, mel_SAM: Tensor, mask_SA: Tensor) -> tuple[Tensor, Tensor]:
        """The patches' tokens before the ViT; as `forward` otherwise."""
        time, band = self.config.patch
        # Where there is no sound the spectrogram is silence.
        mel_SAM = torch.where(mask_SA[..., None], mel_SAM, -2.0).to(self.dense.weight.dtype)
        patches = rearrange(mel_SAM, "s (a t) (m b) -> s (a m) (t b)", t=time, b=band)
        mask_SN = rearrange(mask_SA, "s (a t) -> s a t", t=time).any(-1).repeat_interleave(self.config.grid[1], dim=1)
        features_SND = self.dense(patches) + self.position_ND
        return features_SND, mask_SN


def fill_index(mask_SF: Tensor) -> Tensor | None:
    """Which picture each place shows, int32 [S, F]: a missing one's is the last before it, or the first that there is.

    None where every picture is there. A GPU is not asked: the answer would hold up the host, and no graph could hold
    the question.
    """
    if mask_SF.device.type == "cpu" and bool(mask_SF.all()):
        return None
    index_F = torch.arange(mask_SF.shape[1], device=mask_SF.device)
    last_SF = torch.where(mask_SF, index_F, -1).cummax(dim=1).values
    first_S1 = mask_SF.to(torch.int8).argmax(dim=1, keepdim=True)
    return torch.where(last_SF >= 0, last_SF, first_S1).to(torch.int32)
