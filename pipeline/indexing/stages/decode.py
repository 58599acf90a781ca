"""The decode stage: segments in, pictures at the model's size out. It holds nothing between calls."""

from __future__ import annotations

import dataclasses

from longtake.pipeline.media.decode import decode_segment, nothing
from longtake.pipeline.media.segment import Pictures, Reader, Segment


class DecodeStage:
    """Decodes on one thread: many of these work side by side."""

    def __init__(self, reader: Reader) -> None:
        self._reader: Reader = reader

    def decode(self, segment: Segment) -> tuple[None, Pictures]:
        """A segment's pictures. A second try takes the same route: the two routes' pixels differ a little."""
        return None, decode_segment(segment, reader=self._reader)

    def give_up(self, segment: Segment, error: str, message: str) -> tuple[None, Pictures]:
        """The pictures of a segment that no decoder survives: none, with the reason on record."""
        empty = nothing(segment, segment.route, RuntimeError(message))
        [damage] = empty.damage
        return None, dataclasses.replace(empty, damage=(dataclasses.replace(damage, error=error, message=message),))
