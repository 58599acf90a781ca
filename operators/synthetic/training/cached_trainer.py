"""Training on stored beats: pictures, sound and the features of frozen encoders are made once and read many times."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from longtake.operators.model.combiners import Features
from longtake.operators.model.config import ModelConfig
from longtake.operators.synthetic.training.augment import vary_pictures, vary_sound
from longtake.operators.synthetic.training.feature_store import BeatStore, StoredClips, features_of, sound_features_of
from longtake.operators.synthetic.training.snippet_pool import RenderedVideos
from longtake.operators.synthetic.training.snippet_stage import Ears, SnippetBatch, SnippetStage
from longtake.operators.synthetic.training.task import Task
from longtake.operators.synthetic.training.trainer import Plan, Trainer
from longtake.operators.training.batch_tensors import Clips
from longtake.operators.training.run import Report

# The share of the beats that are heard only in which there is something to be heard.
FULL = 0.7


class StoredTrainer(Trainer):
    """A run whose stage `snippets` trains on stored beats instead of fresh ones; its stages are those of any run.

    Stored are the beats of `plan.stored`, or those of the pool where that is None: then the pool's tokens are made of
    them too. Of a frozen public encoder the features are stored, of one that learns its input. `features` is where
    they are kept, None the run's own folder; runs may share it.
    """

    def __init__(
        self, config: ModelConfig, plan: Plan, out: Path, *, features: Path | None = None, **settings: Any
    ) -> None:
        super().__init__(config, plan, out, **settings)
        spec, folder = plan.stored or plan.pool, features or out / "features"
        self.stores = {task.name: BeatStore(folder / task.name, spec, self.model, task.key) for task in self.tasks}

    def _prepare(self, on_report: Callable[[Report], None]) -> None:
        super()._prepare(on_report)
        waits = self.stage == "snippets" and self.encoders_from is None
        if not waits and (self.plan.stored or all(self._cache(c).is_file() for c in self.tasks)):
            # The pool's tokens are all that is still read.
            return
        for task in self.tasks:
            store = self.stores[task.name]
            videos = store.spec.videos
            if store.videos_done == videos:
                continue
            rendered: Iterable[Clips] = self._loader(
                RenderedVideos(self.config, store.spec, task.world), store.videos_done
            )
            store.fill(
                self.model,
                rendered,
                self.device,
                lambda done, videos=videos, name=task.name: on_report(  # type: ignore[misc]
                    Report(stage=f"{name} beats", step=done, steps=videos, values={})
                ),
            )

    def _snippets(self, task: Task[Any]) -> Dataset[Any]:
        plan = self.plan
        return StoredSnippets(
            self.stores[task.name],
            task,
            plan.snippets,
            plan.snippet_steps,
            plan.seed,
            varied=plan.varied,
            ears=plan.ears,
        )

    def _pool_beats(self, task: Task[Any]) -> Iterable[Any]:
        if self.plan.stored is not None:
            rendered = super()._pool_beats(task)
            return (StoredClips.of(clips) for clips in rendered)
        store, beats = self.stores[task.name], self.plan.pool.beats
        return (store.read(torch.arange(n * beats, (n + 1) * beats)) for n in range(self.plan.pool.videos))

    def _features(self, clips: StoredClips) -> Features:
        return features_of(self.model, clips, self.device)

    def _heard(self, ears: Ears) -> Tensor:
        return sound_features_of(self.model, ears.audio, ears.audio_mask, self.device)


class StoredSnippets(Dataset[SnippetBatch]):
    """Item n is the batch of step n: random beats of a store, and `ears` more that are heard only.

    Where they are `varied`, no two draws of a beat are quite the same (see `augment`).
    """

    def __init__(
        self,
        store: BeatStore,
        task: Task[Any],
        stage: SnippetStage,
        steps: int,
        seed: int,
        *,
        varied: bool,
        ears: int,
    ) -> None:
        self.store, self.steps, self.seed, self.varied, self.ears = store, steps, seed, varied, ears
        self.count = stage.videos * stage.beats
        self.described_PN = torch.cat([task.describe(script) for script in store.spec.scripts(task.world)])
        heard = [number for number, part in enumerate(task.parts) if part.sense == "audio"]
        self.full = torch.nonzero((self.described_PN[:, heard] > 0).any(1)).flatten().tolist()

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> SnippetBatch:
        rng = random.Random(f"stored snippets {self.seed} {step}")
        numbers_S = torch.tensor([rng.randrange(len(self.store)) for _ in range(self.count)])
        clips = self.store.read(numbers_S)
        if self.varied:
            video, audio = vary_pictures(clips.video, rng), vary_sound(clips.audio, rng)
            clips = dataclasses.replace(clips, video=video, audio=audio)
        ears = self._heard(rng) if self.ears else None
        return SnippetBatch(clips=clips, truth_SP=self.described_PN[numbers_S], ears=ears)

    def _heard(self, rng: random.Random) -> Ears:
        share = FULL if self.full else 0.0
        numbers_S = torch.tensor(
            [
                rng.choice(self.full) if rng.random() < share else rng.randrange(len(self.store))
                for _ in range(self.ears)
            ]
        )
        audio, audio_mask = self.store.read_sound(numbers_S)
        # Nothing can be said of files without sound.
        heard_S = audio_mask.any(1)
        return Ears(
            audio=(vary_sound(audio, rng) if self.varied else audio)[heard_S],
            audio_mask=audio_mask[heard_S],
            truth_SP=self.described_PN[numbers_S[heard_S]],
        )
