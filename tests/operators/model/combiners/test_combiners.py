"""What every combiner owes: shapes, masks, gradients, and streaming that equals the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from longtake.operators.model import combiners
from longtake.operators.model.combiners import Combiner, Features
from longtake.operators.model.config import ModelConfig, TransformerConfig, Tube

Configs = Callable[..., ModelConfig]
Maker = Callable[..., Features]

KINDS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "transformer, all so far": {"scope": "all_so_far"},
    "ttm": {"name": "ttm"},
    "ttm, all options": {"name": "ttm", "position_embedding": True, "timestamp": True},
    "average_pool": {"name": "average_pool"},
    "attention_pool": {"name": "attention_pool"},
    "c_abstractor": {"name": "c_abstractor"},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, small_config: Configs) -> Combiner:
    torch.manual_seed(0)
    return combiners.build(small_config(**KINDS[kind])).eval()


def starts(lanes: int, snippets: int) -> Tensor:
    return torch.arange(snippets).float().expand(lanes, -1) * 2.5 + torch.arange(lanes)[:, None]


@every_kind
def test_one_snippet_a_lane_becomes_m_tokens(kind: str, small_config: Configs, random_features: Maker) -> None:
    combiner = made(kind, small_config)
    memory = combiner.initial_memory(3)
    tokens, after = combiner(random_features(combiner.config, 3), memory, torch.zeros(3))
    assert tokens.shape == (3, 8, 24)
    assert after.shape == memory.shape
    assert after.dtype == memory.dtype == torch.float32
    rows = {"transformer, all so far": 1 + 3 * 8, "ttm": 6, "ttm, all options": 6}
    assert memory.shape[1] == rows.get(kind, 0)
    # Every token says something of its own.
    assert torch.pdist(tokens[0]).min() > 1e-3


@every_kind
def test_without_sound_the_sound_features_do_not_matter(
    kind: str, small_config: Configs, random_features: Maker
) -> None:
    combiner = made(kind, small_config)
    loud = random_features(combiner.config, 2)
    silent = replace(loud, audio_mask_BN=torch.zeros_like(loud.audio_mask_BN))
    other = replace(silent, audio_BND=torch.randn_like(loud.audio_BND) * 5)
    half = replace(loud, audio_mask_BN=torch.arange(loud.audio_BND.shape[1]).expand(2, -1) < 4)
    changed = torch.where(half.audio_mask_BN[..., None], half.audio_BND, torch.randn_like(half.audio_BND) * 5)
    results = [
        combiner(features, combiner.initial_memory(2), torch.zeros(2))
        for features in (loud, silent, other, half, replace(half, audio_BND=changed))
    ]
    tokens = [result[0] for result in results]
    torch.testing.assert_close(tokens[1], tokens[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(results[1][1], results[2][1], rtol=0, atol=1e-6)
    torch.testing.assert_close(tokens[3], tokens[4], rtol=0, atol=1e-6)
    # With sound it does matter.
    assert (tokens[0] - tokens[1]).abs().max() > 1e-3
    assert (tokens[0] - tokens[3]).abs().max() > 1e-3


@every_kind
def test_missing_pictures_do_not_matter(kind: str, small_config: Configs, random_features: Maker) -> None:
    combiner = made(kind, small_config)
    whole = random_features(combiner.config, 2)
    # The second half of every tube's tokens is missing.
    count = whole.video_BND.shape[1]
    cut = replace(whole, video_mask_BN=(torch.arange(count) % 2 == 0).expand(2, -1))
    other = replace(
        cut, video_BND=torch.where(cut.video_mask_BN[..., None], cut.video_BND, torch.randn_like(cut.video_BND) * 5)
    )
    memory = combiner.initial_memory(2)
    tokens, again = (combiner(features, memory, torch.zeros(2))[0] for features in (cut, other))
    torch.testing.assert_close(tokens, again, rtol=0, atol=1e-6)


@every_kind
def test_an_idle_lane_stays_finite_and_touches_no_other(
    kind: str, small_config: Configs, random_features: Maker
) -> None:
    combiner = made(kind, small_config)
    features = random_features(combiner.config, 2)
    busy = torch.tensor([True, False])[:, None]
    idle = replace(features, video_mask_BN=features.video_mask_BN & busy, audio_mask_BN=features.audio_mask_BN & busy)
    memory = combiner.initial_memory(2)
    tokens, after = combiner(idle, memory, torch.zeros(2))
    beside, memory_beside = combiner(features, memory, torch.zeros(2))
    assert tokens.isfinite().all()
    assert after.isfinite().all()
    assert torch.equal(tokens[0], beside[0])
    assert torch.equal(after[0], memory_beside[0])


@every_kind
def test_gradients_reach_every_parameter(kind: str, small_config: Configs, random_features: Maker) -> None:
    combiner = made(kind, small_config).train()
    lanes, snippets = 2, 3
    features = random_features(combiner.config, lanes * snippets)
    # The last snippet of each lane has no sound, so that what stands for silence is used too.
    silent = (torch.arange(lanes * snippets) % snippets == snippets - 1)[:, None]
    features = replace(features, audio_mask_BN=features.audio_mask_BN & ~silent)
    inputs = [features.video_BND.requires_grad_(), features.audio_BND.requires_grad_()]
    tokens, _ = combiner.sequence(features, combiner.initial_memory(lanes), starts(lanes, snippets))
    (tokens * torch.randn_like(tokens)).sum().backward()
    for name, parameter in combiner.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(x.grad is not None and x.grad.isfinite().all() and x.grad.abs().max() > 0 for x in inputs)


@every_kind
def test_streaming_equals_the_whole(kind: str, small_config: Configs, random_features: Maker) -> None:
    combiner = made(kind, small_config)
    lanes, snippets = 2, 7  # more snippets than the all-so-far scope remembers
    features = random_features(combiner.config, lanes * snippets)
    features = replace(features, audio_mask_BN=torch.rand(features.audio_mask_BN.shape) < 0.7)
    start_s = starts(lanes, snippets)
    with torch.no_grad():
        first = combiner.initial_memory(lanes)
        whole, memory_whole = combiner.sequence(features, first, start_s)
        memory, steps = first, []
        for index in range(snippets):
            # As a resumed job has it: the memory went through bytes.
            stored = np.frombuffer(memory.numpy().tobytes(), dtype=np.float32).reshape(first.shape)
            tokens, memory = combiner(features.at(index, lanes), torch.from_numpy(stored.copy()), start_s[:, index])
            steps.append(tokens)
        streamed = torch.stack(steps, dim=1)
    worst = float((whole - streamed).abs().max())
    print(f"{kind}: largest difference between streaming and whole {worst:.1e}")
    assert whole.shape == (lanes, snippets, 8, 24)
    assert worst <= 1e-5
    torch.testing.assert_close(memory, memory_whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["transformer, all so far", "ttm"])
def test_the_memory_brings_earlier_snippets_into_later_tokens(
    kind: str, small_config: Configs, random_features: Maker
) -> None:
    combiner = made(kind, small_config)
    features = random_features(combiner.config, 4)
    changed = replace(features, video_BND=features.video_BND.clone())
    changed.video_BND[0] = torch.randn_like(changed.video_BND[0])
    with torch.no_grad():
        (a, _), (b, _) = (combiner.sequence(x, combiner.initial_memory(1), starts(1, 4)) for x in (features, changed))
        # And never the other way round.
        future = replace(features, video_BND=features.video_BND.clone())
        future.video_BND[2] = torch.randn_like(future.video_BND[2])
        c, _ = combiner.sequence(future, combiner.initial_memory(1), starts(1, 4))
    assert all((a[:, t] - b[:, t]).abs().max() > 1e-5 for t in range(4))
    assert torch.equal(a[:, :2], c[:, :2])


def test_the_scope_forgets_what_is_older_than_its_history(small_config: Configs, random_features: Maker) -> None:
    # One layer reads the history's combined tokens; each of those has itself read the three before it.
    combiner = made("transformer, all so far", small_config)
    features = random_features(combiner.config, 1)
    with torch.no_grad():
        memory = torch.randn(1, 1 + 3 * 8, 24)
        memory[:, 0] = 2.0  # two snippets seen: the oldest of three places is still empty
        other = memory.clone()
        other[:, 1 : 1 + 8] = 7.0
        a, after = combiner(features, memory, torch.zeros(1))
        b, _ = combiner(features, other, torch.zeros(1))
        other[:, -1] = 7.0
        c, _ = combiner(features, other, torch.zeros(1))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert (a - c).abs().max() > 1e-4
    assert torch.equal(after[:, 1:-8], memory[:, 9:])
    assert torch.equal(after[:, -8:], a)
    assert float(after[0, 0, 0]) == 3.0


def test_the_timestamp_changes_tokens_only_where_it_is_asked_for(small_config: Configs, random_features: Maker) -> None:
    for kind, differs in (("ttm", False), ("ttm, all options", True)):
        combiner = made(kind, small_config)
        features, memory = random_features(combiner.config, 1), combiner.initial_memory(1)
        with torch.no_grad():
            (a, memory_a), (b, memory_b) = (
                combiner(features, memory, torch.tensor([start])) for start in (0.0, 3600.0)
            )
        assert ((a - b).abs().max() > 1e-3) == differs
        assert ((memory_a - memory_b).abs().max() > 1e-3) == differs


def test_the_ttm_starts_from_a_learned_memory_of_unit_spread(small_config: Configs) -> None:
    torch.manual_seed(0)
    combiner = combiners.build(small_config(name="ttm", memory_tokens=96))
    memory = combiner.initial_memory(2)
    assert memory.requires_grad
    assert 0.95 < float(memory.detach().std()) < 1.05
    assert torch.equal(memory[0], memory[1])


def test_average_pooling_is_the_mean_of_its_cells(small_config: Configs, random_features: Maker) -> None:
    combiner = made("average_pool", small_config)
    features = random_features(combiner.config, 1)
    tokens, _ = combiner(features, combiner.initial_memory(1), torch.zeros(1))
    # 2 frames of 4 x 4 patches, which come last, and 4 x 2 sound patches, into 2 x 2 x 2 cells.
    patches = features.video_BND[0, -32:].reshape(2, 4, 4, 24)
    sound = features.audio_BND[0].reshape(4, 2, 24)
    wanted = [
        torch.cat(
            [patches[t, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((0, 1)), sound[2 * t : 2 * t + 2].mean((0, 1))]
        )
        for t in range(2)
        for y in range(2)
        for x in range(2)
    ]
    torch.testing.assert_close(tokens[0], combiner.get_submodule("dense")(torch.stack(wanted)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["average_pool", "c_abstractor"])
def test_a_combiner_on_a_grid_takes_no_other_tubes(name: str, small_config: Configs, random_features: Maker) -> None:
    combiner = combiners.build(small_config(name=name)).eval()
    features = random_features(combiner.config, 1)
    other = replace(features, video_BND=features.video_BND.clone())
    other.video_BND[:, :-32] = torch.randn_like(other.video_BND[:, :-32])
    a, b = (combiner(x, combiner.initial_memory(1), torch.zeros(1))[0] for x in (features, other))
    assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["average_pool", "c_abstractor"])
def test_a_grid_that_cannot_be_is_refused(name: str, small_config: Configs) -> None:
    tube = Tube(kernel=(4, 8, 8), stride=(2, 16, 16))
    patch = Tube(kernel=(1, 8, 8), stride=(2, 8, 8))
    with pytest.raises(ValueError, match=r"exactly one tube of one frame .* not 0"):
        combiners.build(small_config(name=name, tubes=(tube,)))
    with pytest.raises(ValueError, match=r"exactly one tube of one frame .* not 2"):
        combiners.build(small_config(name=name, tubes=(patch, patch)))
    # 7 tokens would be 7 times of 1 x 1 cells, and 2 frames have patches; 64 would be 8 x 8 cells of 4 x 4 patches.
    for tokens in (7, 64):
        with pytest.raises(ValueError, match=f"cannot lay out {tokens} tokens"):
            combiners.build(small_config(name=name, tokens=tokens))


@pytest.mark.parametrize("tokens", [1, 2, 4, 8, 9, 16, 18, 32])
@pytest.mark.parametrize("name", ["average_pool", "c_abstractor"])
def test_token_counts_that_fit_the_grid_are_laid_out(
    name: str, tokens: int, small_config: Configs, random_features: Maker
) -> None:
    combiner = combiners.build(small_config(name=name, tokens=tokens))
    out, _ = combiner(random_features(combiner.config, 1), combiner.initial_memory(1), torch.zeros(1))
    assert out.shape == (1, tokens, 24)


def test_configs_that_make_no_sense_are_refused(small_config: Configs) -> None:
    with pytest.raises(ValueError, match="read_tokens must equal tokens"):
        small_config(name="ttm", read_tokens=7)
    with pytest.raises(ValueError, match="memory_tokens >= 1"):
        small_config(name="ttm", memory_tokens=0)
    flat = TransformerConfig(depth=0, heads=1)
    for name in ("transformer", "attention_pool", "c_abstractor"):
        with pytest.raises(ValueError, match="depth >= 1"):
            combiners.build(small_config(name=name, transformer=flat))
