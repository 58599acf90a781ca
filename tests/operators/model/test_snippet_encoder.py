"""The whole way in lanes, one snippet at a time, against one pass over the whole video: the same tokens and latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.operators.model.config import ModelConfig
from longtake.operators.model.latent import LatentCache
from longtake.operators.model.model import LongTakeModel
from longtake.operators.model.snippet_encoder import SnippetEncoder

Configs = Callable[..., ModelConfig]
SNIPPETS = 6
KINDS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "transformer, all so far": {"scope": "all_so_far"},
    "ttm": {"name": "ttm", "position_embedding": True, "timestamp": True},
    "average_pool": {"name": "average_pool"},
    "attention_pool": {"name": "attention_pool"},
    "c_abstractor": {"name": "c_abstractor"},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@dataclass(frozen=True, kw_only=True)
class Video:
    """What a video's snippets are to the encoder; first axis T."""

    frames: Tensor
    frame_mask: Tensor
    mel: Tensor
    mel_mask: Tensor
    start_s: Tensor

    @staticmethod
    def random(seed: int) -> Video:
        """Noise, with a short last snippet and one without sound."""
        random = torch.Generator().manual_seed(seed)
        video = Video(
            frames=torch.randint(0, 256, (SNIPPETS, 4, 32, 32, 3), dtype=torch.uint8, generator=random),
            frame_mask=torch.ones(SNIPPETS, 4, dtype=torch.bool),
            mel=torch.randn(SNIPPETS, 16, 16, generator=random),
            mel_mask=torch.ones(SNIPPETS, 16, dtype=torch.bool),
            start_s=torch.arange(SNIPPETS) * 0.5,
        )
        video.frame_mask[-1, 2:] = False
        video.mel_mask[2] = False
        return video


def encode(encoder: SnippetEncoder, lanes: list[Video | None]) -> list[Tensor]:
    """Each video's tokens [T, m, D], encoded side by side; None is an idle lane."""
    memory = torch.stack([encoder.initial_memory()] * len(lanes))
    idle = Video(
        frames=torch.zeros(SNIPPETS, 4, 32, 32, 3, dtype=torch.uint8),
        frame_mask=torch.zeros(SNIPPETS, 4, dtype=torch.bool),
        mel=torch.zeros(SNIPPETS, 16, 16),
        mel_mask=torch.zeros(SNIPPETS, 16, dtype=torch.bool),
        start_s=torch.zeros(SNIPPETS),
    )
    videos = [video or idle for video in lanes]
    steps = []
    for t in range(SNIPPETS):
        fields = ("frames", "frame_mask", "mel", "mel_mask", "start_s")
        batch = [torch.stack([getattr(video, name)[t] for video in videos]) for name in fields]
        tokens, memory = encoder.step(*batch, memory)
        assert tokens.dtype == memory.dtype == torch.float32
        steps.append(tokens)
    return list(torch.stack(steps, dim=1))


@every_kind
def test_lanes_one_snippet_at_a_time_equal_one_pass(kind: str, small_config: Configs) -> None:
    torch.manual_seed(0)
    model = LongTakeModel(small_config(**KINDS[kind])).eval()
    videos = [Video.random(1), Video.random(2)]
    with torch.no_grad():
        features = model.features(
            *(
                torch.cat([getattr(video, name) for video in videos])
                for name in ("frames", "frame_mask", "mel", "mel_mask")
            )
        )
        start_s = torch.stack([video.start_s for video in videos])
        tokens, _ = model.combiner.sequence(features, model.combiner.initial_memory(2), start_s)
        latents = model.latent_model(tokens)

        streamed = torch.stack(encode(SnippetEncoder(model, lanes=2), list(videos)))
        cache = LatentCache()
        stepped = torch.cat([model.latent_model(streamed[:, t : t + 1], cache) for t in range(SNIPPETS)], dim=1)
    differences = float((tokens - streamed).abs().max()), float((latents - stepped).abs().max())
    print(f"{kind}: streaming against whole, tokens {differences[0]:.1e}, latents {differences[1]:.1e}")
    assert max(differences) <= 1e-5


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: several cut a batch in places that differ from lane to lane."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@every_kind
@pytest.mark.usefixtures("one_thread")
def test_what_shares_the_batch_changes_no_bit(kind: str, small_config: Configs) -> None:
    torch.manual_seed(0)
    # A width of whole CPU vectors, as all presets have: beyond them the last numbers of a tensor, which are the last
    # lane's, are computed by other instructions.
    encoder = SnippetEncoder(LongTakeModel(small_config(width=96, **KINDS[kind])), lanes=3)
    video = Video.random(1)
    alone = encode(encoder, [video, None, None])[0]
    beside = encode(encoder, [video, Video.random(2), None])[0]
    in_the_last_lane = encode(encoder, [Video.random(3), Video.random(2), video])[2]
    assert torch.equal(alone, beside)
    assert torch.equal(alone, in_the_last_lane)


def test_another_number_of_rows_than_lanes_is_refused(small_config: Configs) -> None:
    encoder = SnippetEncoder(LongTakeModel(small_config()), lanes=2)
    with pytest.raises(ValueError, match="3 rows for an encoder of 2 lanes"):
        encode(encoder, [Video.random(1)] * 3)
    with pytest.raises(ValueError, match="at least 1 lane"):
        SnippetEncoder(LongTakeModel(small_config()), lanes=0)


@every_kind
def test_in_bfloat16_tokens_stay_close_and_memory_float32(kind: str, small_config: Configs) -> None:
    torch.manual_seed(0)
    model = LongTakeModel(small_config(**KINDS[kind]))
    exact = encode(SnippetEncoder(model, lanes=1), [Video.random(1)])[0]
    rounded = encode(SnippetEncoder(model, lanes=1, dtype=torch.bfloat16), [Video.random(1)])[0]
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0) > 0.999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@every_kind
def test_on_a_gpu_bfloat16_lanes_stay_close_to_float32_on_the_cpu(kind: str, small_config: Configs) -> None:
    torch.manual_seed(0)
    model = LongTakeModel(small_config(**KINDS[kind]))
    videos = [Video.random(seed) for seed in range(8)]
    exact = encode(SnippetEncoder(model, lanes=8), list(videos))
    rounded = encode(SnippetEncoder(model, lanes=8, device="cuda", dtype=torch.bfloat16), list(videos))
    again = encode(SnippetEncoder(model, lanes=8, device="cuda", dtype=torch.bfloat16), list(videos))
    for left, right, repeated in zip(exact, rounded, again, strict=True):
        cosine = torch.nn.functional.cosine_similarity(left, right, dim=-1)
        assert float(cosine.min()) >= 0.99
        cosine = torch.nn.functional.cosine_similarity(right, repeated, dim=-1)
        assert float(cosine.min()) >= 0.999
