"""Tiny encoders of the real classes, with random weights, saved as complete directories: nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from longtake.operators.model.config import (
    AudioConfig,
    CombinerConfig,
    LatentConfig,
    ModelConfig,
    PretrainedConfig,
    TextConfig,
    TransformerConfig,
    Tube,
    VideoConfig,
)

try:
    import transformers
except ImportError:  # an extra: without it the tests that need a model are skipped
    transformers = None

# Sides of patches and pictures are odd numbers of pixels on purpose where the class allows it.
SMALL = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT = SMALL | {"vocab_size": 40, "num_hidden_layers": 1, "max_position_embeddings": 16, "projection_dim": 24}
HALF = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2], "rescale_factor": 1 / 255}


def siglip() -> tuple[Any, dict[str, Any]]:
    vision = SMALL | {"patch_size": 7, "image_size": 35}
    config = transformers.SiglipConfig(text_config=TEXT | {"projection_size": 24}, vision_config=vision)
    prepared = HALF | {"image_processor_type": "SiglipImageProcessor", "resample": 2}
    return transformers.SiglipModel(config), prepared | {"size": {"height": 35, "width": 35}}


def siglip2() -> tuple[Any, dict[str, Any]]:
    vision = SMALL | {"patch_size": 8, "num_patches": 16}
    config = transformers.Siglip2Config(text_config=TEXT | {"projection_size": 24}, vision_config=vision)
    prepared = HALF | {"image_processor_type": "Siglip2ImageProcessor", "resample": 2}
    return transformers.Siglip2Model(config), prepared | {"patch_size": 8, "max_num_patches": 30}


def clip() -> tuple[Any, dict[str, Any]]:
    vision = SMALL | {"patch_size": 8, "image_size": 32}
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=24)
    prepared = HALF | {"image_processor_type": "CLIPImageProcessor", "resample": 3, "do_center_crop": True}
    return transformers.CLIPModel(config), prepared | {"size": {"shortest_edge": 36}, "crop_size": 32}


def dinov3() -> tuple[Any, dict[str, Any]]:
    config = transformers.DINOv3ViTConfig(**SMALL, patch_size=8, image_size=40, num_register_tokens=4)
    prepared = HALF | {"image_processor_type": "DINOv3ViTImageProcessorFast", "resample": 2}
    return transformers.DINOv3ViTModel(config), prepared | {"size": {"height": 40, "width": 48}}


def vjepa2() -> tuple[Any, dict[str, Any]]:
    config = transformers.VJEPA2Config(
        **{k: v for k, v in SMALL.items() if k != "intermediate_size"}, patch_size=8, crop_size=32, frames_per_clip=8,
        tubelet_size=2, mlp_ratio=2, pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
        pred_num_mask_tokens=2, num_pooler_layers=1,
    )  # fmt: skip
    prepared = HALF | {"video_processor_type": "VJEPA2VideoProcessor", "resample": 2, "do_center_crop": True}
    return transformers.VJEPA2Model(config), prepared | {"size": {"shortest_edge": 99}, "crop_size": 32}


def whisper() -> tuple[Any, dict[str, Any]]:
    config = transformers.WhisperConfig(
        num_mel_bins=16, d_model=24, encoder_layers=3, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=40, max_source_positions=100,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config), {
        "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 16, "chunk_length": 2, "n_fft": 400,
        "hop_length": 160, "sampling_rate": 16_000,
    }  # fmt: skip


def clap(*, fusion: bool = True) -> tuple[Any, dict[str, Any]]:
    audio = {
        "num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4], "patch_embeds_hidden_size": 8,
        "depths": [1, 2, 1], "num_attention_heads": [2, 2, 2], "window_size": 4, "hidden_size": 32, "num_classes": 5,
        "enable_fusion": fusion, "fusion_type": None, "aff_block_r": 2, "projection_dim": 24,
    }  # fmt: skip
    config = transformers.ClapConfig(text_config=TEXT | {"pad_token_id": 1}, audio_config=audio, projection_dim=24)
    return transformers.ClapModel(config), {
        "feature_extractor_type": "ClapFeatureExtractor", "feature_size": 16, "max_length_s": 2, "hop_length": 480,
        "sampling_rate": 48_000, "fft_window_size": 1024, "frequency_min": 50, "frequency_max": 14_000,
        "truncation": "fusion" if fusion else "rand_trunc", "padding": "repeatpad",
    }  # fmt: skip


def ast() -> tuple[Any, dict[str, Any]]:
    config = transformers.ASTConfig(
        **SMALL, patch_size=16, num_mel_bins=32, max_length=204, frequency_stride=10, time_stride=10
    )
    return transformers.ASTForAudioClassification(config), {
        "feature_extractor_type": "ASTFeatureExtractor", "num_mel_bins": 32, "max_length": 204, "mean": -4.27,
        "std": 4.57, "do_normalize": True, "sampling_rate": 16_000,
    }  # fmt: skip


MAKERS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "siglip": siglip,
    "siglip2": siglip2,
    "clip": clip,
    "dinov3": dinov3,
    "vjepa2": vjepa2,
    "whisper": whisper,
    "clap": clap,
    "clap_unfused": lambda: clap(fusion=False),
    "ast": ast,
}


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes an encoder's complete directory once; tests that change it copy it."""
    if transformers is None:
        pytest.skip("transformers is not installed")
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            path = tmp_path_factory.mktemp("pretrained") / name
            with torch.random.fork_rng():
                torch.manual_seed(11)
                model, prepared = MAKERS[name]()
                with torch.no_grad():
                    for parameter in model.parameters():
                        # Random everywhere: what is initialised to zeros or ones would hide mistakes.
                        parameter.add_(torch.randn_like(parameter) * 0.05)
                    for key, buffer in model.named_buffers():
                        if key.endswith("running_mean"):
                            buffer.copy_(torch.randn_like(buffer))
            model.save_pretrained(path)
            (path / "preprocessor_config.json").write_text(json.dumps(prepared))
            made[name] = path
        return made[name]

    return make


