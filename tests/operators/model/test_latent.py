"""The latent model: causal over snippets, streaming equal to the whole, and hiding of masked snippets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from longtake.operators.model.config import ModelConfig
from longtake.operators.model.latent import LatentCache, LatentModel, rotary_angles, rotate

Configs = Callable[..., ModelConfig]


@pytest.fixture
def model(small_config: Configs) -> LatentModel:
    torch.manual_seed(0)
    return LatentModel(small_config()).eval()


def test_a_change_in_a_snippet_never_changes_latents_before_it(model: LatentModel) -> None:
    tokens = torch.randn(2, 6, 8, 24)
    with torch.no_grad():
        before = model(tokens)
        assert before.shape == tokens.shape
        for snippet in range(6):
            changed = tokens.clone()
            changed[:, snippet] = torch.randn(2, 8, 24) * 3
            after = model(changed)
            assert torch.equal(before[:, :snippet], after[:, :snippet])
            # From the snippet on, every latent has seen it.
            moved = (before - after)[:, snippet:].abs().amax(dim=(0, 2, 3))
            assert (moved > 1e-4).all()


def test_tokens_of_one_snippet_see_each_other(model: LatentModel) -> None:
    tokens = torch.randn(1, 3, 8, 24)
    changed = tokens.clone()
    changed[:, 1, -1] = torch.randn(24) * 3
    with torch.no_grad():
        moved = (model(tokens) - model(changed)).abs().amax(dim=(0, 3))
    # The last token of snippet 1 moves the first one of the same snippet, and nothing of snippet 0.
    assert float(moved[1, 0]) > 1e-4
    assert float(moved[0].max()) == 0.0


@pytest.mark.parametrize("cuts", [[1] * 9, [4, 5], [1, 3, 2, 3], [9]])
def test_streaming_with_a_cache_equals_one_pass(model: LatentModel, cuts: list[int]) -> None:
    tokens = torch.randn(2, 9, 8, 24)
    with torch.no_grad():
        whole = model(tokens)
        cache = LatentCache()
        parts = [model(part, cache) for part in tokens.split(cuts, dim=1)]
    assert cache.snippets == 9
    assert cache.keys_BHNE[0].shape[2] == 9 * 8
    worst = float((torch.cat(parts, dim=1) - whole).abs().max())
    print(f"steps of {cuts}: largest difference between streaming and whole {worst:.1e}")
    assert worst <= 1e-5


def test_a_hidden_snippet_is_seen_by_itself_alone(model: LatentModel) -> None:
    tokens = torch.randn(1, 5, 8, 24)
    changed = tokens.clone()
    changed[:, 2] = torch.randn(1, 8, 24) * 3
    keep = torch.tensor([[True, True, False, True, True]])
    with torch.no_grad():
        a, b = model(tokens, keep_BT=keep), model(changed, keep_BT=keep)
    assert torch.equal(a[:, [0, 1, 3, 4]], b[:, [0, 1, 3, 4]])
    assert (a[:, 2] - b[:, 2]).abs().max() > 1e-3


def test_videos_in_a_batch_do_not_see_each_other(model: LatentModel) -> None:
    tokens = torch.randn(2, 4, 8, 24)
    with torch.no_grad():
        together, alone = model(tokens), model(tokens[:1])
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)


def test_the_same_tokens_at_another_time_are_another_latent(model: LatentModel) -> None:
    tokens = torch.randn(1, 1, 8, 24).expand(-1, 4, -1, -1)
    with torch.no_grad():
        latents = model(tokens)[0]
    assert torch.pdist(latents[:, 0]).min() > 1e-3


def test_gradients_reach_every_parameter(model: LatentModel) -> None:
    latents = model(torch.randn(2, 4, 8, 24))
    heads = [model.next_tokens, model.next_video, model.next_audio]
    loss = sum((head(latents) * torch.randn(1)).square().mean() for head in heads if head is not None)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    products = []
    for at in (0, 5, 70):
        turned_q = rotate(q, rotary_angles(torch.tensor([at + 3]), 8))
        turned_k = rotate(k, rotary_angles(torch.tensor([at]), 8))
        torch.testing.assert_close(turned_q.norm(), q.norm())
        products.append((turned_q * turned_k).sum())
    torch.testing.assert_close(products[0], products[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(products[0], products[2], rtol=0, atol=1e-4)
    assert not torch.allclose(products[0], (q * k).sum(), atol=1e-2)
