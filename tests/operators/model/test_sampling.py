"""Decoding: equal to a plain recomputation without caches, and top-p by its definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longtake.operators.model.checkpoint import LoadedModel
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.sampling import generate, score_choices, top_p
from longtake.operators.model.text import Context
from longtake.operators.synthetic.random_model import random_model

QUESTION = "which colour was on screen while the horn sounded"


@pytest.fixture(scope="module")
def loaded(world_config: ModelConfig) -> LoadedModel:
    """A model whose words differ in probability, so that orders mean something."""
    made = random_model(world_config, seed=5)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in made.model.text_decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)
    return made


@pytest.fixture(scope="module")
def context(loaded: LoadedModel) -> Context:
    torch.manual_seed(6)
    with torch.no_grad():
        return loaded.model.text_decoder.context(torch.randn(1, 5, 4, 24), torch.ones(1, 5, dtype=torch.bool))


def plain_log_probabilities(loaded: LoadedModel, context: Context, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the next token after `ids`, over what may be said, by one pass without a cache; and the evidence."""
    with torch.no_grad():
        logits, evidence = loaded.model.text_decoder(torch.tensor([ids]), context, want_weights=True)
    assert evidence is not None
    tokenizer = loaded.tokenizer
    allowed = torch.full((logits.shape[-1],), float("-inf"))
    allowed[: len(tokenizer)] = 0
    allowed[[tokenizer.pad, tokenizer.unknown, tokenizer.start]] = float("-inf")
    return (logits[0, -1] + allowed).log_softmax(-1), evidence[0, -1]


def test_greedy_is_the_argmax_step_by_step_without_a_cache(loaded: LoadedModel, context: Context) -> None:
    for limit in (1, 7):
        with torch.no_grad():
            (made,) = generate(loaded.model.text_decoder, loaded.tokenizer, QUESTION, context, limit=limit)
        ids, total, seen = loaded.tokenizer.prompt(QUESTION), 0.0, []
        answer: list[int] = []
        for _ in range(limit):
            log, evidence = plain_log_probabilities(loaded, context, ids)
            pick = int(log.argmax())
            total += float(log[pick])
            if pick == loaded.tokenizer.end and answer:
                break
            seen.append(evidence)
            if pick == loaded.tokenizer.end:
                break
            ids, answer = [*ids, pick], [*answer, pick]
        assert list(made.ids) == answer
        assert made.log_probability == pytest.approx(total, abs=1e-4)
        torch.testing.assert_close(made.evidence_N, torch.stack(seen).mean(0), rtol=0, atol=1e-5)


def test_choices_are_scored_as_a_plain_pass_scores_them(loaded: LoadedModel, context: Context) -> None:
    choices = ["red", "pink star", "no", "red moon then blue ring"]
    with torch.no_grad():
        scored = score_choices(loaded.model.text_decoder, loaded.tokenizer, QUESTION, context, choices)
    prompt = loaded.tokenizer.prompt(QUESTION)
    for choice, one in zip(choices, scored, strict=True):
        answer = [*loaded.tokenizer.text(choice), loaded.tokenizer.end]
        assert list(one.ids) == answer[:-1]
        total, seen = 0.0, []
        for place, word in enumerate(answer):
            with torch.no_grad():
                logits, evidence = loaded.model.text_decoder(
                    torch.tensor([prompt + answer[:place]]), context, want_weights=True
                )
            assert evidence is not None
            total += float(logits[0, -1].log_softmax(-1)[word])
            seen.append(evidence[0, -1])
        assert one.log_probability == pytest.approx(total, abs=1e-4)
        torch.testing.assert_close(one.evidence_N, torch.stack(seen[:-1]).mean(0), rtol=0, atol=1e-5)
    # The scores are of each alone: what stands beside a choice does not matter.
    with torch.no_grad():
        (alone,) = score_choices(loaded.model.text_decoder, loaded.tokenizer, QUESTION, context, choices[1:2])
    assert alone.log_probability == pytest.approx(scored[1].log_probability, abs=1e-4)
    with pytest.raises(ValueError, match="no choice to score"):
        score_choices(loaded.model.text_decoder, loaded.tokenizer, QUESTION, context, [])


