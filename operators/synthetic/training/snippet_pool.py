"""Long videos from cached tokens: encoders are frozen, so a beat is rendered and encoded once and used many times.

A pool holds the tokens of many beats and what happens in each. A long training video is a fresh arrangement of beats
from the pool that obeys the world's rules (a sound is heard at most four times, say), with its script put together from
theirs; so the number of different long videos has no practical end.

This needs a combiner whose tokens of a snippet do not depend on earlier snippets.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.combiners import Features
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.model import LongTakeModel
from longtake.operators.synthetic.questions import Kind, Question
from longtake.operators.synthetic.script import BEAT_S
from longtake.operators.synthetic.training.batches import tensorize
from longtake.operators.synthetic.training.render import render_clips
from longtake.operators.synthetic.training.task import Pool, PoolSpec, Task, draw_questions
from longtake.operators.synthetic.worlds import BUILT_IN, World
from longtake.operators.training.batch_tensors import Clips, Questions
from longtake.operators.training.losses import reduced

T = TypeVar("T")

# Kinds whose answer is a whole second of the video.
ABOUT_TIME: tuple[Kind, ...] = ("when",)


class RenderedVideos(Dataset[Clips]):
    """Item n is the n-th source video's pictures and sound, with the wear of real files."""

    def __init__(self, config: ModelConfig, spec: PoolSpec, world: World[Any] = BUILT_IN) -> None:
        self.config, self.spec, self.world, self.scripts = config, spec, world, spec.scripts(world)

    def __len__(self) -> int:
        return len(self.scripts)

    def __getitem__(self, number: int) -> Clips:
        rng = np.random.default_rng((self.spec.seed, number))
        return render_clips([self.scripts[number]], self.config, rng, self.world)


@dataclass(kw_only=True)
class EncodedSnippets:
    """What is kept of a pool's beats, in the pool's order: combined tokens [P, m, D], and the reduced video and
    audio features [P, R] that the latent model learns to predict."""

    tokens_PmD: Tensor
    video_PR: Tensor
    audio_PR: Tensor


def encode_pool(model: LongTakeModel, encode: Callable[[T], Features], parts: Iterable[T]) -> EncodedSnippets:
    """Encode and combine every beat of a pool, given in their order, part by part, in the form that `encode` takes.

    Raises:
        ValueError: the combiner carries memory, so a beat has no tokens of its own.
    """
    if model.combiner.initial_memory(1).shape[1]:
        raise ValueError(f"the {model.config.combiner.name} combiner carries memory: its tokens cannot be pooled")
    tokens, video, audio = [], [], []
    for part in parts:
        with torch.inference_mode():
            features = encode(part)
            beats = len(features.video_BND)
            memory = model.combiner.initial_memory(1).expand(beats, -1, -1)
            start_s = torch.zeros(beats, device=features.video_BND.device)
            tokens.append(model.combiner(features, memory, start_s)[0].float().cpu())
            latent = model.config.latent
            video.append(reduced(features.video_BND, features.video_mask_BN, latent.reconstruct_video).cpu())
            audio.append(reduced(features.audio_BND, features.audio_mask_BN, latent.reconstruct_audio).cpu())
    return EncodedSnippets(tokens_PmD=torch.cat(tokens), video_PR=torch.cat(video), audio_PR=torch.cat(audio))


@dataclass(frozen=True, kw_only=True)
class LongStage:
    """How the batches of training on long videos are made."""

    videos: int
    beats: tuple[int, int]
    questions: int
    captions: int
    spans: float
    # In this share of the batches the snippets' numbers are drawn from 0 ... `reach` - 1, so that long videos' numbers
    # are met in short ones (randomised positional encodings, arXiv 2305.16843). Something was then when its snippet's
    # number says.
    spread: float = 0.0
    reach: int = 256


@dataclass(frozen=True, kw_only=True)
class LongBatch:
    """Videos of one length put together from a pool's beats, and questions about them."""

    chosen_VT: Tensor  # int64, numbers of the pool's beats
    positions_T: Tensor | None  # int64, the snippets' numbers; None says 0, 1, 2, ...
    questions: Questions
    recalled_VTP: Tensor  # int64, what `Task.recall` says


class LongDataset(Dataset[LongBatch]):
    """Item n is step n's batch."""

    def __init__(
        self, pool: Pool[Any], task: Task[Any], tokenizer: ChatTokenizer, stage: LongStage, steps: int, seed: int
    ) -> None:
        self.pool, self.task, self.tokenizer = pool, task, tokenizer
        self.stage, self.steps, self.seed = stage, steps, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> LongBatch:
        rng = random.Random(f"long {self.seed} {step}")
        low, high = self.stage.beats
        # The curriculum: the longest length grows over the first half; shorter videos stay in the mix.
        longest = round(low + (high - low) * min(1.0, 2 * (step + 1) / self.steps))
        beats = longest if rng.random() < 0.5 else rng.randint(low, longest)
        chosen = [self.pool.arrange(rng, beats) for _ in range(self.stage.videos)]
        stage = self.stage
        positions_T: Tensor | None = None
        if stage.spread and rng.random() < stage.spread:
            positions_T = torch.tensor(sorted(rng.sample(range(stage.reach), beats)))
        scripts = [self.pool.script(order) for order in chosen]
        asked = [
            question
            for script in scripts
            for question in draw_questions(rng, self.task, script, stage.questions, stage.captions, stage.spans)
        ]
        if positions_T is not None:
            asked = [_at_positions(question, positions_T.tolist()) for question in asked]
        return LongBatch(
            chosen_VT=torch.tensor(chosen),
            positions_T=positions_T,
            questions=tensorize(asked, beats, self.tokenizer),
            recalled_VTP=torch.stack([self.task.recall(script) for script in scripts]),
        )


def _at_positions(question: Question, positions: Sequence[int]) -> Question:
    """A question about beats that stand at other numbers."""
    if question.kind not in ABOUT_TIME:
        return question
    beat = int(int(question.answer) / BEAT_S)
    return dataclasses.replace(question, answer=str(int(positions[beat] * BEAT_S)))
