"""Public picture encoders as a model's video encoder: SigLIP 2 (both kinds), CLIP, DINOv3, V-JEPA 2.

Shapes: S snippets, F pictures, H rows, W columns, N tokens, D width of the tower, E width of the model, B pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from longtake.errors import CheckpointError
from longtake.operators.model.config import VideoConfig
from longtake.operators.model.encoders.own import fill_index
from longtake.operators.model.encoders.preparation import PicturePreparation, read_preparation
from longtake.operators.model.encoders.tower import Loaded, Source, load_tower
from longtake.operators.model.encoders.tower_encoder import TowerEncoder, grid_positions


def _siglip_source(loaded: str, inner: str = "") -> Source:
    return Source(loaded=loaded, inner=inner, layers="encoder.layers", norm="post_layernorm")


# model_type of config.json: where transformers keeps the tower.
SOURCES = {
    # SigLIP 2 of a fixed size is published as SigLIP's classes; siglip2 is the one of any aspect (NaFlex).
    "siglip": _siglip_source("SiglipModel", "vision_model"),
    "siglip_vision_model": _siglip_source("SiglipVisionModel"),
    "siglip2": _siglip_source("Siglip2Model", "vision_model"),
    "siglip2_vision_model": _siglip_source("Siglip2VisionModel"),
    "clip": Source(loaded="CLIPModel", inner="vision_model", layers="encoder.layers"),
    "clip_vision_model": Source(loaded="CLIPVisionModel", layers="encoder.layers"),
    "dinov3_vit": Source(loaded="DINOv3ViTModel", layers="model.layer", norm="norm"),
    "vjepa2": Source(loaded="VJEPA2Model", inner="encoder", layers="layer", norm="layernorm"),
}


class PictureTower(nn.Module):
    """A tower that reads pictures one by one, in a fixed size.

    `prefix` tokens (class, registers) stand before those of the patches and are left out: features lie on a grid.
    """

    def __init__(self, loaded: Loaded, preparation: PicturePreparation, *, patch: int, prefix: int, step: int = 1):
        super().__init__()
        self.model = loaded.model
        self.preparation = preparation
        self.patch, self.prefix, self.step = patch, prefix, step
        self.width = int(loaded.config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """Of the tower's weights."""
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """A snippet's features: steps in time, rows, columns."""
        rows, columns = self.preparation.shape(height, width)
        return -(-frames // self.step), rows // self.patch, columns // self.patch

    def forward(self, frames_SFHWC: Tensor) -> Tensor:
        """uint8 pictures to features [S, N, D], the time first, then rows, then columns."""
        snippets = len(frames_SFHWC)
        pixels_BCHW = self.preparation(frames_SFHWC.flatten(0, 1)).to(self.dtype)
        features_BND = self.model(pixel_values=pixels_BCHW).last_hidden_state[:, self.prefix :]
        features_SND: Tensor = rearrange(features_BND, "(s f) n d -> s (f n) d", s=snippets)
        return features_SND


class AnyAspectTower(PictureTower):
    """SigLIP 2 NaFlex: pictures keep their aspect, in at most so many patches. There is no padding to be masked."""

    def forward(self, frames_SFHWC: Tensor) -> Tensor:
        """uint8 pictures to features [S, N, D]."""
        snippets = len(frames_SFHWC)
        pixels_BCHW = self.preparation(frames_SFHWC.flatten(0, 1)).to(self.dtype)
        rows, columns = (side // self.patch for side in pixels_BCHW.shape[-2:])
        patches = rearrange(pixels_BCHW, "b c (h p) (w q) -> b (h w) (p q c)", h=rows, w=columns)
        # The class reads the shapes on the host, one by one.
        shapes_B2 = torch.tensor([[rows, columns]]).expand(len(patches), 2)
        made = self.model(pixel_values=patches, pixel_attention_mask=None, spatial_shapes=shapes_B2)
        features_SND: Tensor = rearrange(made.last_hidden_state, "(s f) n d -> s (f n) d", s=snippets)
        return features_SND


class VideoTower(PictureTower):
    """V-JEPA 2: a snippet's pictures at once, `step` of them to a token; the last one is repeated to a whole step."""

    def forward(self, frames_SFHWC: Tensor) -> Tensor:
        """uint8 pictures to features [S, N, D]."""
        snippets, frames = frames_SFHWC.shape[:2]
        pixels_BCHW = self.preparation(frames_SFHWC.flatten(0, 1)).to(self.dtype)
        pixels_SFCHW = pixels_BCHW.unflatten(0, (snippets, frames))
        missing = -frames % self.step
        if missing:
            last = pixels_SFCHW[:, -1:].expand(-1, missing, -1, -1, -1)
            pixels_SFCHW = torch.cat([pixels_SFCHW, last], dim=1)
        features_SND: Tensor = self.model(pixel_values_videos=pixels_SFCHW).last_hidden_state
        return features_SND


class PictureEncoder(TowerEncoder):
    """A public tower and a projection to the model's width; it serves where `VideoEncoder` does."""

    tower: PictureTower

    def __init__(
        self,
        tower: PictureTower,
        *,
        width: int | None,
        trained: bool,
        fingerprint: str,
        position_ND: Tensor | None = None,
    ) -> None:
        super().__init__(
            tower,
            tower_width=tower.width,
            width=width,
            trained=trained,
            fingerprint=fingerprint,
            position_ND=position_ND,
        )

    def for_model(self, config: VideoConfig, width: int) -> PictureEncoder:
        """The same tower with a projection to a model's width, and the places of its features in the snippet."""
        place_ND = grid_positions(self.grid(*config.clip), config.clip, width)
        return PictureEncoder(
            self.tower, width=width, trained=self.trained, fingerprint=self.fingerprint, position_ND=place_ND
        )

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """A snippet's features: steps in time, rows, columns; their product is N."""
        return self.tower.grid(frames, height, width)

    def forward(self, frames_SFHWC: Tensor, frame_mask_SF: Tensor) -> tuple[Tensor, Tensor]:
        """Encode uint8 pictures of any size.

        Args:
            frames_SFHWC: uint8 [S, F, H, W, 3].
            frame_mask_SF: bool, False where there is no picture; such pictures show the last one before them.
        Returns:
            features [S, N, E], and bool [S, N], False where a token saw no picture.
        Raises:
            ValueError: the pictures or the mask have another shape or dtype.
        """
        features_SND, mask_SN = self.features(frames_SFHWC, frame_mask_SF)
        return self.project(features_SND), mask_SN

    def features(self, frames_SFHWC: Tensor, frame_mask_SF: Tensor) -> tuple[Tensor, Tensor]:
        """The tower's own features [S, N, D], worth storing while it is frozen; otherwise as `forward`."""
        if frames_SFHWC.dtype != torch.uint8 or frames_SFHWC.ndim != 5 or frames_SFHWC.shape[-1] != 3:
            raise ValueError(
                f"pictures are {frames_SFHWC.dtype} {tuple(frames_SFHWC.shape)}; wanted uint8 [S, F, H, W, 3]"
            )
        if frame_mask_SF.dtype != torch.bool or frame_mask_SF.shape != frames_SFHWC.shape[:2]:
            raise ValueError(
                f"the pictures' mask is {frame_mask_SF.dtype} {tuple(frame_mask_SF.shape)};"
                f" wanted bool {tuple(frames_SFHWC.shape[:2])}"
            )
        index_SF = fill_index(frame_mask_SF)
        if index_SF is not None:
            rows_S1 = torch.arange(len(frames_SFHWC), device=index_SF.device)[:, None]
            frames_SFHWC = frames_SFHWC[rows_S1, index_SF.long()]
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            features_SND: Tensor = self.tower(frames_SFHWC)
        steps, rows, columns = self.grid(*frames_SFHWC.shape[1:4])
        padded_SF = nn.functional.pad(frame_mask_SF, (0, steps * self.tower.step - frame_mask_SF.shape[1]))
        seen_ST = padded_SF.unflatten(1, (steps, self.tower.step)).any(-1)
        return features_SND, seen_ST.repeat_interleave(rows * columns, dim=1)


def load_picture_encoder(
    path: str | Path,
    *,
    width: int | None = None,
    layer: int | None = None,
    trained: bool = False,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
) -> PictureEncoder:
    """Load a public picture encoder.

    Args:
        path: a directory with `config.json`, `*.safetensors` and the preprocessor's file, or a hub name.
        width: the model's width, to which the features are projected; None for no projection.
        layer: which of the class's `hidden_states`, 0 before the first layer, -1 behind the last; None for the last
            hidden state, which is normalised where the class does so. Layers behind it are not kept.
        trained: whether the tower learns too.
        dtype: float32, bfloat16 or float16 of the tower; the projection is float32.
    Raises:
        CheckpointError: one line that says what is missing, unknown or contradictory.
    """
    loaded = load_tower(path, SOURCES, "picture encoder", layer=layer, dtype=dtype, device=device)
    tower = BUILDERS[loaded.kind](loaded)
    made = PictureEncoder(tower, width=width, trained=trained, fingerprint=loaded.fingerprint)
    return made.to(device)


def _fixed(loaded: Loaded, tower: type[PictureTower], shape: int | None, **how: Any) -> PictureTower:
    """A tower of the patch size of its config; `shape` is the side that its positions demand."""
    prefix, step = how.pop("prefix", 0), how.pop("step", 1)
    patch = int(loaded.config.patch_size)
    if "max_num_patches" in how["defaults"]:
        how["patch"] = patch
    preparation = read_preparation(loaded.folder, **how)
    made = preparation.crop or preparation.size
    if shape is not None and made != (shape, shape):
        raise CheckpointError(f"{loaded.folder}: pictures are prepared to {made}, the model's are {shape} x {shape}")
    return tower(loaded, preparation, patch=patch, prefix=prefix, step=step)


def _siglip(loaded: Loaded) -> PictureTower:
    # The pooling head is not wanted.
    loaded.model.use_head, loaded.model.head = False, None
    defaults = {"resample": 3, "size": {"height": 224, "width": 224}}
    return _fixed(loaded, PictureTower, loaded.config.image_size, types=("SiglipImageProcessor",), defaults=defaults)


def _siglip2(loaded: Loaded) -> PictureTower:
    loaded.model.use_head, loaded.model.head = False, None
    defaults = {"resample": 2, "max_num_patches": 256, "size": None}
    return _fixed(loaded, AnyAspectTower, None, types=("Siglip2ImageProcessor",), defaults=defaults)


def _clip(loaded: Loaded) -> PictureTower:
    defaults = {"resample": 3, "size": 224, "crop_size": 224, "do_center_crop": True}
    return _fixed(
        loaded, PictureTower, loaded.config.image_size, types=("CLIPImageProcessor",), defaults=defaults, prefix=1
    )


def _dinov3(loaded: Loaded) -> PictureTower:
    defaults = {"resample": 2, "size": {"height": 224, "width": 224}}
    return _fixed(
        loaded, PictureTower, None, types=("DINOv3ViTImageProcessor",), defaults=defaults, square=True,
        scale_first=True, prefix=1 + int(loaded.config.num_register_tokens),
    )  # fmt: skip


def _vjepa2(loaded: Loaded) -> PictureTower:
    # Its processor takes the size from the crop, whatever the file says of the size.
    side = int(loaded.config.crop_size)
    defaults = {"resample": 2, "size": 0, "crop_size": side, "do_center_crop": True}
    made = _fixed(
        loaded, VideoTower, side, types=("VJEPA2VideoProcessor",), defaults=defaults,
        step=int(loaded.config.tubelet_size),
    )  # fmt: skip
    if made.preparation.size is not None:
        made.preparation = replace(made.preparation, size=int(side * 256 / 224))
    return made


BUILDERS: dict[str, Callable[[Loaded], PictureTower]] = {
    "siglip": _siglip,
    "siglip_vision_model": _siglip,
    "siglip2": _siglip2,
    "siglip2_vision_model": _siglip2,
    "clip": _clip,
    "clip_vision_model": _clip,
    "dinov3_vit": _dinov3,
    "vjepa2": _vjepa2,
}
