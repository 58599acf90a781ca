"""Answers over one video's tokens: likelihoods, votes, spans, where it looked, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from longtake.operators.model.answering import CHUNK, Answerer
from longtake.operators.model.checkpoint import LoadedModel
from longtake.operators.model.config import ModelConfig
from longtake.operators.synthetic.random_model import random_model

QUESTION = "Which colour was on screen while the horn sounded?"


@pytest.fixture(scope="module")
def answerer(world_config: ModelConfig) -> Answerer:
    made = random_model(world_config, seed=5)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in made.model.text_decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)
    return Answerer(made)


@pytest.fixture(scope="module")
def latents(answerer: Answerer) -> Tensor:
    torch.manual_seed(6)
    return answerer.latents(torch.randn(6, 4, 24))


def test_latents_of_a_long_video_are_those_of_one_pass(answerer: Answerer) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2 * CHUNK + 7, 4, 24)
    made = answerer.latents(tokens)
    with torch.no_grad():
        whole = answerer.loaded.model.latent_model(tokens[None])[0]
    assert made.shape == tokens.shape and made.dtype == torch.float32
    torch.testing.assert_close(made, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 4, 24), (5, 3, 24), (5, 4, 12), (4, 24)])
def test_tokens_of_another_shape_are_refused(answerer: Answerer, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"wanted \[T >= 1, 4, 24\]"):
        answerer.latents(torch.zeros(shape))


def likelihood(loaded: LoadedModel, latents: Tensor, choice: str) -> float:
    """Of a whole answer, its end marker included: one pass, word by word."""
    tokenizer, decoder = loaded.tokenizer, loaded.model.text_decoder
    prompt, answer = tokenizer.prompt(QUESTION), [*tokenizer.text(choice), tokenizer.end]
    with torch.no_grad():
        context = decoder.context(latents[None], torch.ones(1, len(latents), dtype=torch.bool))
        logits, _ = decoder(torch.tensor([prompt + answer]), context)
    log = logits[0].log_softmax(-1)
    return math.exp(sum(float(log[len(prompt) - 1 + n, word]) for n, word in enumerate(answer)))


def test_choices_are_answered_by_likelihood(answerer: Answerer, latents: Tensor) -> None:
    choices = ["red", "Pink", "red moon", "blue ring"]
    chances = {choice: likelihood(answerer.loaded, latents, choice) for choice in choices}
    best = max(choices, key=lambda choice: chances[choice])
    for order in (choices, choices[::-1]):
        answer = answerer.answer(latents, QUESTION, choices=order)
        assert answer.text == best
        assert answer.probability == pytest.approx(chances[best] / sum(chances.values()), rel=1e-3)
        assert answer.votes is None
    assert answerer.answer(latents, QUESTION, choices=["cyan"]).probability == pytest.approx(1)


def test_an_open_answers_probability_is_the_likelihood_of_its_words(answerer: Answerer, latents: Tensor) -> None:
    answer = answerer.answer(latents, QUESTION)
    # Its log, since many unsure words make a small number. Some tokens can never be said: what can is a bit likelier.
    plain = math.log(likelihood(answerer.loaded, latents, answer.text))
    words = len(answer.text.split())
    assert plain - 1e-3 <= math.log(answer.probability) < min(0, plain + 0.2 * (words + 1) + 10 * (words == 24))
    again = answerer.answer(latents, QUESTION)
    assert (again.text, again.probability) == (answer.text, answer.probability)
    # Another video is answered from what it is.
    other = answerer.answer(latents.flip(0) * 2, QUESTION)
    assert abs(math.log(other.probability) - math.log(answer.probability)) > 1e-2


def test_weights_are_attention_inside_the_span_and_sum_to_at_most_one(answerer: Answerer, latents: Tensor) -> None:
    for span in ([True] * 6, [False, True, True, False, False, True], [False] * 5 + [True]):
        mask = torch.tensor(span)
        for settings in ({}, {"choices": ["red", "moon"]}, {"votes": 5}):
            answer = answerer.answer(latents, QUESTION, span_mask_T=mask, **settings)  # type: ignore[arg-type]
            weights = answer.weights_T
            assert (weights.shape, weights.dtype) == ((6,), torch.float32)
            assert weights[~mask].abs().sum() == 0
            assert weights[mask].min() > 0 and 0 < float(weights.sum()) < 1


def test_a_span_hides_what_lies_outside_it(answerer: Answerer, latents: Tensor) -> None:
    mask = torch.tensor([False, False, True, True, False, False])
    other = latents.clone()
    other[~mask] = torch.randn(4, 4, 24) * 5
    a, b = (answerer.answer(video, QUESTION, span_mask_T=mask) for video in (latents, other))
    assert a.text == b.text
    assert math.log(a.probability) == pytest.approx(math.log(b.probability), abs=1e-3)
    torch.testing.assert_close(a.weights_T, b.weights_T, rtol=0, atol=1e-6)
    assert abs(math.log(answerer.answer(other, QUESTION).probability) - math.log(b.probability)) > 1e-2


def test_votes_are_counted_and_fixed_by_the_seed(answerer: Answerer, latents: Tensor) -> None:
    first = answerer.answer(latents, QUESTION, votes=30, temperature=1.5, seed=1)
    assert first.votes is not None
    assert sum(first.votes.values()) == 30 and len(first.votes) > 3
    assert first.votes[first.text] == max(first.votes.values())
    assert first.probability == first.votes[first.text] / 30
    again = answerer.answer(latents, QUESTION, votes=30, temperature=1.5, seed=1)
    assert (again.text, again.votes) == (first.text, first.votes)
    assert torch.equal(again.weights_T, first.weights_T)
    assert answerer.answer(latents, QUESTION, votes=30, temperature=1.5, seed=2).votes != first.votes
    # Cold sampling is greedy, and all votes fall on one answer.
    cold = answerer.answer(latents, QUESTION, votes=5, temperature=1e-4)
    assert cold.votes == {answerer.answer(latents, QUESTION).text: 5} and cold.probability == 1


def test_votes_do_not_touch_the_callers_random_numbers(answerer: Answerer, latents: Tensor) -> None:
    torch.manual_seed(9)
    wanted = torch.rand(3)
    torch.manual_seed(9)
    answerer.answer(latents, QUESTION, votes=3)
    assert torch.equal(torch.rand(3), wanted)


def test_unknown_words_are_named(answerer: Answerer, latents: Tensor) -> None:
    assert answerer.answer(latents, QUESTION).unknown_words == ()
    assert answerer.answer(latents, "Was a purple elephant shown?").unknown_words == ("elephant",)


@pytest.mark.parametrize(
    ("question", "settings", "message"),
    [
        ("", {}, "the question is empty"),
        (" \n", {}, "the question is empty"),
        ("?!", {}, "the question is empty"),
        (QUESTION, {"span_mask_T": torch.zeros(6, dtype=torch.bool)}, "the span holds no snippet"),
        (QUESTION, {"span_mask_T": torch.ones(5, dtype=torch.bool)}, "the video has 6 snippets"),
        (QUESTION, {"choices": ["red"], "votes": 3}, "give either choices or votes"),
        (QUESTION, {"choices": []}, "no choice to score"),
        (QUESTION, {"votes": 0}, "votes must be at least 1, not 0"),
        ("red " * 60, {}, "the question has 68 tokens; the model reads at most 63"),
        ("red " * 60, {"choices": ["red"]}, "the text has 69 tokens; the model reads at most 64"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    answerer: Answerer, latents: Tensor, question: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        answerer.answer(latents, question, **settings)  # type: ignore[arg-type]
