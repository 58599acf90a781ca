"""The plain call is transformers' own; ours agrees with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torchvision")

from longtake.operators.bench.plain_vlm import PlainCall
from longtake.operators.vlm import Decoding, VLMAnswerer, read_video

QUESTION = "which colour was on the screen?"


@pytest.mark.parametrize("family", ["qwen3_5", "llava_onevision", "qwen2_5_omni", "qwen2_5_vl"])
def test_ours_agrees_with_the_plain_call(
    scene: Callable[..., Any], directory: Callable[[str], Path], family: str
) -> None:
    made, plain = scene(family), PlainCall(directory(family))
    times_s = [time_s for clip in made.clips() for time_s in clip.times_s]
    prefix, answerer = read_video(made.vlm, made.video(), positions="hf"), VLMAnswerer(made.vlm)
    own = answerer.question_logits(prefix, QUESTION)
    wanted = plain.logits(made.frames_FHWC, times_s, QUESTION, len(own))
    assert float((own - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    stream = answerer.stream(prefix, QUESTION, Decoding(limit=1))
    stream.finish()
    first = plain.first_token(made.frames_FHWC, times_s, QUESTION)
    assert [first] == stream.spoken.ids or first in made.vlm.end_ids
    assert first == int(wanted[-1].argmax())
