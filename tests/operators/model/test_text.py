"""The text decoder: causal, the same with kept keys as without, blind outside the span, true about where it looks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from longtake.operators.model.config import ModelConfig
from longtake.operators.model.text import Context, SelfAttention, TextDecoder, span_bias

Configs = Callable[..., ModelConfig]


@pytest.fixture
def decoder(small_config: Configs) -> TextDecoder:
    torch.manual_seed(0)
    decoder = TextDecoder(small_config()).eval()
    # Away from the start, where "nowhere" is zero and logits are close to each other.
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return decoder


def everything(decoder: TextDecoder, latents: Tensor) -> Context:
    return decoder.context(latents, torch.ones(latents.shape[:2], dtype=torch.bool))


def words(batch: int, length: int) -> Tensor:
    return torch.randint(0, 40, (batch, length))


def test_a_later_word_never_changes_an_earlier_ones_logits(decoder: TextDecoder) -> None:
    context = everything(decoder, torch.randn(1, 5, 8, 24))
    ids = words(1, 9)
    with torch.no_grad():
        before, _ = decoder(ids, context)
        assert before.shape == (1, 9, 40)
        for place in range(9):
            changed = ids.clone()
            changed[0, place] = (ids[0, place] + 7) % 40
            after, _ = decoder(changed, context)
            torch.testing.assert_close(before[:, :place], after[:, :place], rtol=0, atol=1e-6)
            assert (before - after)[:, place:].abs().amax(dim=(0, 2)).min() > 1e-4


@pytest.mark.parametrize("cuts", [[1] * 8, [5, 1, 1, 1], [3, 5], [1, 4, 3]])
def test_kept_keys_give_the_logits_of_one_pass(decoder: TextDecoder, cuts: list[int]) -> None:
    context = everything(decoder, torch.randn(2, 5, 8, 24))
    ids = words(2, 8)
    with torch.no_grad():
        whole, seen = decoder(ids, context, want_weights=True)
        past: list[list[Tensor]] = [[] for _ in decoder.layers]
        parts = [decoder(part, context, past, want_weights=True) for part in ids.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat([logits for logits, _ in parts], dim=1), whole, rtol=0, atol=1e-5)
    assert seen is not None
    torch.testing.assert_close(torch.cat([weights for _, weights in parts], dim=1), seen, rtol=0, atol=1e-5)


def test_what_lies_outside_the_span_does_not_matter(decoder: TextDecoder) -> None:
    latents = torch.randn(1, 6, 8, 24)
    other = latents.clone()
    other[:, 4:] = torch.randn(1, 2, 8, 24) * 3
    span = torch.tensor([[False, False, True, True, False, False]])
    ids = words(1, 5)
    with torch.no_grad():
        (a, weights), (b, _) = (decoder(ids, decoder.context(x, span), want_weights=True) for x in (latents, other))
        whole, _ = decoder(ids, everything(decoder, latents))
        # The same keys under another span are what a context made for that span is.
        again, _ = decoder(ids, everything(decoder, latents).with_span(span, 8))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    torch.testing.assert_close(a, again, rtol=0, atol=1e-6)
    assert (a - whole).abs().max() > 1e-3
    # The evidence sums to one with "nowhere", and is zero outside the span.
    assert weights is not None
    assert weights.shape == (1, 5, 1 + 6 * 8)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 5))
    inside = torch.nn.functional.pad(span.repeat_interleave(8, dim=1), (1, 0), value=True)[0]
    assert weights[..., ~inside].abs().max() == 0
    assert weights[..., inside].min() > 0


def test_an_empty_span_leaves_nowhere_alone(decoder: TextDecoder) -> None:
    context = decoder.context(torch.randn(1, 3, 8, 24), torch.zeros(1, 3, dtype=torch.bool))
    with torch.no_grad():
        logits, weights = decoder(words(1, 4), context, want_weights=True)
    assert logits.isfinite().all()
    assert weights is not None
    torch.testing.assert_close(weights[..., 0], torch.ones(1, 4))


def test_asking_for_the_evidence_does_not_change_the_answer(decoder: TextDecoder) -> None:
    context = everything(decoder, torch.randn(2, 5, 8, 24))
    ids = words(2, 6)
    with torch.no_grad():
        (plain, none), (watched, _) = decoder(ids, context), decoder(ids, context, want_weights=True)
    assert none is None
    torch.testing.assert_close(plain, watched, rtol=0, atol=1e-5)


def test_questions_share_their_videos_context(decoder: TextDecoder) -> None:
    latents = torch.randn(2, 5, 8, 24)
    context = everything(decoder, latents)
    spans = torch.rand(6, 5) < 0.7
    ids = words(6, 6)
    with torch.no_grad():
        together, seen = decoder(ids, context.with_span(spans, 8), want_weights=True)
        plain, _ = decoder(ids, context.with_span(spans, 8))
        torch.testing.assert_close(together, plain, rtol=0, atol=1e-5)
        for row in range(6):
            one = decoder.context(latents[row // 3 : row // 3 + 1], spans[row : row + 1])
            alone, watched = decoder(ids[row : row + 1], one, want_weights=True)
            assert seen is not None and watched is not None
            torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)
            torch.testing.assert_close(seen[row : row + 1], watched, rtol=0, atol=1e-5)


@pytest.mark.parametrize("own_spans", [False, True])
def test_logits_at_some_positions_are_those_of_the_whole_text(decoder: TextDecoder, own_spans: bool) -> None:
    latents = torch.randn(2, 5, 8, 24, requires_grad=True)
    context = everything(decoder, latents)
    if own_spans:
        context = context.with_span(torch.rand(6, 5) < 0.7, 8)
    ids = words(6, 7)
    # From no position of a sequence to all of them, and more of one video than of the other.
    at = torch.rand(6, 7) < torch.tensor([[0.0], [0.4], [1.0], [0.2], [0.0], [0.5]])
    assert at.view(2, -1).sum(1).unique().numel() == 2
    whole, seen = decoder(ids, context, want_weights=True)
    some, watched = decoder(ids, context, want_weights=True, at_BL=at)
    assert seen is not None and watched is not None
    torch.testing.assert_close(some, whole[at], rtol=0, atol=1e-5)
    torch.testing.assert_close(watched, seen[at], rtol=0, atol=1e-5)
    torch.testing.assert_close(decoder(ids, context, at_BL=at)[0], whole[at], rtol=0, atol=1e-5)
    upstream = torch.randn_like(some)
    leaves = [latents, *decoder.parameters()]
    for mine, other in zip(
        torch.autograd.grad(some, leaves, upstream, retain_graph=True, allow_unused=True),
        torch.autograd.grad(whole[at], leaves, upstream, allow_unused=True),
        strict=True,
    ):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)


def test_grouped_queries_equal_full_attention_with_repeated_keys() -> None:
    torch.manual_seed(0)
    grouped, full = SelfAttention(16, heads=4, kv_heads=2), SelfAttention(16, heads=4, kv_heads=4)
    full.query.weight.data = grouped.query.weight.data
    full.output.weight.data = grouped.output.weight.data
    # Key and value heads 0, 0, 1, 1 of the grouped ones.
    heads = grouped.key_value.weight.data.reshape(2, 2, 4, 16).repeat_interleave(2, dim=1)
    full.key_value.weight.data = heads.reshape(32, 16)
    x = torch.randn(2, 5, 16)
    rotary = (torch.ones(5, 2), torch.zeros(5, 2))
    torch.testing.assert_close(grouped(x, rotary, None), full(x, rotary, None), rtol=0, atol=1e-6)


def test_text_longer_than_the_context_is_refused(decoder: TextDecoder) -> None:
    context = everything(decoder, torch.randn(1, 2, 8, 24))
    with pytest.raises(ValueError, match="the text has 33 tokens; the model reads at most 32"):
        decoder(words(1, 33), context)
    past: list[list[Tensor]] = [[] for _ in decoder.layers]
    with torch.no_grad():
        decoder(words(1, 30), context, past)
        with pytest.raises(ValueError, match="the text has 33 tokens"):
            decoder(words(1, 3), context, past)


def test_gradients_reach_every_parameter_and_the_latents(decoder: TextDecoder) -> None:
    latents = torch.randn(2, 4, 8, 24, requires_grad=True)
    logits, weights = decoder(words(2, 7), everything(decoder, latents), want_weights=True)
    assert weights is not None
    (logits.log_softmax(-1)[..., 3].sum() + weights[..., 5].log().sum()).backward()
    # The embedding has a gradient where its words occur; every other parameter everywhere.
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert latents.grad is not None
    assert latents.grad.abs().amax(dim=-1).min() > 0


def test_the_span_bias_hides_whole_snippets_and_never_nowhere() -> None:
    bias = span_bias(torch.tensor([[True, False]]), 3)
    assert bias.shape == (1, 1, 1, 7)
    assert (bias[0, 0, 0] < -1e8).tolist() == [False] * 4 + [True] * 3
