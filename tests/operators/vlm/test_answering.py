"""Answers: streamed, drawn, chosen; how likely they are; what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from longtake.operators.vlm import Decoding, Prefix, VLMAnswerer, read_video

QUESTION = "which colour was on the screen?"
FAMILIES = ["qwen3_5", "llava_onevision", "qwen2_5_omni"]


def prefix_of(made: Any, **how: Any) -> tuple[Prefix, VLMAnswerer]:
    return read_video(made.vlm, made.video(**how)), VLMAnswerer(made.vlm)


def log_likelihood(answerer: VLMAnswerer, prefix: Prefix, ids: Sequence[int]) -> float:
    """Of `ids` after the question, token by token through a fresh fork each time."""
    question = answerer._question(prefix, QUESTION)
    total = 0.0
    for said in range(len(ids)):
        state = answerer._start(prefix, [*question, *ids[:said]])
        total += float(state.logits_V.log_softmax(-1)[ids[said]])
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_make_the_answer_and_its_likelihood(scene: Callable[..., Any], family: str) -> None:
    prefix, answerer = prefix_of(scene(family), combiner="pool", tokens=6)
    stream = answerer.stream(prefix, QUESTION, Decoding(limit=9))
    pieces = []
    with pytest.raises(ValueError, match="not finished"):
        _ = stream.answer
    for piece in stream:
        assert piece
        pieces.append(piece)
    assert len(pieces) > 1 and next(stream, None) is None
    answer = stream.answer
    assert answer.text == "".join(pieces).strip()
    assert answer.text == answerer.vlm.tokenizer.decode(stream.spoken.ids, skip_special_tokens=True).strip()
    assert len(stream.spoken.ids) == 9
    wanted = log_likelihood(answerer, prefix, stream.spoken.ids)
    assert math.log(answer.probability) == pytest.approx(wanted, abs=1e-3)
    assert answerer.answer(prefix, QUESTION, Decoding(limit=9)).text == answer.text


def test_an_answer_ends_at_the_end_marker(scene: Callable[..., Any]) -> None:
    made = scene("qwen3_5")
    prefix, answerer = prefix_of(made)
    long = answerer.stream(prefix, QUESTION, Decoding(limit=8))
    long.finish()
    ids = long.spoken.ids
    # One of the tokens that it would say, new where it comes, now ends an answer.
    place = next(n for n in range(1, 8) if ids[n] not in ids[:n])
    ending = VLMAnswerer(replace(made.vlm, end_ids=frozenset({ids[place]})))
    stream = ending.stream(prefix, QUESTION)
    answer = stream.finish()
    assert stream.spoken.ids == ids[:place]
    wanted = log_likelihood(answerer, prefix, ids[: place + 1])
    assert math.log(answer.probability) == pytest.approx(wanted, abs=1e-3)
    # Where the end marker was read off is no evidence of the words.
    words = answerer.answer(prefix, QUESTION, Decoding(limit=place))
    assert torch.equal(answer.weights_T, words.weights_T)
    # An answer of nothing but the end marker looked somewhere, too.
    silent = VLMAnswerer(replace(made.vlm, end_ids=frozenset({ids[0]}))).answer(prefix, QUESTION)
    assert silent.text == "" and float(silent.weights_T.sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_likeliest_choice(scene: Callable[..., Any], family: str) -> None:
    prefix, answerer = prefix_of(scene(family), combiner="drop", tokens=5)
    choices = ["red", "green blue", "was on the screen while a horn sounded"]
    end = answerer.vlm.tokenizer.eos_token_id
    logs = [log_likelihood(answerer, prefix, [*answerer.vlm.family.prompt.ids(one), end]) for one in choices]
    answer = answerer.answer(prefix, QUESTION, choices=choices)
    best = max(range(3), key=lambda n: logs[n])
    assert answer.text == choices[best]
    total = sum(math.exp(one - logs[best]) for one in logs)
    assert answer.probability == pytest.approx(1 / total, abs=1e-4)
    assert float(answer.weights_T.sum()) == pytest.approx(1, abs=1e-6)
    assert answerer.answer(prefix, QUESTION, choices=["red"]).probability == 1


def test_drawing_follows_the_seed_and_the_share(scene: Callable[..., Any]) -> None:
    prefix, answerer = prefix_of(scene("qwen3_5"))

    def said(**how: Any) -> list[int]:
        stream = answerer.stream(prefix, QUESTION, Decoding(limit=8, **how))
        stream.finish()
        return stream.spoken.ids

    greedy = said()
    assert said(temperature=1.0, seed=1) == said(temperature=1.0, seed=1) != said(temperature=1.0, seed=2)
    # A share that only the likeliest token fits into, and a temperature near zero, are greedy.
    assert said(temperature=1.0, share=1e-6, seed=3) == greedy == said(temperature=1e-4, seed=4)


def test_the_most_common_of_several_votes(scene: Callable[..., Any]) -> None:
    prefix, answerer = prefix_of(scene("qwen2_5_omni"))
    answer = answerer.answer(prefix, QUESTION, Decoding(limit=1, temperature=0.3), votes=9)
    assert answer.votes is not None and sum(answer.votes.values()) == 9
    assert answer.votes[answer.text] == max(answer.votes.values())
    assert answer.probability == answer.votes[answer.text] / 9
    again = answerer.answer(prefix, QUESTION, Decoding(limit=1, temperature=0.3), votes=9)
    assert again.votes == answer.votes


def test_letters_of_several_tokens_come_whole(scene: Callable[..., Any]) -> None:
    prefix, answerer = prefix_of(scene("llava_onevision"))
    ids = answerer.vlm.family.prompt.ids("né€!")
    stream = answerer.stream(prefix, QUESTION, Decoding(limit=len(ids)))
    # The model is led to say it.
    stream._pick = lambda _: ids[len(stream.spoken.ids)]  # type: ignore[method-assign]
    assert list(stream) == ["n", "é", "€", "!"]


def test_what_cannot_be_asked_is_refused(scene: Callable[..., Any]) -> None:
    prefix, answerer = prefix_of(scene("qwen3_5"))
    with pytest.raises(ValueError, match="question is empty"):
        answerer.answer(prefix, " \n")
    with pytest.raises(ValueError, match="special token <|im_end|>".replace("|", r"\|")):
        answerer.stream(prefix, "what?<|im_end|>")
    # transformers does not name the video's own marks among a tokenizer's special tokens.
    with pytest.raises(ValueError, match="special token <|video_pad|>".replace("|", r"\|")):
        answerer.stream(prefix, "<|video_pad|> what?")
    with pytest.raises(ValueError, match="choice holds the special token"):
        answerer.answer(prefix, "what?", choices=["red", "blue<|im_end|>"])
    with pytest.raises(ValueError, match="either choices or votes"):
        answerer.answer(prefix, "what?", choices=["a"], votes=2)
    with pytest.raises(ValueError, match="no choice"):
        answerer.answer(prefix, "what?", choices=[])
    with pytest.raises(ValueError, match="choice is empty"):
        answerer.answer(prefix, "what?", choices=["red", ""])
    with pytest.raises(ValueError, match="at least 1"):
        answerer.answer(prefix, "what?", votes=0)
    with pytest.raises(ValueError, match="all the same"):
        answerer.answer(prefix, "what?", votes=3)
    for wrong in ({"limit": 0}, {"temperature": -1.0}, {"share": 0.0}, {"share": 1.5}):
        with pytest.raises(ValueError, match="are wanted"):
            Decoding(**wrong)  # type: ignore[arg-type]


def test_a_system_message_is_part_of_the_prefix(scene: Callable[..., Any]) -> None:
    made = scene("qwen2_5_omni")
    prefix = read_video(made.vlm, made.video(), system="answer yes or no")
    ids = prefix.layout.ids_S
    assert made.vlm.tokenizer.decode(ids[ids >= 0]).startswith("<|im_start|>system\nanswer yes or no<|im_end|>\n")
    assert VLMAnswerer(made.vlm).answer(prefix, "what?", Decoding(limit=2)).weights_T.shape == (3,)


def test_answers_leave_gradients_and_modes_alone(scene: Callable[..., Any]) -> None:
    prefix, answerer = prefix_of(scene("qwen3_5"))
    stream = answerer.stream(prefix, QUESTION, Decoding(limit=3))
    next(stream)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
