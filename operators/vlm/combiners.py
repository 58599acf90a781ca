"""Training-free compression of a snippet, in the model's own feature space: pool, merge, drop, none.

A pretrained language model reads vectors that look like its projector's output; means and subsets of them do, learned
summaries do not (without fine-tuning). Every kept token keeps the place of one original token:

- `pool`: the grid is halved again and again, time first, until there are as many boxes as tokens; a token is the mean
  of its box and stands at the box's member nearest the middle.
- `merge`: similarity merge (ToMe, arXiv 2210.09461): of the tokens in turn every other one may join the most similar
  of the rest, likeliest pairs first, means weighted by how many tokens each side stands for; the merged token keeps
  the place of the one that was joined.
- `drop`: temporal difference drop (as TimeChat-Online, arXiv 2504.17343): a token counts by 1 - cosine to the same cell
  one step before, on the snippet's first step to the mean of its picture (a snippet must stand alone); the highest
  counts stay, unchanged, in place.
- `none`: everything.

Sound tokens are compressed apart from pictures, as a line in time; the tokens are shared out by how many there were.
All four are deterministic: ties go to the earlier token.

Shapes: N tokens before, K after, D width; a grid is (steps, rows, columns).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from longtake.operators.vlm.tokens import PICTURE, SOUND, SnippetTokens

CombinerName = Literal["pool", "merge", "drop", "none"]
Grid = tuple[int, int, int]


def combine(snippet: SnippetTokens, name: str, tokens: int | None = None) -> SnippetTokens:
    """Compress one whole snippet to `tokens` tokens, or to what it has where that is less.

    Raises:
        ValueError: an unknown combiner, no positive number of tokens (for `none`: any number), a snippet that was
            compressed before, or fewer tokens than kinds (a snippet with sound keeps at least one of each).
    """
    if name not in get_args(CombinerName):
        raise ValueError(f"combiner {name!r}; the training-free ones are {', '.join(get_args(CombinerName))}")
    if name == "none":
        if tokens is not None:
            raise ValueError(f"the combiner none keeps every token; {tokens} tokens were asked for")
        return snippet
    if tokens is None or tokens < 1:
        raise ValueError(f"the combiner {name} needs a number of tokens, at least 1, not {tokens}")
    if not snippet.is_whole:
        raise ValueError("the snippet was compressed before; combine whole snippets")
    if len(snippet.tokens_ND) <= tokens:
        return snippet
    pictures = len(snippet.tokens_ND) - snippet.sounds
    seen, heard = shares(tokens, pictures, snippet.sounds)
    kept_KD, places_K4 = [], []
    for kind, count, grid, first in (
        (PICTURE, seen, snippet.grid, 0),
        (SOUND, heard, (snippet.sounds, 1, 1), pictures),
    ):
        if count == 0:
            continue
        size = grid[0] * grid[1] * grid[2]
        made_KD, anchor_K = _COMBINERS[name](snippet.tokens_ND[first : first + size], grid, count)
        kept_KD.append(made_KD)
        anchor_K = anchor_K.cpu()
        columns = [torch.full_like(anchor_K, kind), *torch.unravel_index(anchor_K, grid)]
        places_K4.append(torch.stack(columns, dim=1).to(torch.int16))
    return replace(snippet, tokens_ND=torch.cat(kept_KD), places_N4=torch.cat(places_K4).to(snippet.places_N4.device))


def shares(tokens: int, pictures: int, sounds: int) -> tuple[int, int]:
    """How many of `tokens` go to pictures and to sound: by how many there were, at least one each."""
    if sounds == 0 or pictures == 0:
        return min(tokens, pictures), min(tokens, sounds)
    if tokens < 2:
        raise ValueError("a snippet with pictures and sound needs at least 2 tokens")
    heard = min(max(1, round(tokens * sounds / (pictures + sounds))), tokens - 1, sounds)
    seen = min(tokens - heard, pictures)
    return seen, min(tokens - seen, sounds)


@lru_cache(maxsize=64)
def boxes(grid: Grid, count: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The grid cut into `count` boxes of nearly equal size, time first; each box is three (start, stop) ranges.

    Raises:
        ValueError: fewer cells than boxes, or no box.
    """
    if not 1 <= count <= grid[0] * grid[1] * grid[2]:
        raise ValueError(f"{count} boxes in a grid of {grid}: wanted 1 ... {grid[0] * grid[1] * grid[2]}")

    def cut(box: tuple[tuple[int, int], ...], parts: int) -> list[tuple[tuple[int, int], ...]]:
        if parts == 1:
            return [box]
        sides = [stop - start for start, stop in box]
        # Time first: a token that spans several steps blurs what happened when.
        axis = 0 if sides[0] > 1 else max((1, 2), key=lambda one: sides[one])
        start, stop = box[axis]
        middle = start + (stop - start) // 2
        cells = sides[0] * sides[1] * sides[2]
        left = cells // sides[axis] * (middle - start)
        share = min(max(round(parts * left / cells), 1, parts - (cells - left)), parts - 1, left)
        halves = ((start, middle), (middle, stop))
        low, high = ((*box[:axis], half, *box[axis + 1 :]) for half in halves)
        return cut(low, share) + cut(high, parts - share)

    whole = tuple((0, side) for side in grid)
    return tuple(cut(whole, count))


