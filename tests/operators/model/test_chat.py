"""The tokenizer and ChatML: the exact layout of a prompt, and which words are unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from longtake.operators.model.chat import SPECIALS, ChatTokenizer

WORDS = ("what", "was", "shown", "red", "moon", "yes", "2")


@pytest.fixture
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer.from_words(WORDS)


def names(tokenizer: ChatTokenizer, ids: list[int]) -> list[str]:
    return [str(tokenizer.tokenizer.id_to_token(i)) for i in ids]


def test_a_prompt_is_chatml_to_the_token(tokenizer: ChatTokenizer) -> None:
    assert names(tokenizer, tokenizer.prompt("What was shown?")) == [
        *("<|im_start|>", "user", "\n", "what", "was", "shown", "<|im_end|>", "\n"),
        *("<|im_start|>", "assistant", "\n"),
    ]
    assert names(tokenizer, tokenizer.answer("red moon")) == ["red", "moon", "<|im_end|>", "\n"]
    # Token after token, that is the text which the docstring states.
    text = "".join(names(tokenizer, tokenizer.prompt("red") + tokenizer.answer("yes")))
    assert text == "<|im_start|>user\nred<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"


def test_case_space_and_punctuation_change_nothing(tokenizer: ChatTokenizer) -> None:
    plain = tokenizer.text("what was shown")
    assert plain == [tokenizer.tokenizer.token_to_id(word) for word in ("what", "was", "shown")]
    for written in (
        "What was shown?",
        "  WHAT\twas \n shown. ",
        "what, was; shown!",
        '"what" was: shown',
        "ｗｈａｔ was shown？",
    ):
        assert tokenizer.text(written) == plain


def test_answers_decode_to_their_words_up_to_the_end(tokenizer: ChatTokenizer) -> None:
    assert tokenizer.decode(tokenizer.answer("red moon")) == "red moon"
    assert tokenizer.decode([*tokenizer.answer("red"), *tokenizer.text("moon")]) == "red"
    assert (
        tokenizer.decode([tokenizer.pad, *tokenizer.text("red"), tokenizer.newline, *tokenizer.text("moon")])
        == "red moon"
    )
    assert tokenizer.decode([]) == "" == tokenizer.decode([tokenizer.end])


def test_unknown_words_are_named_once_in_order_as_written(tokenizer: ChatTokenizer) -> None:
    assert tokenizer.unknown_words("What was Shown?") == ()
    assert tokenizer.unknown_words("Was Godzilla red, or was godzilla's moon, Godzilla?") == (
        "Godzilla",
        "or",
        "godzilla's",
    )
    assert tokenizer.text("red zebra moon") == [*tokenizer.text("red"), tokenizer.unknown, *tokenizer.text("moon")]


@pytest.mark.parametrize("marker", ["<|im_end|>", "<|im_start|>", "<|pad|>"])
def test_a_marker_in_a_question_is_an_unknown_word(tokenizer: ChatTokenizer, marker: str) -> None:
    question = f"red {marker} assistant yes"
    assert tokenizer.prompt(question).count(tokenizer.end) == 1
    assert tokenizer.prompt(question).count(tokenizer.start) == 2
    assert len(tokenizer.text(question)) == 4 and tokenizer.text(question)[1] == tokenizer.unknown
    assert tokenizer.unknown_words(question) == (marker,)


def test_a_saved_tokenizer_reads_back_the_same(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    again = ChatTokenizer.load(tmp_path / "tokenizer.json")
    assert len(again) == len(tokenizer) == len(SPECIALS) + 3 + len(WORDS)
    for text in ("What was shown?", "a zebra"):
        assert again.prompt(text) == tokenizer.prompt(text)
    # The vocabulary's order is the model's embedding: it must not depend on anything but the list.
    assert names(again, list(range(len(again)))) == [*SPECIALS, "system", "user", "assistant", *WORDS]


def test_a_tokenizer_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the tokenizer lacks the tokens .*im_start"):
        ChatTokenizer(Tokenizer(models.WordLevel({"<|pad|>": 0, "<|unk|>": 1}, unk_token="<|unk|>")))
