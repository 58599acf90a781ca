"""Tubes, patches and their positions, and what the encoders do where pictures or sound are missing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from longtake.operators.model.config import AudioConfig, ModelConfig, TransformerConfig, Tube, VideoConfig
from longtake.operators.model.encoders.own import (
    AudioEncoder,
    TubeEmbedding,
    VideoEncoder,
    centre_positions,
    fill_index,
    position_embedding,
)

Configs = Callable[..., ModelConfig]
NO_LAYERS = TransformerConfig(depth=0, heads=1)
# TubeViT (arXiv 2212.03229): kernel, stride, offset on a clip of 32 x 224 x 224, and how many tokens each gives.
TUBEVIT_CLIP = (32, 224, 224)
TUBEVIT = (
    (Tube(kernel=(8, 8, 8), stride=(16, 32, 32)), 98),
    (Tube(kernel=(16, 4, 4), stride=(6, 32, 32), offset=(4, 8, 8)), 147),
    (Tube(kernel=(4, 12, 12), stride=(16, 32, 32), offset=(0, 16, 16)), 98),
    (Tube(kernel=(1, 16, 16), stride=(32, 16, 16)), 196),
)


def conv3d(embedding: TubeEmbedding, pixels_SFHWC: Tensor) -> Tensor:
    """The same tubes by torch's 3D convolution with the same weights, without positions; [S, N, D]."""
    tube = embedding.tube
    t, y, x = tube.offset
    clip = pixels_SFHWC[:, t:, y:, x:].permute(0, 4, 1, 2, 3)
    weight = embedding.dense.weight.reshape(-1, *tube.kernel, 3).permute(0, 4, 1, 2, 3)
    out = F.conv3d(clip.double(), weight.double(), embedding.dense.bias.double(), stride=tube.stride)
    return out.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(("tube", "count"), TUBEVIT)
def test_the_published_tubes_give_the_published_counts(tube: Tube, count: int) -> None:
    assert math.prod(tube.grid(TUBEVIT_CLIP)) == count
    embedding = TubeEmbedding(tube, TUBEVIT_CLIP, 12)
    pixels = torch.rand(1, *TUBEVIT_CLIP, 3)
    with torch.no_grad():
        out = embedding(pixels) - embedding.get_buffer("position_ND")
        assert out.shape == (1, count, 12)
        torch.testing.assert_close(out.double(), conv3d(embedding, pixels), rtol=0, atol=2e-5)
    assert sum(count for _, count in TUBEVIT) == 539


sizes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=60)
@given(sizes, sizes, st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)), st.integers(0, 2**31))
def test_tubes_equal_a_3d_convolution(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], offset: tuple[int, int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    clip = (5, 9, 11)
    tube = Tube(kernel=kernel, stride=stride, offset=offset)
    embedding = TubeEmbedding(tube, clip, 7)
    pixels = torch.randn(2, *clip, 3)
    with torch.no_grad():
        out = embedding(pixels) - embedding.get_buffer("position_ND")
        wanted = conv3d(embedding, pixels)
    assert out.shape[1] == math.prod(tube.grid(clip)) == len(centre_positions(tube, clip))
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=1e-5)
    # Every tube lies in the clip.
    half = torch.tensor(kernel) / 2
    centres = centre_positions(tube, clip)
    assert (centres - half >= 0).all()
    assert (centres + half <= torch.tensor(clip)).all()


def test_a_tube_that_yields_no_token_is_refused() -> None:
    # The 16-frame tube of TubeViT on a snippet of 16 frames: its offset of 4 leaves it no room.
    tube = Tube(kernel=(16, 4, 4), stride=(6, 32, 32), offset=(4, 8, 8))
    with pytest.raises(ValueError, match=r"yields no token on a clip of \(16, 224, 224\)"):
        VideoConfig(frames=16, height=224, width=224, tubes=(TUBEVIT[3][0], tube), encoder=NO_LAYERS)
    with pytest.raises(ValueError, match="at least one tube"):
        VideoConfig(frames=16, height=224, width=224, tubes=(), encoder=NO_LAYERS)
    with pytest.raises(ValueError, match="stride must be at least 1"):
        Tube(kernel=(1, 8, 8), stride=(0, 8, 8))


def test_positions_are_the_centres_in_input_coordinates() -> None:
    tube = Tube(kernel=(4, 12, 12), stride=(16, 32, 32), offset=(0, 16, 16))
    centres = centre_positions(tube, TUBEVIT_CLIP)
    assert centres.shape == (98, 3)
    assert centres[0].tolist() == [2.0, 22.0, 22.0]
    assert centres[1].tolist() == [2.0, 22.0, 54.0]
    assert centres[7].tolist() == [2.0, 54.0, 22.0]
    assert centres[49].tolist() == [18.0, 22.0, 22.0]
    # Tubes of different kernels that are centred on the same point are at the same position.
    small = Tube(kernel=(2, 4, 4), stride=(16, 32, 32), offset=(1, 20, 20))
    assert torch.equal(centre_positions(small, TUBEVIT_CLIP)[0], centres[0])


