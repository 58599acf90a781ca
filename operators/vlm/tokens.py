"""What is stored of a video for a public model: tokens in the model's own feature space, and where each one belongs.

Shapes: N tokens of a snippet, T steps of its pictures (a step is one picture, or the two that Qwen reads together),
D width of the language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

PICTURE, SOUND = 0, 1
# The kind of a row that only fills a fixed-size list.
PADDING = -1


@dataclass(frozen=True, kw_only=True)
class SnippetTokens:
    """One snippet, whole or compressed.

    `tokens_ND` is floating point. `places_N4` is int16: for each token its kind (PICTURE or SOUND), and the step, row
    and column of the grid that it came from, counted from the snippet's start; of a sound token `step` counts sound
    tokens and row and column are 0. `step_s` are the times of all T steps on the video's clock, seconds; `rows`,
    `columns` the grid of one step and `sounds` the number of sound tokens, all before compression: positions are
    computed from what the snippet was, not from what was kept of it. `sound_hz` is the rate of sound tokens.
    """

    tokens_ND: Tensor
    places_N4: Tensor
    step_s: tuple[float, ...]
    rows: int
    columns: int
    sounds: int = 0
    sound_hz: float = 0.0
    start_s: float = 0.0

    def __post_init__(self) -> None:
        count = len(self.tokens_ND)
        if self.tokens_ND.ndim != 2 or not self.tokens_ND.is_floating_point():
            raise ValueError(f"tokens are {self.tokens_ND.dtype} {tuple(self.tokens_ND.shape)}; wanted floats [N, D]")
        if tuple(self.places_N4.shape) != (count, 4) or self.places_N4.dtype != torch.int16:
            raise ValueError(
                f"places are {self.places_N4.dtype} {tuple(self.places_N4.shape)}; wanted int16 [{count}, 4]"
            )
        if any(later <= earlier for earlier, later in pairwise(self.step_s)):
            raise ValueError(f"step times must rise, not {self.step_s}")
        limits = torch.tensor([[len(self.step_s), self.rows, self.columns], [self.sounds, 1, 1]])
        kind_N, place_N3 = self.places_N4[:, 0].long().cpu(), self.places_N4[:, 1:].long().cpu()
        if count and not bool(((kind_N == PICTURE) | (kind_N == SOUND)).all()):
            raise ValueError(f"kinds of tokens are {PICTURE} and {SOUND}, not {sorted(set(kind_N.tolist()))}")
        if count and not bool(((place_N3 >= 0) & (place_N3 < limits[kind_N])).all()):
            raise ValueError(f"a token lies outside of the grid {self.grid} and {self.sounds} sound tokens")

    @property
    def grid(self) -> tuple[int, int, int]:
        """Steps, rows and columns of the pictures before compression."""
        return len(self.step_s), self.rows, self.columns

    @property
    def is_whole(self) -> bool:
        """Whether nothing was dropped or merged yet."""
        return bool(torch.equal(self.places_N4.cpu(), whole_places(self.grid, self.sounds)))

    def times_s(self) -> Tensor:
        """When each token was seen or heard, float64 [N], on the video's clock."""
        step_N = self.places_N4[:, 1].long().cpu()
        heard_N = self.start_s + step_N.double() / (self.sound_hz or 1.0)
        if not self.step_s:
            return heard_N
        seen_N = torch.tensor(self.step_s, dtype=torch.float64)[step_N.clamp_max(len(self.step_s) - 1)]
        return torch.where(self.places_N4[:, 0].cpu() == PICTURE, seen_N, heard_N)


def pad(snippet: SnippetTokens, count: int) -> tuple[Tensor, Tensor]:
    """Tokens [count, D] and places int16 [count, 4] of fixed size, for a table; the rows after the tokens are padding.

    Raises:
        ValueError: the snippet has more tokens than that.
    """
    short = count - len(snippet.tokens_ND)
    if short < 0:
        raise ValueError(f"{len(snippet.tokens_ND)} tokens do not fit into {count}")
    tokens_ND = torch.cat([snippet.tokens_ND, snippet.tokens_ND.new_zeros(short, snippet.tokens_ND.shape[1])])
    filler_S4 = torch.full((short, 4), PADDING, dtype=torch.int16, device=snippet.places_N4.device)
    return tokens_ND, torch.cat([snippet.places_N4, filler_S4])


