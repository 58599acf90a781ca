"""Things that were expensive to compute, kept by how recently they were used, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What can be kept."""

    @property
    def size_bytes(self) -> int: ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Sized)


class Kept(Generic[K, V]):
    """A store that drops what was used longest ago once it holds more than `most_bytes`; the newest always stays."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._held: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """What is kept under a key, which counts as used now; None where there is nothing."""
        value = self._held.get(key)
        if value is not None:
            self._held.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> V:
        """Keep something, and return it."""
        self._held[key] = value
        self._held.move_to_end(key)
        while len(self._held) > 1 and self.size_bytes > self.most_bytes:
            self._held.popitem(last=False)
        return value

    def drop(self, unwanted: Callable[[K], bool]) -> None:
        """Forget what lies under the keys that are not wanted any more."""
        for key in [key for key in self._held if unwanted(key)]:
            del self._held[key]

    @property
    def size_bytes(self) -> int:
        """What all of it takes."""
        return sum(value.size_bytes for value in self._held.values())
