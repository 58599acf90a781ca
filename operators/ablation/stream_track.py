"""What the tracks of bounded memory and of state tracking share: tokens of one combiner, computed once, and a run.

Shapes: B beats of the pool, m tokens, D width, P parts of a description.
"""

from __future__ import annotations

import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from longtake.operators.ablation.batch_cache import BatchCache
from longtake.operators.ablation.combining import Describing, TokenSource, train_combiner
from longtake.operators.ablation.features import encoded
from longtake.operators.ablation.questions import TestSet
from longtake.operators.ablation.results import Row, RunResult, count_right, majority_rows
from longtake.operators.ablation.stream import (
    StreamBatch,
    StreamModel,
    StreamVariant,
    stream_config,
    stream_right,
    train_stream,
)
from longtake.operators.ablation.track import Report, Step
from longtake.operators.model import combiners
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.checkpoint import LoadedModel, load_model
from longtake.operators.synthetic.script import Script

TOKENS = 4


class StreamTrack(ABC):
    """A track over the tokens of one frozen combiner of 4 tokens a snippet, the same for every variant and seed."""

    all_variants: tuple[StreamVariant, ...]
    quick: tuple[str, ...]
    # The parts of the descriptions that the combiner learns first, and how many values each has.
    parts: dict[str, int]
    # Likewise of what is true after each snippet, where a track tells that in training.
    state_parts: tuple[int, ...] = ()
    latent_depth = 1

    def __init__(
        self, folder: Path, device: str, workers: int, describing: Describing, steps: int, rate: float, seed: int
    ) -> None:
        self.folder, self.device, self.workers = folder, device, workers
        self.describing, self.steps, self.rate, self.pool_seed = describing, steps, rate, seed
        self.loaded: LoadedModel = load_model("tiny")
        self.config = stream_config(self.loaded.config, TOKENS, self.latent_depth, type(self).__name__)
        self._tokens: dict[str, Tensor] | None = None
        self._drawn: BatchCache[StreamBatch] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A process of its own reads the tokens and draws the batches again instead of being sent them.
        return {**self.__dict__, "_tokens": None, "_drawn": None}

    @property
    def variants(self) -> dict[str, str]:
        return {variant.name: variant.says for variant in self.all_variants}

    @property
    @abstractmethod
    def tokenizer(self) -> ChatTokenizer: ...

    @property
    @abstractmethod
    def budget(self) -> str:
        """What the subclass adds to the plan, as text."""

    @property
    def plan(self) -> str:
        return f"{self.loaded.fingerprint} {self._shared} {self.steps} {self.rate} {self.budget} {self.all_variants}"

    @property
    def _shared(self) -> str:
        return f"{self.config.fingerprint()} {self.describing} {self.pool_seed} {self.budget}"

    @abstractmethod
    def scripts(self, split: str) -> list[Script]:
        """The source videos of the split "training" or "test"."""

    @abstractmethod
    def truth(self) -> Tensor:
        """The descriptions of the training pool's beats, int64 [B, P]."""

    @abstractmethod
    def batches(self, seed: int) -> Iterator[StreamBatch]:
        """The training batches of a seed, as many as there are steps."""

    @abstractmethod
    def tests(self) -> Sequence[tuple[str, float | None, TestSet]]:
        """Name, place in a sweep (or None) and questions of every test."""

    def baseline(self) -> list[Row]:
        return [row for name, at, test in self.tests() for row in majority_rows(test, name, at)]

    def prepare(self, report: Report) -> None:
        """Train the combiner on the training pool's beats and keep the tokens of both pools."""
        key = hashlib.sha256(f"{self.loaded.fingerprint} {self._shared}".encode()).hexdigest()[:16]
        path = self.folder / f"tokens-{key}.safetensors"
        if not path.is_file():
            self._write(path, report)
        self._tokens = {name: value.to(self.device) for name, value in load_file(path).items()}
        self._drawn = BatchCache(self.batches)

    def _write(self, path: Path, report: Report) -> None:
        found = {}
        combiner = None
        for number, split in enumerate(("training", "test")):
            features = encoded(
                self.folder / "features",
                self.loaded,
                self.scripts(split),
                self.pool_seed + number,
                workers=self.workers,
                device=self.device,
                on_video=lambda done, total, split=split: report(  # type: ignore[misc]
                    Step(variant="features", seed=0, stage=split, step=done, steps=total)
                ),
            )
            if combiner is None:
                torch.manual_seed(0)
                combiner = combiners.build(self.config).to(self.device)

                def on_step(step: int, loss: float) -> None:
                    steps = self.describing.steps
                    report(Step(variant="combiner", seed=0, stage="snippets", step=step, steps=steps, loss=loss))

                described = train_combiner(
                    combiner,
                    features,
                    self.truth(),
                    "both",
                    self.describing,
                    0,
                    on_step,
                    self.parts,
                )
                found["described"] = torch.tensor(described)
            pooled = TokenSource(combiner, features, "both").pooled_BmD
            assert pooled is not None
            found[split] = pooled.reshape(-1, TOKENS, self.config.width).cpu().contiguous()
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        save_file(found, part)
        part.replace(path)

    def run(self, variant: str, seed: int, report: Report) -> RunResult:
        """Train one variant and score it."""
        assert self._tokens is not None and self._drawn is not None, "prepare first"
        chosen = next(one for one in self.all_variants if one.name == variant)
        began, cpu = time.monotonic(), time.process_time()
        torch.manual_seed(seed)
        model = StreamModel(chosen, self.config, self.state_parts).to(self.device)
        last: list[float] = []

        def on_step(step: int, loss: float, exact: float) -> None:
            last.append(exact)
            report(
                Step(variant=variant, seed=seed, stage="questions", step=step, steps=self.steps, loss=loss, exact=exact)
            )

        train_stream(model, self._tokens["training"], self._drawn.of(seed), self.steps, self.rate, on_step)
        model.eval()
        rows: list[Row] = []
        tests = self.tests()
        for number, (name, at, test) in enumerate(tests):
            right_Q = stream_right(model, self._tokens["test"], test, self.tokenizer)
            rows += count_right(variant, seed, name, test.snippets, test.labels, right_Q, at)
            report(Step(variant=variant, seed=seed, stage="test", step=number + 1, steps=len(tests)))
        notes = {
            "parameters": float(sum(p.numel() for p in model.parameters())),
            "described": float(self._tokens["described"]),
            "training_right": sum(last[-100:]) / max(1, len(last[-100:])),
        }
        return RunResult(
            variant=variant,
            seed=seed,
            rows=tuple(rows),
            seconds=time.monotonic() - began,
            cpu_seconds=time.process_time() - cpu,
            notes=notes,
        )