@pytest.fixture(scope="session")
def uncut(directory: Callable[[str], Path]) -> Callable[[str], Any]:
    """Loads the class's own model of a directory, once."""
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            architecture = json.loads((directory(name) / "config.json").read_text())["architectures"][0]
            made[name] = getattr(transformers, architecture).from_pretrained(directory(name)).eval()
        return made[name]

    return get


@pytest.fixture(scope="session")
def tower_config(directory: Callable[[str], Path]) -> Callable[..., ModelConfig]:
    """Builds a small model's config on public encoders, by their names above; None leaves the model its own encoder."""

    def build(video: str | None = "siglip", audio: str | None = "whisper", **changes: Any) -> ModelConfig:
        layer = TransformerConfig(depth=1, heads=2, mlp_ratio=2.0)
        pictures: dict[str, Any] = {"frames": 4, "height": 24, "width": 32}
        if video is None:
            tube = Tube(kernel=(1, 8, 8), stride=(1, 8, 8))
            made_video = VideoConfig(**pictures, tubes=(tube,), encoder=layer)
        else:
            made_video = VideoConfig(**pictures, pretrained=PretrainedConfig(source=str(directory(video))))
        if audio is None:
            made_audio = AudioConfig(frames=16, mels=16, patch=(4, 8), encoder=layer)
        else:
            made_audio = AudioConfig(frames=16_000, pretrained=PretrainedConfig(source=str(directory(audio))))
        combiner: dict[str, Any] = {"name": "transformer", "tokens": 4, "transformer": layer}
        return ModelConfig(
            name="on towers",
            width=24,
            video=made_video,
            audio=made_audio,
            combiner=CombinerConfig(**(combiner | changes)),
            latent=LatentConfig(transformer=layer, reconstruct_video=8, reconstruct_audio=4),
            text=TextConfig(vocabulary=80, context=64, transformer=layer, kv_heads=1),
        )

    return build
