"""The training batches of a track, drawn once and trained on by every variant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class BatchCache(Generic[T]):
    """The batches of one seed at a time, kept as they are drawn: a tenth of a run on a CPU is drawing them.

    Variants of a seed follow each other, so one seed's are enough: some 30 kB a batch of the quick budgets.
    """

    def __init__(self, draw: Callable[[int], Iterator[T]]) -> None:
        self._draw = draw
        self._seed: int | None = None
        self._kept: list[T] = []
        self._rest: Iterator[T] = iter(())

    def of(self, seed: int) -> Iterator[T]:
        """The batches of a seed in their order; no other seed's may be asked for meanwhile."""
        if seed != self._seed:
            self._seed, self._kept, self._rest = seed, [], self._draw(seed)
        place = 0
        while True:
            if place == len(self._kept):
                batch = next(self._rest, None)
                if batch is None:
                    return
                self._kept.append(batch)
            yield self._kept[place]
            place += 1