@settings(max_examples=100)
@given(st.lists(st.floats(-6, 6), min_size=2, max_size=12), st.floats(0.0, 1.0))
def test_top_p_keeps_the_smallest_set_that_holds_the_share(values: list[float], share: float) -> None:
    logits = torch.tensor([values])
    kept = top_p(logits, share)[0]
    inside = [n for n in range(len(values)) if kept[n] > float("-inf")]
    assert inside and all(kept[n] == logits[0, n] for n in inside)
    chances = logits[0].double().softmax(-1)
    # The kept are the likeliest, they hold the share, and without the least of them they would not.
    outside = [n for n in range(len(values)) if n not in inside]
    assert all(chances[a] >= chances[b] - 1e-12 for a in inside for b in outside)
    assert float(chances[inside].sum()) >= share - 1e-5
    if len(inside) > 1:
        assert float(chances[inside].sum() - chances[inside].min()) < share + 1e-5


def test_sampling_follows_the_models_distribution_and_the_seed(loaded: LoadedModel, context: Context) -> None:
    def sample(seed: int, temperature: float, share: float = 1.0) -> list[tuple[int, ...]]:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            made = generate(
                loaded.model.text_decoder, loaded.tokenizer, QUESTION, context,
                count=400, temperature=temperature, share=share, generator=generator, limit=1,
            )  # fmt: skip
        return [one.ids for one in made]

    assert sample(1, 0.7) == sample(1, 0.7) != sample(2, 0.7)
    log, _ = plain_log_probabilities(loaded, context, loaded.tokenizer.prompt(QUESTION))
    best = (int(log.argmax()),) if int(log.argmax()) != loaded.tokenizer.end else ()
    for temperature in (1.0, 0.4):
        wanted = float((log / temperature).softmax(-1).max())
        found = sample(3, temperature).count(best) / 400
        assert abs(found - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / 400) + 1e-9, temperature
    assert set(sample(4, 1.0, share=1e-6)) == {best}


def test_banned_and_unused_tokens_are_never_said(loaded: LoadedModel, context: Context) -> None:
    tokenizer = loaded.tokenizer
    with torch.no_grad():
        made = generate(
            loaded.model.text_decoder, tokenizer, QUESTION, context,
            count=200, temperature=5.0, generator=torch.Generator().manual_seed(0), limit=6,
        )  # fmt: skip
    said = {word for one in made for word in one.ids}
    assert len(said) > 30 and max(said) < len(tokenizer) < loaded.config.text.vocabulary
    assert not said & {tokenizer.pad, tokenizer.unknown, tokenizer.start, tokenizer.end}
    # Their probabilities are those of the words at temperature 1, along the way that each took.
    one = min(made, key=lambda m: len(m.ids))
    ids, total = tokenizer.prompt(QUESTION), 0.0
    for word in [*one.ids, *([tokenizer.end] if len(one.ids) < 6 else [])]:
        log, _ = plain_log_probabilities(loaded, context, ids)
        total, ids = total + float(log[word]), [*ids, word]
    assert one.log_probability == pytest.approx(total, abs=1e-3)


def test_a_question_as_long_as_the_model_reads_has_room_for_one_word(loaded: LoadedModel, context: Context) -> None:
    frame = len(loaded.tokenizer.prompt(""))
    fits = " ".join(["red"] * (64 - frame - 1))
    with torch.no_grad():
        (made,) = generate(loaded.model.text_decoder, loaded.tokenizer, fits, context)
    assert len(made.ids) <= 1
    with pytest.raises(ValueError, match="the question has 64 tokens; the model reads at most 63"):
        generate(loaded.model.text_decoder, loaded.tokenizer, f"{fits} red", context)
