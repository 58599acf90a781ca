"""Running the track of coverage and alignment: its pools, its budget, and what each variant is scored on."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longtake.operators.ablation.batch_cache import BatchCache
from longtake.operators.ablation.combining import Describing
from longtake.operators.ablation.coverage import QUICK, VARIANTS, CoverageModel, Plan
from longtake.operators.ablation.features import SnippetFeatures, delayed, encoded
from longtake.operators.ablation.questions import Batches, TestSet, needle_set, question_set
from longtake.operators.ablation.results import Row, RunResult, count_right, majority_rows
from longtake.operators.ablation.track import Report, Step
from longtake.operators.model.checkpoint import LoadedModel, load_model
from longtake.operators.synthetic.script import BEAT_S, Script
from longtake.operators.synthetic.training.shapes_task import ScriptPool, describe
from longtake.operators.synthetic.training.task import PoolSpec
from longtake.operators.synthetic.worlds import BUILT_IN

BEATS = 64
DELAYS = (0.25, 0.5, 1.0)
DEPTHS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
GRID_SNIPPETS = (32, 64, 128, 256)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much a run trains and is asked."""

    plan: Plan
    train_videos: int
    test_videos: int
    long_videos: int  # of 128 and of 256 snippets
    needles: int  # videos for each place of the needle grid
    per_kind: int
    spans: float = 0.3


def quick_budget() -> Budget:
    """Six variants and one seed in 60 minutes on two cores."""
    batches = Batches(steps=4000, videos=8, beats=(4, BEATS), questions=12)
    return Budget(
        plan=Plan(describing=Describing(steps=300), batches=batches),
        train_videos=150,
        test_videos=40,
        long_videos=20,
        needles=10,
        per_kind=4,
    )


def full_budget() -> Budget:
    """Meant for one GPU: twice the beats, five times the questions trained on, three times those scored."""
    batches = Batches(steps=10_000, videos=16, beats=(4, BEATS), questions=12)
    return Budget(
        plan=Plan(describing=Describing(steps=1000), batches=batches),
        train_videos=300,
        test_videos=100,
        long_videos=60,
        needles=40,
        per_kind=5,
    )


