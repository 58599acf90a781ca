"""The training-free combiners: how many tokens, which, and where they stand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longtake.operators.vlm import SnippetTokens, combine
from longtake.operators.vlm.combiners import boxes, drop, merge, pool, shares
from longtake.operators.vlm.tokens import PICTURE, SOUND, VideoTokens, pad, unpad, whole_places

NAMES = ["pool", "merge", "drop"]


def snippet(grid: tuple[int, int, int] = (2, 3, 4), sounds: int = 0, seed: int = 0, **changes: Any) -> SnippetTokens:
    """A whole snippet of random tokens of width 8."""
    steps, rows, columns = grid
    tokens = torch.randn(steps * rows * columns + sounds, 8, generator=torch.Generator().manual_seed(seed))
    given = {
        "tokens_ND": tokens, "places_N4": whole_places(grid, sounds), "step_s": tuple(float(n) for n in range(steps)),
        "rows": rows, "columns": columns, "sounds": sounds, "sound_hz": 25.0 if sounds else 0.0,
    }  # fmt: skip
    return SnippetTokens(**(given | changes))


GRIDS = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))


@given(GRIDS, st.data())
def test_boxes_part_the_grid(grid: tuple[int, int, int], data: st.DataObject) -> None:
    cells = grid[0] * grid[1] * grid[2]
    count = data.draw(st.integers(1, cells))
    seen = torch.zeros(grid, dtype=torch.int64)
    for box in boxes(grid, count):
        part = tuple(slice(start, stop) for start, stop in box)
        assert seen[part].numel() >= 1
        seen[part] += 1
    assert bool((seen == 1).all()) and len(boxes(grid, count)) == count
    if count >= grid[0]:
        # Time first: with a token a step or more, no token spans two steps.
        assert all(box[0][1] - box[0][0] == 1 for box in boxes(grid, count))


def test_boxes_of_an_even_grid_are_even() -> None:
    sizes = {tuple(stop - start for start, stop in box) for box in boxes((2, 8, 8), 8)}
    assert sizes == {(1, 4, 4)}
    with pytest.raises(ValueError, match=r"9 boxes.*1 \.\.\. 8"):
        boxes((2, 2, 2), 9)


@given(GRIDS, st.integers(0, 20), st.sampled_from(NAMES), st.data())
def test_every_combiner_keeps_what_was_asked_for(
    grid: tuple[int, int, int], sounds: int, name: str, data: st.DataObject
) -> None:
    whole = snippet(grid, sounds)
    count = data.draw(st.integers(2, len(whole.tokens_ND) + 3))
    kept = combine(whole, name, count)
    assert len(kept.tokens_ND) == min(count, len(whole.tokens_ND))
    # Places are distinct places of the snippet; what the snippet was stays known.
    places = {tuple(place) for place in kept.places_N4.tolist()}
    assert len(places) == len(kept.tokens_ND) and places <= {tuple(place) for place in whole.places_N4.tolist()}
    assert (kept.step_s, kept.grid, kept.sounds) == (whole.step_s, whole.grid, whole.sounds)
    if sounds:
        assert (kept.places_N4[:, 0] == SOUND).any() and (kept.places_N4[:, 0] == PICTURE).any()
    again = combine(snippet(grid, sounds), name, count)
    assert torch.equal(kept.tokens_ND, again.tokens_ND) and torch.equal(kept.places_N4, again.places_N4)


def test_pool_takes_means_and_stands_in_the_middle() -> None:
    tokens = torch.arange(2 * 2 * 3.0)[:, None].expand(-1, 4)
    pooled, anchors = pool(tokens, (2, 2, 3), 2)
    assert pooled[:, 0].tolist() == [2.5, 8.5]
    assert anchors.tolist() == [1, 7]


def test_merge_joins_what_is_the_same_and_loses_nothing() -> None:
    unlike = torch.eye(4)
    merged, anchors = merge(unlike.repeat_interleave(2, 0), (1, 2, 4), 4)
    assert torch.equal(merged, unlike) and anchors.tolist() == [1, 3, 5, 7]
    # Weighted by what each side stands for: the mean of all is the mean of all.
    random = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    one, _ = merge(random, (1, 4, 4), 1)
    torch.testing.assert_close(one[0], random.mean(0))


def test_drop_keeps_what_changed_where_it_was() -> None:
    still = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(1)).expand(4, -1, -1).clone()
    _, kept = drop(still.flatten(0, 1), (4, 2, 3), 6)
    # Nothing changes: only the first step says anything.
    assert kept.tolist() == [0, 1, 2, 3, 4, 5]
    still[2, 4] *= -1
    values, kept = drop(still.flatten(0, 1), (4, 2, 3), 3)
    # The cell when it changes, and when it changes back.
    assert {2 * 6 + 4, 3 * 6 + 4} <= set(kept.tolist())
    assert torch.equal(values, still.flatten(0, 1)[kept])


def test_none_keeps_everything() -> None:
    whole = snippet(sounds=5)
    assert combine(whole, "none") is whole


@pytest.mark.parametrize(
    ("tokens", "pictures", "sounds", "wanted"),
    [(16, 96, 0, (16, 0)), (16, 96, 32, (12, 4)), (2, 1000, 1, (1, 1)), (10, 0, 50, (0, 10)), (60, 10, 100, (5, 55))],
)
def test_shares(tokens: int, pictures: int, sounds: int, wanted: tuple[int, int]) -> None:
    assert shares(tokens, pictures, sounds) == wanted


def test_what_cannot_be_combined_is_refused() -> None:
    whole = snippet(sounds=4)
    with pytest.raises(ValueError, match="pool, merge, drop, none"):
        combine(whole, "ttm", 4)
    with pytest.raises(ValueError, match="at least 1"):
        combine(whole, "pool", 0)
    with pytest.raises(ValueError, match="keeps every token"):
        combine(whole, "none", 4)
    with pytest.raises(ValueError, match="at least 2 tokens"):
        combine(whole, "drop", 1)
    with pytest.raises(ValueError, match="compressed before"):
        combine(combine(whole, "pool", 8), "pool", 4)


def test_tokens_that_make_no_sense_cannot_exist() -> None:
    with pytest.raises(ValueError, match="step times must rise"):
        snippet((2, 1, 1), step_s=(1.0, 1.0))
    with pytest.raises(ValueError, match="outside of the grid"):
        snippet((2, 2, 2), rows=1)
    with pytest.raises(ValueError, match="wanted floats"):
        snippet((1, 1, 1), tokens_ND=torch.zeros(1, 8, dtype=torch.int8))
    with pytest.raises(ValueError, match=r"wanted int16 \[1, 4\]"):
        snippet((1, 1, 1), places_N4=torch.zeros(1, 4))
    with pytest.raises(ValueError, match="at least one snippet"):
        VideoTokens(snippets=())
    with pytest.raises(ValueError, match="fixed for a whole video"):
        VideoTokens(snippets=(snippet((1, 2, 2)), snippet((1, 2, 3), step_s=(5.0,))))
    with pytest.raises(ValueError, match="must rise through the video"):
        VideoTokens(snippets=(snippet((2, 2, 2)), snippet((2, 2, 2))))


def test_a_fixed_size_and_back() -> None:
    kept = combine(snippet(sounds=4), "drop", 9)
    tokens, places = pad(kept, 12)
    assert tokens.shape == (12, 8) and places.shape == (12, 4)
    back: tuple[Tensor, Tensor] = unpad(tokens, places)
    assert torch.equal(back[0], kept.tokens_ND) and torch.equal(back[1], kept.places_N4)
    with pytest.raises(ValueError, match="9 tokens do not fit into 8"):
        pad(kept, 8)