@lru_cache(maxsize=64)
def _pooling(grid: Grid, count: int) -> tuple[Tensor, Tensor]:
    """Weights of the means, float32 [K, N], and the anchors, int64 [K]."""
    index = torch.arange(grid[0] * grid[1] * grid[2]).reshape(grid)
    weights_KN, anchor_K = torch.zeros(count, index.numel()), torch.zeros(count, dtype=torch.int64)
    for row, box in enumerate(boxes(grid, count)):
        inside = index[tuple(slice(start, stop) for start, stop in box)]
        weights_KN[row, inside.flatten()] = 1 / inside.numel()
        anchor_K[row] = inside[tuple((side - 1) // 2 for side in inside.shape)]
    return weights_KN, anchor_K


def pool(tokens_ND: Tensor, grid: Grid, count: int) -> tuple[Tensor, Tensor]:
    """Means of `count` boxes, [K, D] in the tokens' dtype, and their anchors, int64 [K]."""
    weights_KN, anchor_K = _pooling(grid, count)
    return (weights_KN.to(tokens_ND.device) @ tokens_ND.float()).to(tokens_ND.dtype), anchor_K


def merge(tokens_ND: Tensor, grid: Grid, count: int) -> tuple[Tensor, Tensor]:
    """The tokens merged by similarity down to `count`, [K, D], in the order of their anchors, int64 [K]."""
    values_ND = tokens_ND.float()
    anchor_N = torch.arange(len(tokens_ND), device=tokens_ND.device)
    size_N = torch.ones(len(tokens_ND), device=tokens_ND.device)
    while len(values_ND) > count:
        joining, staying = slice(0, None, 2), slice(1, None, 2)
        unit_ND = normalize(values_ND, dim=-1)
        likeness_A, target_A = (unit_ND[joining] @ unit_ND[staying].T).max(dim=1)
        pairs = min(len(values_ND) - count, len(likeness_A))
        chosen_P = likeness_A.argsort(descending=True, stable=True)[:pairs]
        source_P, target_P = chosen_P * 2, target_A[chosen_P] * 2 + 1
        # A product instead of scatter_add: the same sum in the same order on every device.
        flow_NN = torch.eye(len(values_ND), device=values_ND.device)
        flow_NN[source_P, source_P] = 0
        flow_NN[target_P, source_P] = 1
        total_N = flow_NN @ size_N
        summed_ND = flow_NN @ (values_ND * size_N[:, None])
        keep_N = torch.ones_like(anchor_N, dtype=torch.bool)
        keep_N[source_P] = False
        values_ND, size_N, anchor_N = summed_ND[keep_N] / total_N[keep_N, None], total_N[keep_N], anchor_N[keep_N]
    return values_ND.to(tokens_ND.dtype), anchor_N


def drop(tokens_ND: Tensor, grid: Grid, count: int) -> tuple[Tensor, Tensor]:
    """The `count` tokens that differ most from the step before, unchanged, [K, D], and their places, int64 [K]."""
    unit_TCD = normalize(tokens_ND.float(), dim=-1).unflatten(0, (grid[0], grid[1] * grid[2]))
    # Of a line of sound the first token has no picture to differ from: it counts fully.
    first_1D = normalize(unit_TCD[0].mean(0, keepdim=True), dim=-1) if unit_TCD.shape[1] > 1 else unit_TCD[0] * 0
    before_TCD = torch.cat([first_1D.expand_as(unit_TCD[:1]), unit_TCD[:-1]])
    change_N = 1 - (unit_TCD * before_TCD).sum(-1).flatten()
    kept_K = change_N.argsort(descending=True, stable=True)[:count].sort().values
    return tokens_ND[kept_K], kept_K


_COMBINERS = {"pool": pool, "merge": merge, "drop": drop}
