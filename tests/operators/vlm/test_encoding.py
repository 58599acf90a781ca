"""Snippets to tokens: the same as of the whole video, prepared as the model's own processor prepares pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longtake.errors import CheckpointError
from longtake.operators.hub.picture_preparation import Preparation, fit, resize
from longtake.operators.vlm import VLM, Clip

FAMILIES = ["qwen3_5", "llava_onevision", "qwen2_5_omni", "qwen2_5_vl"]


@pytest.mark.parametrize("family", FAMILIES)
def test_snippet_by_snippet_equals_the_whole_video(scene: Callable[..., Any], family: str) -> None:
    made = scene(family)
    whole = made.vlm.encode_snippet(Clip(frames_FHWC=made.frames_FHWC, times_s=tuple(n / 2 for n in range(10))))
    video = made.video()
    assert torch.equal(video.tokens_SD, whole.tokens_ND)
    assert video.step_s == whole.step_s
    assert torch.equal(video.places_S4, whole.places_N4.long())
    assert whole.tokens_ND.std() > 0.01 and whole.tokens_ND.dtype == torch.float32


def test_sound_snippet_by_snippet_equals_the_whole(scene: Callable[..., Any]) -> None:
    made = scene("qwen2_5_omni", sound=True)
    clips = made.clips()
    whole = Clip(
        frames_FHWC=made.frames_FHWC, times_s=tuple(n / 2 for n in range(10)),
        mel_NM=torch.cat([clip.mel_NM for clip in clips]), peak=clips[0].peak,
    )  # fmt: skip
    tokens = made.vlm.encode_snippet(whole)
    parts = made.snippets()
    assert [part.sounds for part in parts] == [50, 50, 25] and tokens.sounds == 125
    heard = torch.cat([part.tokens_ND[-part.sounds :] for part in parts])
    torch.testing.assert_close(heard, tokens.tokens_ND[-125:], rtol=0, atol=5e-6)
    seen = torch.cat([part.tokens_ND[: -part.sounds] for part in parts])
    assert torch.equal(seen, tokens.tokens_ND[:-125])
    # Sound counts on through the video, and its tokens carry their times.
    video = made.video()
    assert video.sounds == 125 and video.places_S4[-1].tolist() == [1, 124, 0, 0]
    assert parts[1].times_s()[-50:].tolist() == pytest.approx([2 + n / 25 for n in range(50)])


@pytest.mark.parametrize("family", FAMILIES)
def test_snippets_of_several_videos_in_one_pass(scene: Callable[..., Any], family: str) -> None:
    one, other = scene(family, seed=1), scene(family, seed=2)
    clips = [one.clips()[0], other.clips()[1]]
    together = one.vlm.encode_snippets(clips)
    for made, clip in zip(together, clips, strict=True):
        alone = one.vlm.encode_snippet(clip)
        torch.testing.assert_close(made.tokens_ND, alone.tokens_ND, rtol=0, atol=1e-5)
        assert made.step_s == alone.step_s


def test_an_odd_last_picture_is_repeated(scene: Callable[..., Any]) -> None:
    made = scene("qwen3_5")
    frames = made.frames_FHWC[:3]
    short = made.vlm.encode_snippet(Clip(frames_FHWC=frames, times_s=(0.0, 0.5, 1.0)))
    padded = made.vlm.encode_snippet(Clip(frames_FHWC=frames[[0, 1, 2, 2]], times_s=(0.0, 0.5, 1.0, 1.5)))
    assert torch.equal(short.tokens_ND, padded.tokens_ND)
    assert short.step_s == (0.25, 1.0) and padded.step_s == (0.25, 1.25)


@pytest.mark.parametrize("shape", [(1, 2, 16, 16), (2, 4, 32, 48), (3, 6, 64, 16)])
def test_patches_are_those_of_the_library(shape: tuple[int, int, int, int]) -> None:
    pytest.importorskip("transformers")
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    clips, frames, height, width = shape
    pixels = torch.randn(clips, frames, 3, height, width)
    prepared = Preparation(mean=(0.0,) * 3, std=(1.0,) * 3, scale=1.0, patch=8, step=2, merge=2)
    patches, grid = prepared.patchify(pixels)
    wanted, *wanted_grid = Qwen3VLVideoProcessor.patchify(object(), pixels, 8, 2, 2)
    assert torch.equal(patches, wanted.flatten(0, 1)) and list(grid) == wanted_grid


def test_pictures_that_are_no_whole_number_of_patches_are_refused() -> None:
    prepared = Preparation(mean=(0.0,) * 3, std=(1.0,) * 3, scale=1.0, patch=8, step=2, merge=2)
    with pytest.raises(ValueError, match=r"3 pictures of 32 x 40.*multiple of 2.*multiples of 16"):
        prepared.patchify(torch.zeros(1, 3, 3, 32, 40))


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([16, 28, 32]), st.integers(1, 1024))
def test_a_fitted_size_is_legal_and_keeps_the_aspect(height: int, width: int, side: int, most: int) -> None:
    rows, columns = (length // side for length in fit(height, width, side=side, most=most))
    assert rows >= 1 and columns >= 1 and rows * columns <= most
    assert fit(height, width, side=side, most=most) == (rows * side, columns * side)
    if min(rows, columns) >= 4:
        assert rows / columns == pytest.approx(height / width, rel=0.3)


def test_a_picture_that_fits_keeps_its_size_and_llava_its_square(load: Callable[[str], VLM]) -> None:
    assert fit(480, 640, side=32, most=1000) == (480, 640)
    assert load("qwen3_5").frame_size(720, 1280, most_tokens=64) == (5 * 16 + 16, 10 * 16)
    assert load("llava_onevision").frame_size(720, 1280) == (40, 40)


def test_resizing_is_the_identity_at_the_same_size_and_keeps_a_flat_picture() -> None:
    frames = torch.randint(0, 256, (2, 12, 20, 3), dtype=torch.uint8)
    assert resize(frames, 12, 20) is frames
    flat = torch.full((2, 3, 12, 20, 3), 77, dtype=torch.uint8)
    small = resize(flat, 7, 5)
    assert small.shape == (2, 3, 7, 5, 3) and small.dtype == torch.uint8 and bool((small == 77).all())


def test_what_cannot_be_encoded_is_refused(scene: Callable[..., Any], load: Callable[[str], VLM]) -> None:
    made = scene("qwen3_5")
    clip = made.clips()[0]
    with pytest.raises(ValueError, match="no clip"):
        made.vlm.encode_snippets([])
    with pytest.raises(ValueError, match="one shape"):
        made.vlm.encode_snippets([clip, made.clips()[2]])
    with pytest.raises(ValueError, match="does not hear"):
        made.vlm.encode_snippet(
            Clip(frames_FHWC=clip.frames_FHWC, times_s=clip.times_s, mel_NM=torch.zeros(200, 16), peak=0.0)
        )
    with pytest.raises(ValueError, match=r"uint8 \[F, H, W, 3\]"):
        Clip(frames_FHWC=clip.frames_FHWC.float(), times_s=clip.times_s)
    with pytest.raises(ValueError, match="4 pictures with 3 times"):
        Clip(frames_FHWC=clip.frames_FHWC, times_s=(0.0, 1.0, 2.0))
    with pytest.raises(ValueError, match="together"):
        Clip(frames_FHWC=clip.frames_FHWC, times_s=clip.times_s, peak=1.0)
    with pytest.raises(ValueError, match="wanted 40 x 40"):
        load("llava_onevision").encode_snippet(clip)
    omni = scene("qwen2_5_omni", sound=True).clips()[0]
    assert omni.mel_NM is not None
    with pytest.raises(ValueError, match="have 8 mels; wanted 16"):
        load("qwen2_5_omni").encode_snippet(
            Clip(frames_FHWC=omni.frames_FHWC, times_s=omni.times_s, mel_NM=omni.mel_NM[:, :8], peak=0.0)
        )


def test_the_preprocessors_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no preprocessor_config\.json"):
        Preparation.read(tmp_path)
    general = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2], "rescale_factor": 0.01, "patch_size": 14}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(general))
    assert Preparation.read(tmp_path, patch=14).mean == (0.5, 0.5, 0.5)
    with pytest.raises(CheckpointError, match="patch_size is 14, the model's 16"):
        Preparation.read(tmp_path, patch=16)
    # The video's own file wins over the general one; what it leaves open comes from there.
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3]}))
    read = Preparation.read(tmp_path)
    assert (read.mean, read.std, read.scale) == ((0.1, 0.2, 0.3), (0.2, 0.2, 0.2), 0.01)
    (tmp_path / "video_preprocessor_config.json").unlink()
    # What transformers 5 saves: one file with a section each.
    (tmp_path / "preprocessor_config.json").unlink()
    sections = {"image_processor": general, "video_processor": {"image_mean": [0.3, 0.3, 0.3]}}
    (tmp_path / "processor_config.json").write_text(json.dumps(sections))
    assert Preparation.read(tmp_path).mean == (0.3, 0.3, 0.3)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_mean": [0.5], "image_std": [0.5]}))
    with pytest.raises(CheckpointError, match="3 numbers each"):
        Preparation.read(tmp_path)
    (tmp_path / "processor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="processor_config"):
        Preparation.read(tmp_path)
