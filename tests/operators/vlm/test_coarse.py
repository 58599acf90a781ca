"""The first look: one token a step where the step stood, and the positions of the rest untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from longtake.operators.vlm import VideoTokens, VLMAnswerer, read_video
from longtake.operators.vlm.coarse import coarse
from longtake.operators.vlm.tokens import PICTURE, SOUND

QUESTION = "which colour was on the screen?"


@pytest.mark.parametrize("family", ["qwen3_5", "llava_onevision", "qwen2_5_omni"])
def test_a_step_becomes_the_mean_of_its_tokens_in_its_place(scene: Callable[..., Any], family: str) -> None:
    video: VideoTokens = scene(family, sound=family == "qwen2_5_omni").video()
    for whole, made in zip(video.snippets, coarse(video).snippets, strict=True):
        seen = made.places_N4[:, 0] == PICTURE
        assert made.places_N4[seen, 1].tolist() == list(range(len(whole.step_s)))
        assert set(map(tuple, made.places_N4[seen, 2:].tolist())) == {((whole.rows - 1) // 2, (whole.columns - 1) // 2)}
        cells = len(whole.step_s) * whole.rows * whole.columns
        means = whole.tokens_ND[:cells].unflatten(0, (len(whole.step_s), -1)).mean(1)
        torch.testing.assert_close(made.tokens_ND[seen], means)
        heard = made.places_N4[made.places_N4[:, 0] == SOUND]
        assert len(heard) == (len(whole.step_s) if whole.sounds else 0)
        if whole.sounds:
            torch.testing.assert_close(made.tokens_ND[~seen].mean(0), whole.tokens_ND[cells:].mean(0), atol=0.1, rtol=0)
            assert heard[:, 1].diff().gt(0).all() and int(heard[-1, 1]) < whole.sounds
        assert (made.step_s, made.rows, made.columns, made.sounds) == (
            whole.step_s, whole.rows, whole.columns, whole.sounds
        )  # fmt: skip
    assert read_video(scene(family).vlm, coarse(video)).layout.next_position == (
        read_video(scene(family).vlm, video).layout.next_position
    )


def test_a_step_of_which_nothing_was_stored_has_no_token(scene: Callable[..., Any]) -> None:
    video = scene("qwen3_5").video(combiner="drop", tokens=1)
    made = coarse(video)
    for stored, one in zip(video.snippets, made.snippets, strict=True):
        assert torch.equal(one.tokens_ND, stored.tokens_ND)
        assert torch.equal(one.places_N4[:, 1], stored.places_N4[:, 1])


def test_evidence_is_where_the_first_token_of_the_answer_is_read_off(scene: Callable[..., Any]) -> None:
    made = scene("qwen3_5")
    prefix, answerer = read_video(made.vlm, made.video()), VLMAnswerer(made.vlm)
    weights_T = answerer.evidence(prefix, QUESTION)
    assert weights_T.shape == (3,) and float(weights_T.sum()) == pytest.approx(1)
    stream = answerer.stream(prefix, QUESTION)
    next(stream)
    (first, *_) = stream.spoken.evidence
    sums = torch.zeros(3).index_add_(0, prefix.snippet_S[prefix.snippet_S >= 0], first[0, prefix.snippet_S >= 0])
    torch.testing.assert_close(weights_T, sums / sums.sum())
