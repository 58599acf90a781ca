"""Text in and out: the tokenizer, ChatML prompts, and which words a checkpoint does not know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

PAD, UNKNOWN, START, END, NEWLINE = "<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>", "\n"
SPECIALS = (PAD, UNKNOWN, START, END, NEWLINE)
ROLES = ("system", "user", "assistant")
DIGITS = "0123456789"
# Before what goes on a word, as WordPiece writes it.
CONTINUED = "##"


class ChatTokenizer:
    """A `tokenizers` tokenizer with ChatML's markers.

    A prompt reads `<|im_start|>user\\n{question}<|im_end|>\\n<|im_start|>assistant\\n`, and the answer is
    `{answer}<|im_end|>\\n` after it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in SPECIALS if token not in vocabulary]
        if missing:
            raise ValueError(f"the tokenizer lacks the tokens {missing}")
        self.pad, self.unknown, self.start, self.end, self.newline = (vocabulary[token] for token in SPECIALS)

    @staticmethod
    def from_words(words: Sequence[str], *, digits: bool = False) -> ChatTokenizer:
        """A tokenizer (lower case, punctuation apart) over a fixed list of words.

        With `digits`, whole numbers that are no words of the list are spelt: "128" is "1", "##2", "##8" (WordPiece).
        """
        spelling = [*DIGITS, *(CONTINUED + digit for digit in DIGITS)] if digits else []
        tokens = dict.fromkeys([*SPECIALS, *ROLES, *words, *spelling])
        vocabulary = {token: number for number, token in enumerate(tokens)}
        model = models.WordPiece if digits else models.WordLevel
        tokenizer = Tokenizer(model(vocabulary, unk_token=UNKNOWN))
        if digits:
            tokenizer.decoder = decoders.WordPiece(prefix=CONTINUED, cleanup=False)
        # The wording's punctuation carries nothing that these words do not.
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[?.!,;:\"]"), " ")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return ChatTokenizer(tokenizer)

    @staticmethod
    def load(path: Path) -> ChatTokenizer:
        """Read `tokenizer.json`."""
        return ChatTokenizer(Tokenizer.from_file(str(path)))

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`."""
        self.tokenizer.save(str(path), pretty=True)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def text(self, text: str) -> list[int]:
        """Ids of plain text; a marker written in it is an unknown word, so that no question can end its own turn."""
        markers = {self.pad, self.start, self.end, self.newline}
        return [self.unknown if i in markers else i for i in self.tokenizer.encode(text, add_special_tokens=False).ids]

    def prompt(self, question: str) -> list[int]:
        """Ids of a question up to where the answer begins."""
        return [
            *self._turn("user", question),
            self.start,
            *self.text("assistant"),
            self.newline,
        ]

    def answer(self, answer: str) -> list[int]:
        """Ids of an answer with its two closing markers."""
        return [*self.text(answer), self.end, self.newline]

    def decode(self, ids: Sequence[int]) -> str:
        """The words of an answer's ids, up to its end marker."""
        stop = list(ids).index(self.end) if self.end in ids else len(ids)
        skip = {self.pad, self.start, self.newline}
        return str(self.tokenizer.decode([i for i in ids[:stop] if i not in skip], skip_special_tokens=False)).strip()

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of a text that the vocabulary lacks, in order, each once."""
        words = re.findall(r"[^\s?.!,;:\"]+", text)
        return tuple(dict.fromkeys(word for word in words if self.unknown in self.text(word)))

    def _turn(self, role: str, message: str) -> list[int]:
        return [self.start, *self.text(role), self.newline, *self.text(message), self.end, self.newline]
