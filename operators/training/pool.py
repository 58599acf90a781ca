"""Long videos from cached tokens: encoders are frozen, so a beat is rendered and encoded once and used many times.

A pool holds the tokens of many beats and what happens in each. A long training video is a fresh arrangement of beats
from the pool that obeys the world's rules (a sound is heard at most four times, the border flashes at most once), with
its script put together from theirs; so the number of different long videos has no practical end.

This needs a combiner whose tokens of a snippet do not depend on earlier snippets.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from longtake.operators.chat import ChatTokenizer
from longtake.operators.combiners import Features
from longtake.operators.config import ModelConfig
from longtake.operators.errors import InputError
from longtake.operators.model import LongTakeModel
from longtake.operators.training.batches import Clips, Questions, draw_questions, render_clips, tensorize
from longtake.operators.training.losses import reduced
from longtake.operators.world.script import BEAT_S, MAX_COUNT, SOUNDS, Script, write_script

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PoolSpec:
    """Which made videos a pool is cut from; the same spec gives the same beats."""

    videos: int
    beats: int
    seed: int

    def scripts(self) -> list[Script]:
        """The source videos."""
        rng = random.Random(f"pool {self.seed}")
        return [write_script(rng.randrange(2**62), self.beats) for _ in range(self.videos)]


class BeatPool:
    """The beats of many scripts, each as a one-beat script, sorted by what they hold.

    Raises:
        InputError: the scripts lack a kind of event.
    """

    def __init__(self, spec: PoolSpec) -> None:
        self.beats = [beat_of(script, number) for script in spec.scripts() for number in range(spec.beats)]
        self.sounding: dict[str, list[int]] = {name: [] for name in SOUNDS}
        self.flashing: list[int] = []
        self.other: list[int] = []
        for number, beat in enumerate(self.beats):
            named = [s.name for s in beat.sounds if s.name in self.sounding]
            if beat.flashes:
                self.flashing.append(number)
            elif named:
                self.sounding[named[0]].append(number)
            else:
                self.other.append(number)
        if not self.flashing or not self.other or not all(self.sounding.values()):
            raise InputError(f"a pool of {len(self.beats)} beats lacks some kinds of event; take more videos")

    def arrange(self, rng: random.Random, beats: int) -> list[int]:
        """A random long video: the pool's beats to show, in order."""
        chosen: list[int] = []
        # Short videos are often fuller of sounds than the world's own: counting is learned there first.
        budget = max(1, round(beats * rng.uniform(0.15, 0.6)))
        for name in rng.sample(SOUNDS, len(SOUNDS)):
            times = rng.choices(range(MAX_COUNT + 1), weights=(20, 32, 16, 16, 16))[0]
            chosen += [rng.choice(self.sounding[name]) for _ in range(min(times, budget - len(chosen)))]
        if rng.random() < 8 / 9:
            chosen.append(rng.choice(self.flashing))
        chosen = chosen[:beats]
        chosen += rng.choices(self.other, k=beats - len(chosen))
        rng.shuffle(chosen)
        return chosen

    def script(self, chosen: Sequence[int]) -> Script:
        """The script of an arrangement."""
        return splice([self.beats[number] for number in chosen])


def beat_of(script: Script, number: int) -> Script:
    """One beat of a script as a script of its own."""
    start, stop = number * BEAT_S, (number + 1) * BEAT_S
    return Script(
        beats=1,
        things=tuple(
            dataclasses.replace(t, start_s=max(t.start_s, start) - start, stop_s=min(t.stop_s, stop) - start)
            for t in script.things
            if t.start_s < stop and t.stop_s > start
        ),
        sounds=tuple(
            dataclasses.replace(s, start_s=s.start_s - start, stop_s=s.stop_s - start)
            for s in script.sounds
            if start <= s.start_s < stop
        ),
        flashes=tuple(
            dataclasses.replace(f, start_s=f.start_s - start, stop_s=f.stop_s - start)
            for f in script.flashes
            if start <= f.start_s < stop
        ),
        scenes=(),
        ambience=0.0,
        seed=0,
    )


def splice(parts: Sequence[Script]) -> Script:
    """One-beat scripts after one another."""

    def moved(name: str) -> tuple[object, ...]:
        return tuple(
            dataclasses.replace(event, start_s=event.start_s + number * BEAT_S, stop_s=event.stop_s + number * BEAT_S)
            for number, part in enumerate(parts)
            for event in getattr(part, name)
        )

    return Script(
        beats=len(parts),
        things=moved("things"),  # type: ignore[arg-type]
        sounds=moved("sounds"),  # type: ignore[arg-type]
        flashes=moved("flashes"),  # type: ignore[arg-type]
        scenes=(),
        ambience=0.0,
        seed=0,
    )


class RenderedVideos(Dataset[Clips]):
    """Item n is the n-th source video's pictures and sound, with the wear of real files."""

    def __init__(self, config: ModelConfig, spec: PoolSpec) -> None:
        self.config, self.spec, self.scripts = config, spec, spec.scripts()

    def __len__(self) -> int:
        return len(self.scripts)

    def __getitem__(self, number: int) -> Clips:
        return render_clips([self.scripts[number]], self.config, np.random.default_rng((self.spec.seed, number)))


@dataclass(kw_only=True)
class EncodedBeats:
    """What is kept of a pool's beats, in the pool's order: combined tokens [P, m, D], and the reduced video and
    audio features [P, R] that the latent model learns to predict."""

    tokens_PmD: Tensor
    video_PR: Tensor
    audio_PR: Tensor


def encode_pool(model: LongTakeModel, encode: Callable[[T], Features], parts: Iterable[T]) -> EncodedBeats:
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
    return EncodedBeats(tokens_PmD=torch.cat(tokens), video_PR=torch.cat(video), audio_PR=torch.cat(audio))


@dataclass(frozen=True, kw_only=True)
class LongStage:
    """How the batches of training on long videos are made."""

    videos: int
    beats: tuple[int, int]
    questions: int
    captions: int
    spans: float


class LongDataset(Dataset[tuple[Tensor, Questions]]):
    """Item n is step n's arrangements, int64 [V, T] numbers of beats, and questions about them."""

    def __init__(self, pool: BeatPool, tokenizer: ChatTokenizer, stage: LongStage, steps: int, seed: int) -> None:
        self.pool, self.tokenizer, self.stage, self.steps, self.seed = pool, tokenizer, stage, steps, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Questions]:
        rng = random.Random(f"long {self.seed} {step}")
        low, high = self.stage.beats
        # The curriculum: the longest length grows over the first half; shorter videos stay in the mix.
        longest = round(low + (high - low) * min(1.0, 2 * (step + 1) / self.steps))
        beats = longest if rng.random() < 0.5 else rng.randint(low, longest)
        chosen = [self.pool.arrange(rng, beats) for _ in range(self.stage.videos)]
        asked = [
            question
            for order in chosen
            for question in draw_questions(
                rng, self.pool.script(order), self.stage.questions, self.stage.captions, self.stage.spans
            )
        ]
        return torch.tensor(chosen), tensorize(asked, beats, self.tokenizer)
