"""Pictures keep their aspect in the model's box, padded with black, and stand upright."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longtake.operators.model.config import ModelConfig
from longtake.pipeline.media.geometry import displayed_size, fit
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.snippets import Snippet, read_snippets

sides = st.integers(min_value=1, max_value=4000)
boxes = st.integers(min_value=1, max_value=512)


@settings(max_examples=300)
@given(
    sides,
    sides,
    st.fractions(min_value=Fraction(1, 4), max_value=4, max_denominator=100),
    st.sampled_from([0, 90, 180, 270]),
    boxes,
    boxes,
)
def test_a_picture_fits_its_box(
    width: int, height: int, aspect: Fraction, rotation: int, box_height: int, box_width: int
) -> None:
    placement = fit(width, height, aspect, rotation, box_height, box_width)
    rows, columns = placement.height, placement.width
    if rotation in (90, 270):
        rows, columns = columns, rows
    assert placement.top + rows <= box_height and placement.left + columns <= box_width
    # It touches two opposite sides, and is centred between the others.
    assert rows == box_height or columns == box_width
    assert 0 <= box_height - rows - 2 * placement.top <= 1 and 0 <= box_width - columns - 2 * placement.left <= 1
    # The aspect is kept to the pixel.
    shown_width, shown_height = width * aspect, Fraction(height)
    if rotation in (90, 270):
        shown_width, shown_height = shown_height, shown_width
    scale = min(box_width / shown_width, box_height / shown_height)
    assert columns == 1 or abs(columns - shown_width * scale) <= Fraction(1, 2)
    assert rows == 1 or abs(rows - shown_height * scale) <= Fraction(1, 2)


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_a_picture_is_turned_clockwise(rotation: int, corner: tuple[int, int]) -> None:
    coded = np.zeros((1, 4, 8, 3), np.uint8)
    coded[0, 0, 0] = 255
    height, width = (8, 4) if rotation in (90, 270) else (4, 8)
    placement = fit(8, 4, Fraction(1), rotation, height, width)
    placed = placement.place(coded)
    assert placed.shape == (1, height, width, 3)
    assert placed[0][corner].tolist() == [255, 255, 255] and int(placed.sum()) == 765


def test_sizes_as_shown() -> None:
    assert displayed_size(720, 576, Fraction(16, 11), 0) == (1047, 576)
    assert displayed_size(568, 320, Fraction(1), 90) == (320, 568)


@pytest.mark.parametrize("arguments", [(0, 4, Fraction(1), 0, 8, 8), (4, 4, Fraction(1), 45, 8, 8)])
def test_what_cannot_be_placed_is_refused(arguments: tuple[int, int, Fraction, int, int, int]) -> None:
    with pytest.raises(ValueError):
        fit(*arguments)


def test_wide_pixels_are_shown_wide(tmp_path: Path, config: ModelConfig, write_clip: Callable[..., Path]) -> None:
    """96 x 96 as coded with pixels twice as wide as high: a box of 64 x 64 shows it 64 wide and 32 high."""

    def picture(number: int) -> np.ndarray:  # type: ignore[type-arg]
        return np.full((96, 96, 3), 200, np.uint8)

    path = write_clip(tmp_path / "wide.mp4", frames=8, pictures=picture, sample_aspect=Fraction(2))
    for reader in ("pyav", "auto"):
        (snippet,) = read_snippets(probe(path), config, Sampling(frames=8), reader=reader)  # type: ignore[arg-type]
        assert isinstance(snippet, Snippet)
        lit = snippet.frames_FHWC[0].mean(axis=2) > 100
        assert lit[16:48].all() and not lit[:16].any() and not lit[48:].any()


def test_a_small_picture_averages_over_all_of_the_large_one(
    tmp_path: Path, config: ModelConfig, write_clip: Callable[..., Path]
) -> None:
    """Fine stripes of 640 x 640 become an even grey at 64 x 64 on both routes: nothing is skipped over."""

    def picture(number: int) -> np.ndarray:  # type: ignore[type-arg]
        stripes = np.zeros((640, 640, 3), np.uint8)
        stripes[:, ::4] = stripes[:, 1::4] = 255
        return stripes

    path = write_clip(tmp_path / "fine.mp4", frames=8, pictures=picture, options={"crf": "10"})
    for reader in ("pyav", "auto"):
        (snippet,) = read_snippets(probe(path), config, Sampling(frames=8), reader=reader)  # type: ignore[arg-type]
        assert isinstance(snippet, Snippet)
        inner = snippet.frames_FHWC[0][4:-4, 4:-4].astype(float)
        assert abs(inner.mean() - 127) < 8 and inner.std() < 8
