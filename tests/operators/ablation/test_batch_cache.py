"""Batches that are drawn once for all variants of a seed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from longtake.operators.ablation.batch_cache import BatchCache


def test_each_batch_of_a_seed_is_drawn_once_and_in_order() -> None:
    drawn: list[tuple[int, int]] = []

    def draw(seed: int) -> Iterator[tuple[int, int]]:
        for step in range(4):
            drawn.append((seed, step))
            yield seed, step

    batches = BatchCache(draw)
    # A run that stops early, one that goes on from there, and a whole one.
    assert list(islice(batches.of(7), 2)) == [(7, 0), (7, 1)]
    assert list(islice(batches.of(7), 3)) == [(7, 0), (7, 1), (7, 2)]
    assert drawn == [(7, 0), (7, 1), (7, 2)]
    assert list(batches.of(7)) == list(batches.of(7)) == [(7, step) for step in range(4)]
    assert drawn == [(7, step) for step in range(4)]
    assert list(batches.of(8)) == [(8, step) for step in range(4)]
    assert len(drawn) == 8
