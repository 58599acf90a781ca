"""The shipped `small`, from real files: recordings and a voice that it never heard, the made world, and its size."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.pipeline.evaluation.through_files import answered

from longtake.operators.model.answering import Answerer
from longtake.operators.model.checkpoint import WEIGHTS, load_model, locate
from longtake.operators.synthetic.questions import Question
from longtake.operators.synthetic.worlds import BUILT_IN, RealWorld
from longtake.pipeline.synthetic.read_material import read_material

UNSEEN = "yweweler"


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    return Answerer(load_model("small"))


def is_right(question: Question, answer: str) -> bool:
    if question.tolerance_s is not None and answer.isdecimal():
        return abs(int(answer) - int(question.answer)) <= question.tolerance_s
    return answer == question.answer


def test_it_is_small(answerer: Answerer) -> None:
    assert sum(p.numel() for p in answerer.loaded.model.parameters()) <= 20e6
    assert (locate("small") / WEIGHTS).stat().st_size <= 40e6


@pytest.mark.parametrize("voice", ["trained", "unseen"])
def test_recordings_that_no_training_heard_are_understood(
    answerer: Answerer, world_material: Path, tmp_path: Path, voice: str
) -> None:
    material = read_material(world_material / "pictures", world_material / "sounds").split("test", UNSEEN)
    world = RealWorld(material)
    scripts = [world.script(seed, 64) for seed in range(40)]
    asked = answered(answerer, world, [s for s in scripts if s.voice == voice][:2], tmp_path, 2)
    right = sum(is_right(question, answer) for question, answer in asked)
    print(f"{voice}: {right} of {len(asked)}")
    assert len(asked) > 40
    assert right / len(asked) >= (0.7 if voice == "trained" else 0.55), f"{right} of {len(asked)}"


def test_the_made_world_is_understood_too(answerer: Answerer, tmp_path: Path) -> None:
    asked = answered(answerer, BUILT_IN, [BUILT_IN.script(920_000, 64)], tmp_path, 2)
    right = sum(is_right(question, answer) for question, answer in asked)
    assert right / len(asked) >= 0.75, f"{right} of {len(asked)}"
