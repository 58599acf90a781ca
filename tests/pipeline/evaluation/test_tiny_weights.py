"""The shipped weights, from real files through the single-process path: right on made videos, silent on real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.pipeline.evaluation.through_files import answered, latents_of

from longtake.operators.model.answering import Answerer
from longtake.operators.model.checkpoint import load_model
from longtake.operators.synthetic.questions import NOTHING
from longtake.operators.synthetic.script import COLOURS, SHAPES, SOUNDS, write_script
from longtake.operators.synthetic.worlds import BUILT_IN


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    return Answerer(load_model("tiny"))


def test_made_videos_are_understood(answerer: Answerer, tmp_path: Path) -> None:
    scripts = [write_script(910_000 + number, 64) for number in range(3)]
    asked = answered(answerer, BUILT_IN, scripts, tmp_path, 2)
    assert len(asked) == 54
    right = sum(answer == question.answer for question, answer in asked)
    assert right / len(asked) >= 0.9, f"{right} of {len(asked)}"


@pytest.mark.parametrize("name", ["big_buck_bunny_30s.webm", "chaplin.mp4"])
def test_real_footage_holds_nothing_of_the_made_world(answerer: Answerer, media: Path, name: str) -> None:
    seen = latents_of(answerer, media / name)
    starts = ("What", "Which colour", "Which shape")
    open_questions = [f"{start} was shown when the border flashed?" for start in starts]
    for sound in SOUNDS:
        open_questions += [f"{start} was on screen while the {sound} sounded?" for start in starts]
        open_questions += [
            f"{start} was on screen the {word} time the {sound} sounded?"
            for start in starts
            for word in ("first", "last")
        ]
    closed = ["Did the border flash?", *(f"Did the {sound} sound?" for sound in SOUNDS)]
    closed += [f"Was a {colour} {shape} shown?" for colour in COLOURS for shape in SHAPES]
    nothing = [answerer.answer(seen, question).text == NOTHING for question in open_questions]
    no = [answerer.answer(seen, question).text == "no" for question in closed]
    print(f"{name}: nothing {sum(nothing)} of {len(nothing)}, no {sum(no)} of {len(no)}")
    assert sum(nothing) / len(nothing) >= 0.9
    assert sum(no) / len(no) >= 0.9
