"""What is kept of earlier questions stays within its bound, the most recently used first."""

from __future__ import annotations

from dataclasses import dataclass

from longtake.pipeline.answering.byte_cache import Kept


@dataclass(frozen=True)
class Thing:
    size_bytes: int


def test_what_was_used_longest_ago_goes_first_and_the_newest_stays() -> None:
    kept: Kept[str, Thing] = Kept(10)
    one, three = kept.put("one", Thing(4)), Thing(5)
    kept.put("two", Thing(4))
    assert kept.get("one") is one and kept.size_bytes == 8
    kept.put("three", three)
    assert kept.get("two") is None
    assert kept.get("one") is one and kept.get("three") is three and kept.size_bytes == 9
    large = kept.put("large", Thing(100))
    assert kept.get("large") is large and kept.size_bytes == 100


def test_a_key_put_again_replaces_what_was_there() -> None:
    kept: Kept[str, Thing] = Kept(10)
    kept.put("one", Thing(4))
    assert kept.put("one", Thing(6)) is kept.get("one")
    assert kept.size_bytes == 6


def test_unwanted_keys_are_dropped() -> None:
    kept: Kept[tuple[str, int], Thing] = Kept(10)
    for key in (("a", 1), ("a", 2), ("b", 1)):
        kept.put(key, Thing(1))
    kept.drop(lambda key: key[0] == "a")
    assert kept.size_bytes == 1 and kept.get(("b", 1)) is not None
