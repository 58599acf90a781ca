"""The built-in world is what the shipped weights learned from: its videos and questions stay as they were."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch

from longtake.operators.synthetic.questions import Kind, Question, ask, random_span, word_list
from longtake.operators.synthetic.script import write_script
from longtake.operators.synthetic.worlds import BUILT_IN

# Taken from the code that trained the shipped weights.
SCRIPTS = "2834c896553f2bfe0e45670513440f8828cd4225faa4de93fcd67d0269b2bd9a"
WORDS = "22084ed939221b68aa3cd7f79626f4a55b2a979d5d9589167e1cfe687a7706f9"
QUESTIONS = "57ca035c87a40eb39ed76e7ef3da81c2e7e61682787d4b473a2828ece03d53ad"
# Sums of the three channels at three rows, three columns and four times of 24, and twelve samples of sound.
PICTURES = {
    1: [
        [[255, 313, 378], [275, 261, 319], [219, 238, 274]],
        [[320, 279, 348], [249, 308, 266], [247, 188, 263]],
        [[255, 255, 255], [474, 255, 255], [122, 122, 175]],
        [[281, 262, 148], [288, 205, 139], [242, 184, 194]],
    ],
    4: [
        [[138, 138, 138], [138, 138, 138], [138, 138, 138]],
        [[158, 157, 163], [163, 290, 161], [167, 176, 156]],
        [[262, 255, 260], [259, 380, 263], [263, 263, 263]],
        [[240, 240, 240], [240, 288, 240], [240, 240, 240]],
    ],
}
SAMPLES = {
    1: [0, 0, 0, 0, 0, 0, 0, 0, -0.042668, 0.445469, -0.092876, -0.471144, -0.330223],
    4: [0, 0, -0.004321, 0, 0, 0, 0.142866, 0, 0.047523, 0, 0.061651, 0, 0],
}


def digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def test_scripts_and_words_are_what_they_were() -> None:
    whole = hashlib.sha256()
    for seed in range(8):
        assert BUILT_IN.script(seed, 24) == write_script(seed, 24)
        whole.update(repr(write_script(seed, 24)).encode())
    assert whole.hexdigest() == SCRIPTS
    assert digest(word_list()) == digest(BUILT_IN.words()) == WORDS


def test_questions_are_what_they_were() -> None:
    kinds: tuple[Kind, ...] = (*BUILT_IN.kinds, "heard")
    rows = []
    for asker in (ask, BUILT_IN.ask):
        rng = random.Random(5)
        drawn: list[Question | None] = []
        for seed in range(8):
            script = write_script(seed, 24)
            drawn += [asker(rng, script, kind, span) for kind in kinds for span in (None, random_span(rng, script))]
        rows.append([(q.kind, q.text, q.answer, q.moments, q.from_s, q.to_s) for q in drawn if q is not None])
        assert all(q is None or (q.about, q.voice, q.tolerance_s) == (None, None, None) for q in drawn)
    assert rows[0] == rows[1] and len(rows[0]) > 80
    assert digest(rows[0]) == QUESTIONS


@pytest.mark.parametrize("seed", sorted(PICTURES))
def test_pictures_and_sound_are_what_they_were(seed: int) -> None:
    script = write_script(seed, 24)
    pictures = BUILT_IN.pictures(script, [n + 0.3 for n in range(24)], 36, 48)
    found = pictures[::6, 6::12, 8::16].sum(-1)
    # Another processor may round a channel the other way.
    assert (found - torch.tensor(PICTURES[seed])).abs().max() <= 3
    np.testing.assert_allclose(BUILT_IN.sound(script)[2000::29989], SAMPLES[seed], atol=2e-6)