def test_the_position_embedding_is_sin_and_cos_of_t_x_y_in_groups_of_six() -> None:
    t, y, x = 2.0, 22.0, 54.0
    embedding = position_embedding(torch.tensor([[t, y, x]]), 20)[0]
    groups = 3
    for group in range(groups):
        rate = 10_000.0 ** (-group / groups)
        wanted = [f(value * rate) for value in (t, x, y) for f in (math.sin, math.cos)]
        torch.testing.assert_close(embedding[6 * group : 6 * group + 6], torch.tensor(wanted), rtol=0, atol=1e-5)
    assert embedding[18:].tolist() == [0.0, 0.0]


def test_positions_survive_a_move_to_bfloat16_and_are_not_stored(small_config: Configs) -> None:
    encoder = VideoEncoder(small_config().video, 24)
    assert not any("position" in name for name in encoder.state_dict())
    frames = torch.zeros(1, 4, 32, 32, 3, dtype=torch.uint8)
    mask = torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        exact, _ = encoder(frames, mask)
        rounded, _ = encoder.to(torch.bfloat16)(frames, mask)
    assert rounded.dtype == torch.bfloat16
    assert F.cosine_similarity(exact.flatten(), rounded.float().flatten(), dim=0) > 0.999


def test_missing_pictures_show_the_last_one_before_them() -> None:
    mask = torch.tensor([[True, False, False, True, False], [False, False, True, False, True], [False] * 5])
    shown = fill_index(mask)
    assert shown is not None and shown.dtype == torch.int32
    assert shown.tolist() == [[0, 0, 0, 3, 3], [2, 2, 2, 2, 4], [0] * 5]
    assert fill_index(torch.ones(2, 5, dtype=torch.bool)) is None, "nothing is to be copied"


def test_what_missing_pictures_hold_does_not_matter(small_config: Configs) -> None:
    torch.manual_seed(0)
    encoder = VideoEncoder(small_config().video, 24).eval()
    frames = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    mask = torch.tensor([[True, True, False, False], [False, True, False, True]])
    other = torch.where(mask[:, :, None, None, None], frames, torch.randint_like(frames, 256))
    with torch.no_grad():
        (a, mask_a), (b, mask_b) = encoder(frames, mask), encoder(other, mask)
    assert torch.equal(a, b)
    assert torch.equal(mask_a, mask_b)
    # One tube over all four frames, on 2 x 2 places; patches on frames 0 and 2, on 4 x 4 places.
    assert mask_a.shape == (2, 4 + 32)
    assert mask_a[:, :4].all()
    assert mask_a[0, 4:20].all()
    assert not mask_a[0, 20:].any()
    assert not mask_a[1, 4:].any()


def test_what_the_spectrogram_holds_without_sound_does_not_matter() -> None:
    torch.manual_seed(0)
    config = AudioConfig(frames=16, mels=16, patch=(4, 8), encoder=TransformerConfig(depth=1, heads=3))
    encoder = AudioEncoder(config, 24).eval()
    mel = torch.randn(2, 16, 16)
    mask = torch.stack([torch.arange(16) < 6, torch.zeros(16, dtype=torch.bool)])
    other = torch.where(mask[..., None], mel, torch.randn_like(mel) * 9)
    with torch.no_grad():
        (a, mask_a), (b, _) = encoder(mel, mask), encoder(other, mask)
        (c, _) = encoder(mel, torch.ones_like(mask))
    assert a.shape == (2, 8, 24)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    # Six frames reach into the second patch in time, of two bands each.
    assert mask_a.tolist() == [[True] * 4 + [False] * 4, [False] * 8]
    assert a.isfinite().all()


def test_sound_patches_keep_their_place() -> None:
    config = AudioConfig(frames=8, mels=6, patch=(4, 3), encoder=NO_LAYERS)
    encoder = AudioEncoder(config, 12)
    mel = torch.randn(1, 8, 6)
    with torch.no_grad():
        out, _ = encoder(mel, torch.ones(1, 8, dtype=torch.bool))
        patch = mel[0, 4:8, 0:3].flatten()
        # Token 2 is the second time, the first band; centre 6 frames in time, 1.5 mels in frequency.
        position = position_embedding(torch.tensor([[6.0, 1.5, 0.0]]), 12)[0]
        wanted = encoder.transformer.norm(encoder.dense(patch) + position)
    torch.testing.assert_close(out[0, 2], wanted, rtol=0, atol=1e-5)


def test_inputs_of_another_shape_are_refused(small_config: Configs) -> None:
    config = small_config()
    video, audio = VideoEncoder(config.video, 24), AudioEncoder(config.audio, 24)
    with pytest.raises(ValueError, match=r"wanted uint8 \[S, \(4, 32, 32\), 3\]"):
        video(torch.zeros(1, 4, 32, 32, 3), torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="wanted uint8"):
        video(torch.zeros(1, 5, 32, 32, 3, dtype=torch.uint8), torch.ones(1, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"wanted \[S, 16, 16\]"):
        audio(torch.zeros(1, 16, 8), torch.ones(1, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match="does not divide into patches"):
        AudioConfig(frames=16, mels=16, patch=(5, 8), encoder=NO_LAYERS)
