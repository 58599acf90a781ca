"""The sequence that a language model reads for a video: which token stands where, and at which position.

A layout is computed from what the video was before compression; stored tokens take the positions that they had there,
so that positions have gaps where something was dropped. Text that only introduces dropped tokens goes with them.

Shapes: S entries of the sequence, A axes of position (1, or 3: time, row, column).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

# How a video is laid out: as the model was trained, or as the installed transformers does where that differs.
Positions = Literal["trained", "hf"]

# In place of a token id: a stored token, or the vector that LLaVA-OneVision puts after a video.
STORED, NEWLINE = -1, -2


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A laid out video prefix.

    `ids_S` are token ids, STORED or NEWLINE; `stored_S` is the number of the stored token, -1 for others;
    `positions_AS` are the positions, and `next_position` is where the text after the video goes on. All int64.
    """

    ids_S: Tensor
    stored_S: Tensor
    positions_AS: Tensor
    next_position: int

    def __len__(self) -> int:
        return len(self.ids_S)

    def text_positions(self, count: int, start: int | None = None) -> Tensor:
        """Positions of text after the video, int64 [A, count]: the same on every axis."""
        first = self.next_position if start is None else start
        return torch.arange(first, first + count).expand(len(self.positions_AS), -1)


@dataclass(kw_only=True)
class LayoutBuilder:
    """Collects a layout piece by piece."""

    axes: int
    _ids: list[Tensor] = field(default_factory=list, init=False)
    _stored: list[Tensor] = field(default_factory=list, init=False)
    _positions: list[Tensor] = field(default_factory=list, init=False)

    def text(self, ids: Sequence[int], start: int) -> int:
        """Text at `start` and on; returns the position after it."""
        self._ids.append(torch.tensor(list(ids), dtype=torch.int64))
        self._stored.append(torch.full((len(ids),), -1))
        self._positions.append(torch.arange(start, start + len(ids)).expand(self.axes, -1))
        return start + len(ids)

    def stored(self, numbers_K: Tensor, positions_AK: Tensor) -> None:
        """Stored tokens by number, at positions that the family computed."""
        self._ids.append(torch.full_like(numbers_K, STORED))
        self._stored.append(numbers_K)
        self._positions.append(positions_AK)

    def build(self, next_position: int) -> Layout:
        """The finished layout."""
        return Layout(
            ids_S=torch.cat(self._ids),
            stored_S=torch.cat(self._stored),
            positions_AS=torch.cat(self._positions, dim=1).long(),
            next_position=next_position,
        )


def in_order(*keys: Tensor) -> Tensor:
    """The order that sorts by the first key, then the second, ...; int64 indices, stable."""
    order = torch.arange(len(keys[0]))
    for key in reversed(keys):
        order = order[key[order].argsort(stable=True)]
    return order