class CoverageTrack:
    """Coverage and alignment on the made world, from the shipped `tiny`'s frozen encoders."""

    def __init__(self, folder: Path, budget: Budget, device: str, workers: int) -> None:
        self.folder, self.budget, self.device, self.workers = folder, budget, device, workers
        self.loaded: LoadedModel = load_model("tiny")
        self.train_spec = PoolSpec(videos=budget.train_videos, beats=BEATS, seed=101)
        self.test_spec = PoolSpec(videos=budget.test_videos, beats=BEATS, seed=202)
        self._ready: _Shared | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A process of its own maps the features again instead of being sent them.
        return {**self.__dict__, "_ready": None}

    @property
    def variants(self) -> dict[str, str]:
        return {variant.name: variant.says for variant in VARIANTS}

    @property
    def quick(self) -> tuple[str, ...]:
        return QUICK

    @property
    def plan(self) -> str:
        return f"{self.loaded.fingerprint} {self.budget} {VARIANTS}"

    def baseline(self) -> list[Row]:
        tests = world_sets(ScriptPool(self.test_spec), self.budget)
        return [row for test in tests for row in majority_rows(test, "world")]

    def prepare(self, report: Report) -> None:
        """Compute the features of the pools, and of the test videos with their sound delayed."""
        folder = self.folder / "features"
        tests = self.test_spec.scripts(BUILT_IN)

        def features(stage: str, scripts: Sequence[Script], seed: int) -> SnippetFeatures:
            def on_video(done: int, total: int) -> None:
                report(Step(variant="features", seed=0, stage=stage, step=done, steps=total))

            return encoded(
                folder, self.loaded, scripts, seed, workers=self.workers, device=self.device, on_video=on_video
            )

        train = features("training", self.train_spec.scripts(BUILT_IN), self.train_spec.seed)
        plain = features("test", tests, self.test_spec.seed)
        late = {
            delay: features(
                f"sound {delay:g} late", [delayed(script, delay * BEAT_S) for script in tests], self.test_spec.seed
            )
            for delay in DELAYS
        }
        self._ready = _Shared(self, train, plain, late)

    def run(self, variant: str, seed: int, report: Report) -> RunResult:
        """Train one variant and score it at 64 snippets (whole videos of the world), 128 and 256 (arranged beats).

        The full model also does the needle grid and the sweep of delays.
        """
        assert self._ready is not None, "prepare first"
        shared = self._ready
        chosen = next(one for one in VARIANTS if one.name == variant)
        began, cpu = time.monotonic(), time.process_time()
        model = CoverageModel(chosen, self.loaded.config, self.loaded.tokenizer, self.device)
        last: list[float] = []

        def on_step(stage: str, step: int, steps: int, loss: float, exact: float) -> None:
            last.append(exact)
            report(Step(variant=variant, seed=seed, stage=stage, step=step, steps=steps, loss=loss, exact=exact))

        model.train(shared.batches.of(seed), shared.train, shared.truth_BP, self.budget.plan, seed, on_step)
        tests: list[tuple[str, float | None, TestSet, SnippetFeatures]]
        tests = [("world", None, test, shared.plain) for test in shared.world]
        if variant == "full":
            tests += [("depth", depth, test, shared.plain) for depth, test in shared.grid]
            tests += [("delay", delay, shared.world[0], late) for delay, late in [(0.0, shared.plain), *shared.late]]
        rows: list[Row] = []
        for number, (name, at, test, features) in enumerate(tests):
            right_Q = model.right(test, features, seed)
            rows += count_right(variant, seed, name, test.snippets, test.labels, right_Q, at)
            report(Step(variant=variant, seed=seed, stage="test", step=number + 1, steps=len(tests)))
        assert model.model is not None
        parts = (model.model.combiner, model.model.latent_model, model.model.text_decoder)
        notes = {
            "parameters": float(sum(p.numel() for part in parts for p in part.parameters())),
            "described": model.description,
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


class _Shared:
    """The pools with their features, and the test sets."""

    def __init__(
        self, track: CoverageTrack, train: SnippetFeatures, plain: SnippetFeatures, late: dict[float, SnippetFeatures]
    ) -> None:
        budget = track.budget
        self.train, self.plain, self.late = train, plain, list(late.items())
        train_pool, pool = ScriptPool(track.train_spec), ScriptPool(track.test_spec)
        self.truth_BP: Tensor = torch.cat([describe(beat) for beat in train_pool.beats])
        batches, tokenizer = budget.plan.batches, track.loaded.tokenizer
        self.batches = BatchCache(
            lambda seed: (batches.draw(train_pool, tokenizer, seed, step) for step in range(batches.steps))
        )
        self.world = world_sets(pool, budget)
        self.grid: list[tuple[float, TestSet]] = [
            (depth, needle_set("depth", pool, snippets, depth, budget.needles, snippets))
            for snippets in GRID_SNIPPETS
            for depth in DEPTHS
        ]


def world_sets(pool: ScriptPool, budget: Budget) -> list[TestSet]:
    """The world's questions: about the pool's whole source videos, and about longer arrangements of their beats."""
    rng = random.Random("ablation tests")
    whole = [list(range(n * BEATS, (n + 1) * BEATS)) for n in range(budget.test_videos)]
    found = [question_set("world", pool, whole, budget.per_kind, budget.spans, BEATS)]
    for snippets in (2 * BEATS, 4 * BEATS):
        orders = [pool.arrange(rng, snippets) for _ in range(budget.long_videos)]
        found.append(question_set("world", pool, orders, budget.per_kind, budget.spans, snippets))
    return found


def coverage_track(folder: Path, quick: bool, device: str, workers: int) -> CoverageTrack:
    """The track with its quick or its full budget."""
    return CoverageTrack(folder, quick_budget() if quick else full_budget(), device, workers)
