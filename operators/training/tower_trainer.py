"""Training on frozen public encoders: their features of a pool's beats are computed once, and all stages read those."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from longtake.operators.combiners import Features
from longtake.operators.config import ModelConfig
from longtake.operators.errors import InputError
from longtake.operators.training.batches import Clips
from longtake.operators.training.beat_store import BeatStore, StoredClips, features_of, is_frozen
from longtake.operators.training.pool import BeatPool, RenderedVideos
from longtake.operators.training.run import Report
from longtake.operators.training.snippet_stage import SnippetStage, describe
from longtake.operators.training.trainer import Plan, Trainer


class TowerTrainer(Trainer):
    """A run on frozen public encoders; its stages are those of any run.

    Stage `snippets` trains projections, combiner and what else of the encoders is not frozen, on beats of the pool
    instead of fresh ones. `features` is where these are kept, None the run's own folder; runs may share it.

    Raises:
        InputError: the config names no public encoder that is frozen.
    """

    def __init__(
        self, config: ModelConfig, plan: Plan, out: Path, *, features: Path | None = None, **settings: Any
    ) -> None:
        super().__init__(config, plan, out, **settings)
        if not (is_frozen(self.model.video_encoder) or is_frozen(self.model.audio_encoder)):
            raise InputError(f"{config.name}: no public encoder is frozen: there are no features to keep")
        self.store = BeatStore(features or out / "features", plan.pool, self.model)

    def _prepare(self, on_report: Callable[[Report], None]) -> None:
        super()._prepare(on_report)
        if self.stage != "snippets" and self._cache.is_file():
            # The pool's tokens are all that is still read.
            return
        videos = self.plan.pool.videos
        if self.store.videos_done < videos:
            rendered: Iterable[Clips] = self._loader(
                RenderedVideos(self.config, self.plan.pool), self.store.videos_done
            )
            self.store.fill(
                self.model,
                rendered,
                self.device,
                lambda done: on_report(Report(stage="features", step=done, steps=videos, values={})),
            )

    def _snippets(self) -> Dataset[Any]:
        assert self.pool is not None
        return StoredSnippets(self.store, self.pool, self.plan.snippets, self.plan.snippet_steps, self.plan.seed)

    def _pool_beats(self) -> Iterable[StoredClips]:
        beats = self.plan.pool.beats
        return (self.store.read(torch.arange(n * beats, (n + 1) * beats)) for n in range(self.plan.pool.videos))

    def _features(self, clips: StoredClips) -> Features:
        return features_of(self.model, clips, self.device)


class StoredSnippets(Dataset[tuple[StoredClips, Tensor]]):
    """Item n is the batch of step n: random beats of the pool, and their description int64 [S, parts]."""

    def __init__(self, store: BeatStore, pool: BeatPool, stage: SnippetStage, steps: int, seed: int) -> None:
        self.store, self.steps, self.seed = store, steps, seed
        self.count = stage.videos * stage.beats
        self.described_PN = torch.cat([describe(beat) for beat in pool.beats])

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[StoredClips, Tensor]:
        rng = random.Random(f"stored snippets {self.seed} {step}")
        numbers_S = torch.tensor([rng.randrange(len(self.store)) for _ in range(self.count)])
        return self.store.read(numbers_S), self.described_PN[numbers_S]
