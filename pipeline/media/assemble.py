"""Pictures, sound and subtitles joined to snippets, window by window, as soon as each window is whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from longtake.pipeline.media.geometry import PictureFormat
from longtake.pipeline.media.model_input import ModelInput
from longtake.pipeline.media.plan import Plan, Window
from longtake.pipeline.media.segment import Cue, Damage, End, Pictures, SoundChunk
from longtake.pipeline.media.snippet import Snippet

Decoded: TypeAlias = Pictures | SoundChunk | Cue | Damage | End


class Assembler:
    """What `demux` yields in, each Segment replaced by its `Pictures`, in the same order; snippets out, in order.

    Holds the pictures and the sound of the windows that are not whole yet, and nothing else.
    """

    def __init__(
        self, model_input: ModelInput, plan: Plan, form: PictureFormat, *, has_sound: bool, first: int = 0
    ) -> None:
        """`first`: the first snippet that is wanted (it must be the one that `demux` was given)."""
        self._frames, self._plan, self._form = model_input.frames, plan, form
        self._next = first
        self._sound = model_input.sound(plan.window_start_ns(first))
        if not has_sound:
            self._sound.end()
        self._pictures: deque[Pictures] = deque()
        self._cues: list[Cue] = []
        self._known_ns = 0
        self._end_ns: int | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the pictures that wait here."""
        return sum(p.size_bytes for p in self._pictures)

    def push(self, item: Decoded) -> Iterator[Snippet | Damage]:
        """Take the next item; yields the snippets that it completes, and damage as it is met."""
        if isinstance(item, Pictures):
            yield from item.damage
            self._pictures.append(item)
            self._known_ns = max(self._known_ns, item.stop_ns)
        elif isinstance(item, SoundChunk):
            self._sound.push(item)
        elif isinstance(item, Cue):
            self._cues.append(item)
        elif isinstance(item, Damage):
            yield item
        else:
            self._end_ns = item.end_ns
            self._sound.end()
        yield from self._whole()

    def _whole(self) -> Iterator[Snippet | Damage]:
        while True:
            if self._end_ns is not None:
                if self._next >= self._plan.count_windows(self._end_ns):
                    return
                window = self._plan.window(self._next, self._end_ns)
            elif self._plan.is_whole(self._next, self._known_ns):
                window = self._plan.window(self._next)
                if not self._sound.covers(window.stop_ns):
                    return
            else:
                return
            self._next += 1
            yield self._join(window)

    def _join(self, window: Window) -> Snippet | Damage:
        count, form = self._frames, self._form
        frames = np.zeros((count, form.height, form.width, 3), dtype=np.uint8)
        mask = np.zeros(count, dtype=np.bool_)
        first = window.index * count
        for pictures in self._pictures:
            start = max(first, pictures.first_sample)
            stop = min(first + count, pictures.first_sample + len(pictures.mask_N))
            if start < stop:
                into, out = (
                    slice(start - first, stop - first),
                    slice(start - pictures.first_sample, stop - pictures.first_sample),
                )
                frames[into] = pictures.frames_NHWC[out]
                mask[into] = pictures.mask_N[out]
        frames[~mask] = 0
        following = first + count
        while self._pictures and self._pictures[0].first_sample + len(self._pictures[0].mask_N) <= following:
            self._pictures.popleft()
        mel, mel_mask = self._sound.window(window.start_ns, window.stop_ns)
        text = "\n".join(c.text for c in self._cues if c.start_ns < window.stop_ns and c.stop_ns > window.start_ns)
        self._cues = [c for c in self._cues if c.stop_ns > window.stop_ns]
        if not mask.any():
            return Damage(
                stage="decode",
                start_ns=window.start_ns,
                stop_ns=window.stop_ns,
                error="NoPicture",
                message=f"snippet {window.index} has no picture that could be decoded",
            )
        return Snippet(
            index=window.index,
            start_ns=window.start_ns,
            stop_ns=window.stop_ns,
            frames_FHWC=frames,
            frame_mask_F=mask,
            sound_AM=mel,
            mel_mask_A=mel_mask,
            text=text,
        )
