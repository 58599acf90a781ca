"""The shipped weights, from real files through the single-process path: right on made videos, silent on real ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from longtake.operators.answering import Answerer
from longtake.operators.checkpoint import load_model
from longtake.operators.snippet_encoder import SnippetEncoder
from longtake.operators.world.questions import NOTHING
from longtake.operators.world.script import COLOURS, SHAPES, SOUNDS, write_script
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.snippets import Snippet, read_snippets
from longtake.pipeline.world_video import Balance, WorldOptions, draw_balanced, write_video


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    return Answerer(load_model("tiny"))


def latents(answerer: Answerer, video: Path) -> Tensor:
    config = answerer.loaded.config
    encoder = SnippetEncoder(answerer.loaded.model, lanes=1)
    memory, tokens = encoder.initial_memory()[None], []
    for item in read_snippets(probe(video), config, Sampling(rate_hz=config.rate_hz, frames=None)):
        assert isinstance(item, Snippet)
        arrays = (item.frames_FHWC, item.frame_mask_F, item.log_mel_AM, item.mel_mask_A)
        batch = (torch.from_numpy(array)[None] for array in arrays)
        tokens_LmD, memory = encoder.step(*batch, torch.tensor([item.start_ns / 1e9]), memory)
        tokens.append(tokens_LmD[0])
    return answerer.latents(torch.stack(tokens))


def test_made_videos_are_understood(answerer: Answerer, tmp_path: Path) -> None:
    rng, balance, right, asked = random.Random(5), Balance(), 0, 0
    for number in range(3):
        script = write_script(910_000 + number, 64)
        path = tmp_path / f"{number}.mp4"
        write_video(script, path, WorldOptions(out=tmp_path, videos=1))
        seen = latents(answerer, path)
        assert len(seen) == 64
        for question in draw_balanced(rng, script, 2, balance):
            span = None
            if question.from_s is not None and question.to_s is not None:
                span = torch.zeros(64, dtype=torch.bool)
                span[int(question.from_s) : int(question.to_s)] = True
            answer = answerer.answer(seen, question.text, span_mask_T=span)
            right += answer.text == question.answer
            asked += 1
    assert asked == 54
    assert right / asked >= 0.9, f"{right} of {asked}"


@pytest.mark.parametrize("name", ["big_buck_bunny_30s.webm", "chaplin.mp4"])
def test_real_footage_holds_nothing_of_the_made_world(answerer: Answerer, media: Path, name: str) -> None:
    seen = latents(answerer, media / name)
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
