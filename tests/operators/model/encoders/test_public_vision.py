"""Picture encoders against the real processors and the classes' own forward."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

import transformers

from longtake.operators.model.encoders import PictureEncoder, load_picture_encoder

NAMES = ("siglip", "siglip2", "clip", "dinov3", "vjepa2")
PREFIX = {"clip": 1, "dinov3": 5}
# Larger and smaller than what the encoders want, upright and lying.
SIZES = ((57, 90), (90, 57), (20, 30), (33, 33))


def frames_of(height: int, width: int, *, snippets: int = 2, frames: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (snippets, frames, height, width, 3), dtype=torch.uint8, generator=generator)


def processed(path: Path, frames_SFHWC: Tensor) -> dict[str, Tensor]:
    """What the real processor makes of all pictures (V-JEPA 2: of all snippets)."""
    pytest.importorskip("torchvision")
    prepared = json.loads((path / "preprocessor_config.json").read_text())
    channels_first = frames_SFHWC.movedim(-1, -3)
    if "video_processor_type" in prepared:
        made = transformers.VJEPA2VideoProcessor(**prepared)(
            videos=list(channels_first), do_sample_frames=False, return_tensors="pt"
        )
    else:
        name = prepared["image_processor_type"].removesuffix("Fast")
        processor = getattr(transformers, name)(**prepared)
        made = processor(images=list(channels_first.flatten(0, 1)), return_tensors="pt")
    return dict(made)


def states(model: Any, inputs: dict[str, Tensor]) -> Any:
    """All hidden states of the class's own forward."""
    tower = getattr(model, "vision_model", model)
    more = {"skip_predictor": True} if "pixel_values_videos" in inputs else {}
    with torch.no_grad():
        return tower(**inputs, **more, output_hidden_states=True)