def unpad(tokens_ND: Tensor, places_N4: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that are tokens: what `pad` was given."""
    real_N = places_N4[:, 0] != PADDING
    return tokens_ND[real_N], places_N4[real_N]


def whole_places(grid: tuple[int, int, int], sounds: int) -> Tensor:
    """The places of a snippet that nothing was taken from: pictures by step, row and column, then the sound."""
    steps, rows, columns = grid
    axes = torch.meshgrid(torch.arange(steps), torch.arange(rows), torch.arange(columns), indexing="ij")
    pictures = torch.stack([torch.full((steps * rows * columns,), PICTURE), *(axis.flatten() for axis in axes)], dim=1)
    sound = torch.zeros(sounds, 4, dtype=torch.int64)
    sound[:, 0], sound[:, 1] = SOUND, torch.arange(sounds)
    return torch.cat([pictures, sound]).to(torch.int16)


@dataclass(frozen=True, kw_only=True)
class VideoTokens:
    """All stored snippets of one video, in order. Steps count on from snippet to snippet; sound tokens are numbered by
    time, from the first snippet's start, so that a hole in the sound moves nothing after it."""

    snippets: tuple[SnippetTokens, ...]

    def __post_init__(self) -> None:
        if not self.snippets:
            raise ValueError("a video needs at least one snippet")
        grids = {(snippet.rows, snippet.columns) for snippet in self.snippets if snippet.step_s}
        if len(grids) > 1:
            raise ValueError(f"the frame size is fixed for a whole video; these grids differ: {sorted(grids)}")
        times = self.step_s
        if any(later <= earlier for earlier, later in pairwise(times)):
            raise ValueError("the snippets' step times must rise through the video")
        heard = [(self._first_sound(snippet), snippet.sounds) for snippet in self.snippets if snippet.sounds]
        if any(later < earlier + count for (earlier, count), (later, _) in pairwise(heard)):
            raise ValueError("the snippets' sound must not overlap: their start_s must rise by what they hold")

    def _first_sound(self, snippet: SnippetTokens) -> int:
        """The number of a snippet's first sound token."""
        return round((snippet.start_s - self.snippets[0].start_s) * snippet.sound_hz)

    @property
    def rows(self) -> int:
        """Rows of one step's grid."""
        return max(snippet.rows for snippet in self.snippets)

    @property
    def columns(self) -> int:
        """Columns of one step's grid."""
        return max(snippet.columns for snippet in self.snippets)

    @cached_property
    def step_s(self) -> tuple[float, ...]:
        """Times of all steps of the video."""
        return tuple(time_s for snippet in self.snippets for time_s in snippet.step_s)

    @property
    def sounds(self) -> int:
        """The number after the last sound token's, before compression; 0 without sound."""
        ends = [self._first_sound(snippet) + snippet.sounds for snippet in self.snippets if snippet.sounds]
        return max(ends, default=0)

    @cached_property
    def tokens_SD(self) -> Tensor:
        """All stored tokens, [S, D]."""
        return torch.cat([snippet.tokens_ND for snippet in self.snippets])

    @cached_property
    def snippet_S(self) -> Tensor:
        """The number of the snippet that each stored token belongs to, int64 [S]."""
        counts = torch.tensor([len(snippet.tokens_ND) for snippet in self.snippets])
        return torch.repeat_interleave(torch.arange(len(self.snippets)), counts)

    @cached_property
    def places_S4(self) -> Tensor:
        """Kind, step, row and column of each stored token, int64 [S, 4], steps counted through the whole video."""
        parts, steps = [], 0
        for snippet in self.snippets:
            places_N4 = snippet.places_N4.long().cpu().clone()
            places_N4[:, 1] += torch.where(places_N4[:, 0] == PICTURE, steps, self._first_sound(snippet))
            parts.append(places_N4)
            steps += len(snippet.step_s)
        return torch.cat(parts)

    def span(self, start_s: float, stop_s: float) -> Tensor:
        """Which stored tokens lie in [start_s, stop_s), bool [S]."""
        times_S = torch.cat([snippet.times_s() for snippet in self.snippets])
        return (times_S >= start_s) & (times_S < stop_s)

    def of_snippets(self, mask_T: Tensor) -> Tensor:
        """Which stored tokens belong to the snippets of a bool mask [T], bool [S].

        Raises:
            ValueError: the mask is of another video's length.
        """
        if mask_T.shape != (len(self.snippets),):
            raise ValueError(f"the span mask is {tuple(mask_T.shape)}; the video has {len(self.snippets)} snippets")
        return mask_T.cpu().bool()[self.snippet_S]
