"""The text around a video, as the model's own chat template writes it, cut where the video stands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longtake.errors import CheckpointError


def read_template(path: Path, tokenizer: Any) -> str:
    """The chat template of a model directory: its own file, else the tokenizer's.

    Raises:
        CheckpointError: there is none.
    """
    plain, wrapped = path / "chat_template.jinja", path / "chat_template.json"
    if plain.is_file():
        return plain.read_text()
    if wrapped.is_file():
        try:
            template = json.loads(wrapped.read_text())["chat_template"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{wrapped}: {error}") from error
        return str(template)
    if isinstance(tokenizer.chat_template, str):
        return tokenizer.chat_template
    raise CheckpointError(f"{path}: no {plain.name}; copy it from where the weights are from")


@dataclass(frozen=True, kw_only=True)
class Around:
    """Text before and after a video. `wrapped`: the template puts the family's own markers around it, which belong to
    the video and stand in neither text."""

    before: str
    after: str
    wrapped: bool


@dataclass(frozen=True, kw_only=True)
class ChatPrompt:
    """Renders one question about one video.

    `placeholder` is what the template writes for a video; `opening` and `closing` are the markers around it.
    """

    tokenizer: Any
    template: str
    placeholder: str
    opening: str = ""
    closing: str = ""

    def around(self, question: str, system: str | None = None) -> Around:
        """The text around the video for one question; thinking aloud is switched off where the template knows how.

        Raises:
            CheckpointError: the template fails, or does not place exactly one video.
        """
        parts = [{"type": "video"}, {"type": "text", "text": question}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        try:
            text = self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except Exception as error:  # jinja2 raises classes of its own
            raise CheckpointError(f"the chat template cannot be rendered: {type(error).__name__}: {error}") from error
        before, found, after = text.partition(self.placeholder)
        if not found:
            raise CheckpointError(f"the chat template places no video: there is no {self.placeholder} in its text")
        wrapped = bool(self.opening) and before.endswith(self.opening) and after.startswith(self.closing)
        if wrapped:
            before, after = before.removesuffix(self.opening), after.removeprefix(self.closing)
        return Around(before=before, after=after, wrapped=wrapped)

    def ids(self, text: str) -> list[int]:
        """Token ids of text, special tokens read as such, nothing added."""
        return [int(one) for one in self.tokenizer(text, add_special_tokens=False).input_ids]

    def marker(self, text: str) -> int:
        """The id of one special token.

        Raises:
            CheckpointError: the tokenizer does not have it.
        """
        ids = self.ids(text)
        if len(ids) != 1:
            raise CheckpointError(f"the tokenizer has no special token {text}")
        return ids[0]