def seen(frames_SFHWC: Tensor) -> Tensor:
    return torch.ones(frames_SFHWC.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_prepared_as_by_the_real_processor(
    directory: Callable[[str], Path], name: str, size: tuple[int, int]
) -> None:
    encoder, frames = load_picture_encoder(directory(name)), frames_of(*size)
    real = processed(directory(name), frames)
    own = encoder.tower.preparation(frames.flatten(0, 1))
    assert own.shape[-2:] == encoder.tower.preparation.shape(*size)
    if name == "siglip2":
        (rows, columns), patch = real["spatial_shapes"][0].tolist(), 8
        assert encoder.grid(4, *size) == (4, rows, columns)
        split = own.unflatten(-1, (columns, patch)).unflatten(-3, (rows, patch))
        own = split.permute(0, 2, 4, 3, 5, 1).reshape(len(own), rows * columns, -1)
        wanted = real["pixel_values"][:, : rows * columns]
    else:
        wanted = real["pixel_values_videos" if name == "vjepa2" else "pixel_values"].reshape(own.shape)
    torch.testing.assert_close(own, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layer", [None, 0, 1, -2, -1])
@pytest.mark.parametrize("name", NAMES)
def test_features_are_the_hidden_states_of_the_class(
    directory: Callable[[str], Path], uncut: Callable[[str], Any], name: str, layer: int | None
) -> None:
    frames = frames_of(57, 90)
    encoder = load_picture_encoder(directory(name), layer=layer)
    features, mask = encoder(frames, seen(frames))
    made = states(uncut(name), processed(directory(name), frames))
    wanted = made.last_hidden_state if layer is None else made.hidden_states[layer]
    steps, rows, columns = encoder.grid(4, 57, 90)
    if name != "vjepa2":
        wanted = wanted[:, PREFIX.get(name, 0) :][:, : rows * columns].unflatten(0, (2, 4)).flatten(1, 2)
    assert features.shape == (2, steps * rows * columns, 24)
    assert mask.shape == features.shape[:2] and mask.all()
    # SigLIP 2 is masked where the processor has padded it, ours has no padding at all.
    torch.testing.assert_close(features, wanted, rtol=0, atol=2e-6 if name == "siglip2" else 1e-6)


def test_without_padding_features_of_any_aspect_are_those_of_the_class(
    directory: Callable[[str], Path], uncut: Callable[[str], Any]
) -> None:
    frames = frames_of(57, 90)
    encoder, real = load_picture_encoder(directory("siglip2"), layer=-2), processed(directory("siglip2"), frames)
    count = int(real["pixel_attention_mask"][0].sum())
    cut = real | {name: real[name][:, :count] for name in ("pixel_values", "pixel_attention_mask")}
    wanted = states(uncut("siglip2"), cut).hidden_states[-2].unflatten(0, (2, 4)).flatten(1, 2)
    torch.testing.assert_close(encoder(frames, seen(frames))[0], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_picture_shows_the_one_before_and_is_masked(directory: Callable[[str], Path], name: str) -> None:
    encoder, frames = load_picture_encoder(directory(name), layer=-2), frames_of(40, 40)
    mask = seen(frames)
    mask[0, 2:] = False
    features, token_mask = encoder(frames, mask)
    shown = frames.clone()
    shown[0, 2:] = frames[0, 1]
    assert torch.equal(features, encoder(shown, seen(frames))[0])
    per_step = token_mask.unflatten(1, (encoder.grid(4, 40, 40)[0], -1))
    kept = 1 if name == "vjepa2" else 2
    assert per_step[0, :kept].all() and not per_step[0, kept:].any() and per_step[1].all()


def test_an_odd_number_of_pictures_repeats_the_last_one(directory: Callable[[str], Path]) -> None:
    encoder, frames = load_picture_encoder(directory("vjepa2")), frames_of(40, 40, frames=3)
    features, mask = encoder(frames, seen(frames))
    longer = torch.cat([frames, frames[:, -1:]], dim=1)
    assert encoder.grid(3, 40, 40) == (2, 4, 4) and mask.shape == (2, 32) and mask.all()
    assert torch.equal(features, encoder(longer, seen(longer))[0])


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_projection_learns_and_the_tower_only_where_it_should(
    directory: Callable[[str], Path], name: str, trained: bool
) -> None:
    encoder, frames = load_picture_encoder(directory(name), width=10, layer=-2, trained=trained), frames_of(40, 40)
    encoder.train()
    features, _ = encoder(frames, seen(frames))
    assert features.shape[-1] == encoder.width == 10
    features.sum().backward()
    assert encoder.projection.weight.grad is not None
    assert encoder.tower.training == trained
    assert any(one.grad is not None and one.grad.any() for one in encoder.tower.parameters()) == trained
    assert any(one.requires_grad for one in encoder.tower.parameters()) == trained


def test_stored_features_project_to_the_same(directory: Callable[[str], Path]) -> None:
    encoder, frames = load_picture_encoder(directory("clip"), width=10, dtype="bfloat16"), frames_of(40, 40)
    stored, mask = encoder.features(frames, seen(frames))
    assert stored.dtype == torch.bfloat16 and not stored.requires_grad
    again, again_mask = encoder(frames, seen(frames))
    assert again.dtype == torch.float32
    assert torch.equal(encoder.project(stored), again) and torch.equal(mask, again_mask)


def test_layers_behind_the_wanted_one_are_not_kept(directory: Callable[[str], Path]) -> None:
    def weights(encoder: PictureEncoder) -> int:
        return sum(one.numel() for one in encoder.tower.parameters())

    one, all_three = (load_picture_encoder(directory("dinov3"), layer=layer) for layer in (1, 3))
    assert len(one.tower.model.model.layer) == 1 and len(all_three.tower.model.model.layer) == 3
    assert weights(one) < weights(all_three)


@pytest.mark.parametrize(
    ("frames", "mask", "message"),
    [
        (torch.zeros(1, 2, 8, 8, 3), torch.ones(1, 2, dtype=torch.bool), "wanted uint8"),
        (torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), torch.ones(1, 2, dtype=torch.bool), "wanted uint8"),
        (torch.zeros(1, 2, 8, 8, 3, dtype=torch.uint8), torch.ones(1, 3, dtype=torch.bool), r"wanted bool \(1, 2\)"),
        (torch.zeros(1, 2, 8, 8, 3, dtype=torch.uint8), torch.ones(1, 2), r"wanted bool \(1, 2\)"),
    ],
)
def test_wrong_input_is_refused(directory: Callable[[str], Path], frames: Tensor, mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_picture_encoder(directory("clip"))(frames, mask)
