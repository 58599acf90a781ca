"""What an index's tables say about themselves: which model wrote them, how its tokens lie there, which sampling."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

from longtake.errors import IndexMismatchError
from longtake.pipeline.table.token_columns import TokenStore

# Version 3 knows public models and bfloat16; what does without is written as version 2, which older readers know.
FORMATS = (2, 3)
Kind = Literal["longtake", "vlm"]

_PREFIX = "longtake."
# What the name of a public model begins with; its directory or hub name follows.
VLM_PREFIX = "vlm:"


def is_vlm(model: str) -> bool:
    """Whether a model's name is a public model's."""
    return model.startswith(VLM_PREFIX)


def vlm_path(model: str) -> str:
    """The directory or hub name of a public model's name."""
    return model.removeprefix(VLM_PREFIX)


@dataclass(frozen=True, kw_only=True)
class IndexMetadata:
    """What an index's tables say about themselves, in each schema's metadata.

    `tokens` and `width` are a snippet's tokens: float32 [tokens, width], stored as `token_store` says. `rate_hz` or
    `frames` is the sampling that the index was created with, and that later runs use when they name none; exactly one
    is set.

    Of a public model (`kind` "vlm", `model` "vlm:PATH"), `tokens` is the most that a snippet keeps, 0 for all;
    `combiner` is what compresses, `snippet_frames` the pictures a snippet, `most_tokens_a_step` bounds the size of
    pictures, and `sound_hz` counts sound tokens (0: it does not hear).
    """

    model: str
    fingerprint: str
    tokens: int
    width: int
    rate_hz: float | None = None
    frames: int | None = None
    token_store: TokenStore = "int8"
    kind: Kind = "longtake"
    combiner: str = ""
    snippet_frames: int = 0
    most_tokens_a_step: int = 0
    sound_hz: float = 0.0

    @property
    def format(self) -> int:
        """The oldest format version whose readers understand this index."""
        return 3 if self.kind == "vlm" or self.token_store == "bfloat16" else 2

    def to_schema(self) -> dict[str, str]:
        """As schema metadata: strings by prefixed name."""
        return {_PREFIX + key: json.dumps(value) for key, value in self.to_dict().items()}

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {**dataclasses.asdict(self), "format": self.format}

    @staticmethod
    def from_schema(metadata: dict[bytes, bytes] | None, uri: str) -> IndexMetadata:
        """Read back what `to_schema` wrote.

        Raises:
            IndexMismatchError: the table at `uri` is no LongTake table, or another format version's.
        """
        found = {
            key.decode()[len(_PREFIX) :]: json.loads(value)
            for key, value in (metadata or {}).items()
            if key.decode().startswith(_PREFIX)
        }
        if found.get("format") not in FORMATS:
            raise IndexMismatchError(
                f"{uri}: index format {found.get('format', 'unknown')}, and this version of LongTake reads "
                + " and ".join(map(str, FORMATS))
            )
        known = {field.name for field in dataclasses.fields(IndexMetadata)}
        try:
            return IndexMetadata(**{key: value for key, value in found.items() if key in known})
        except TypeError as error:
            raise IndexMismatchError(f"{uri}: the table's metadata is incomplete ({error})") from error

    def require_model(self, fingerprint: str, model: str, uri: str) -> None:
        """Refuse a model other than the one that wrote the index.

        Raises:
            IndexMismatchError: the fingerprints differ.
        """
        if fingerprint != self.fingerprint:
            raise IndexMismatchError(
                f"{uri}: indexed with model {self.model} ({self.fingerprint}), not {model} ({fingerprint}); "
                "use that model, another index, or --rebuild to index everything again"
            )

    def require_settings(self, wanted: IndexMetadata, uri: str) -> None:
        """Refuse rows of another shape or compression than those that the index holds.

        Raises:
            IndexMismatchError: they differ.
        """
        if (self.kind, self.width) != (wanted.kind, wanted.width) or self._settings != wanted._settings:
            raise IndexMismatchError(
                f"{uri}: holds {self.describe_tokens()}, not {wanted.describe_tokens()}; "
                "use these settings, another index, or --rebuild to index everything again"
            )

    @property
    def _settings(self) -> tuple[object, ...]:
        return self.tokens, self.combiner, self.snippet_frames, self.most_tokens_a_step

    def describe_tokens(self) -> str:
        """For people: how many tokens a snippet, and how they were made."""
        if self.kind == "longtake":
            return f"{self.tokens} x {self.width} tokens a snippet"
        kept = f"at most {self.tokens}" if self.tokens else "all"
        return (
            f"{kept} tokens (x {self.width}) a snippet of {self.snippet_frames} pictures, {self.most_tokens_a_step} a "
            f"step before the combiner {self.combiner}"
        )
