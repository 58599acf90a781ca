"""From a real file to a model's latents, in this process: decoding, encoding and the latent model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longtake.operators.model.answering import Answerer
from longtake.operators.model.snippet_encoder import SnippetEncoder
from longtake.operators.synthetic.questions import Question, Timeline
from longtake.operators.synthetic.worlds import World
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.snippets import Snippet, read_snippets
from longtake.pipeline.synthetic.write_videos import Balance, WorldOptions, draw_balanced, write_video


def latents_of(answerer: Answerer, video: Path) -> Tensor:
    config = answerer.loaded.config
    encoder = SnippetEncoder(answerer.loaded.model, lanes=1)
    memory, tokens = encoder.initial_memory()[None], []
    for item in read_snippets(probe(video), config, Sampling(rate_hz=config.rate_hz, frames=None)):
        assert isinstance(item, Snippet)
        arrays = (item.frames_FHWC, item.frame_mask_F, item.sound_AM, item.mel_mask_A)
        batch = (torch.from_numpy(array)[None] for array in arrays)
        tokens_LmD, memory = encoder.step(*batch, torch.tensor([item.start_ns / 1e9]), memory)
        tokens.append(tokens_LmD[0])
    return answerer.latents(torch.stack(tokens))


def answered(
    answerer: Answerer, world: World[Any], scripts: list[Timeline], folder: Path, per_kind: int
) -> list[tuple[Question, str]]:
    """Every question about videos of the scripts, written as MP4 files, with what was answered."""
    rng, balance, asked = random.Random(5), Balance(world), []
    for number, script in enumerate(scripts):
        path = folder / f"{number}.mp4"
        write_video(script, path, WorldOptions(out=folder, videos=1), world)
        seen_TmD = latents_of(answerer, path)
        assert len(seen_TmD) == script.beats
        for question in draw_balanced(rng, script, per_kind, balance):
            span = None
            if question.from_s is not None and question.to_s is not None:
                span = torch.zeros(script.beats, dtype=torch.bool)
                span[int(question.from_s) : int(question.to_s)] = True
            asked.append((question, answerer.answer(seen_TmD, question.text, span_mask_T=span).text))
    return asked
