"""Rows to learn from: what is asked of, or told about, a stretch of a video; and a tokenizer of their words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from longtake.operators.model.chat import DIGITS, ROLES, SPECIALS, ChatTokenizer

# What a caption answers: the words that the made world's descriptions answer too.
CAPTION_PROMPT = "What happens?"

# A range [first, stop) of a video's snippets, by their places among those that there are.
Places = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing to learn about a video.

    Args:
        video: its number.
        question: for a caption `CAPTION_PROMPT`.
        span: the snippets that may be looked at.
        evidence: those that prove the answer; () says that none does, None that it is not known.
    Raises:
        ValueError: an empty span, evidence that is empty, or no words.
    """

    video: int
    question: str
    answer: str
    span: Places
    evidence: tuple[Places, ...] | None = None
    caption: bool = False

    def __post_init__(self) -> None:
        for first, stop in (self.span, *(self.evidence or ())):
            if not 0 <= first < stop:
                raise ValueError(f"snippets [{first}, {stop}) of video {self.video}: at least one is wanted")
        if not self.question.strip() or not self.answer.strip():
            raise ValueError(f"a row needs a question and an answer, not {self.question!r} and {self.answer!r}")

    @property
    def snippets(self) -> int:
        """How many snippets may be looked at."""
        return self.span[1] - self.span[0]


def word_tokenizer(texts: Iterable[str], room: int) -> ChatTokenizer:
    """A tokenizer of the commonest words of `texts`, as many as `room` tokens leave; of equally common ones the first
    in the alphabet. Where there are numbers of several digits, and room, all numbers are spelt.

    Raises:
        ValueError: there is room for no word at all.
    """
    most = room - len(SPECIALS) - len(ROLES)
    if most < 1:
        raise ValueError(f"a vocabulary of {room} has no room for words")
    splitter = ChatTokenizer.from_words(()).tokenizer
    counts: Counter[str] = Counter()
    for text in texts:
        plain = splitter.normalizer.normalize_str(text)
        counts.update(word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(plain))
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    spelt = 2 * len(DIGITS)
    numbers = {word for word in counts if word.isascii() and word.isdecimal()}
    digits = most >= 2 * spelt and any(len(word) > 1 for word in numbers)
    if digits:
        ordered = [word for word in ordered if word not in numbers][: most - spelt]
    return ChatTokenizer.from_words(ordered[:most], digits=digits)


def unknown_words(rows: Sequence[Row], tokenizer: ChatTokenizer) -> tuple[int, list[str]]:
    """How many rows hold words that a tokenizer lacks, and these words, the commonest first."""
    seen: Counter[str] = Counter()
    touched = 0
    for row in rows:
        found = {word.lower() for text in (row.question, row.answer) for word in tokenizer.unknown_words(text)}
        seen.update(found)
        touched += bool(found)
    return touched, sorted(seen, key=lambda word: (-seen[word], word))


def text_length(row_question: str, row_answer: str, tokenizer: ChatTokenizer) -> int:
    """How many tokens the decoder reads of a question and its answer (the answer's last one is only predicted)."""
    return len(tokenizer.prompt(row_question)) + len(tokenizer.answer(row_answer)) - 1
