"""The track of state tracking: where an object is after 2 to 16 swaps that only sounds told of."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from longtake.operators.ablation import state_tracking
from longtake.operators.ablation.combining import Describing
from longtake.operators.ablation.questions import TestSet
from longtake.operators.ablation.state_tracking import PARTS, STATE_PARTS, SwapPool, swap_words, write_swap_script
from longtake.operators.ablation.stream import StreamBatch, StreamVariant
from longtake.operators.ablation.stream_track import StreamTrack
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.synthetic.script import Script
from longtake.operators.synthetic.training.batches import tensorize

BEATS = 64
SNIPPETS = 32
# How many swaps a test video has; 0 asks for memory alone.
TESTED = (0, 1, 2, 4, 8, 16)
CUTS = 3
# The share of the training over which the number of swaps grows to the most that is tested.
SWAPS_GROW = 0.75

VARIANTS: tuple[StreamVariant, ...] = (
    StreamVariant(name="full", says="latent model of two layers; the decoder reads every latent", writer="latents"),
    StreamVariant(name="no_latent", says="no latent model: the decoder reads the combiner's tokens", writer="tokens"),
    StreamVariant(name="ttm_16", says="a Token Turing Machine's memory of 16 tokens", writer="ttm", memory=16),
    StreamVariant(name="question_only", says="the question alone", writer="none"),
)


@dataclass(frozen=True, kw_only=True)
class TrackingBudget:
    """How much a run trains and is asked: `questions` after each of three cuts of each of `videos` a step."""

    describing: Describing
    steps: int
    videos: int
    questions: int
    train_videos: int
    pool_videos: int
    test_videos: int
    rate: float = 2e-3


def quick_budget() -> TrackingBudget:
    """Four variants and one seed, well within 60 minutes on two cores."""
    return TrackingBudget(
        describing=Describing(steps=300),
        steps=4000,
        videos=16,
        questions=3,
        train_videos=100,
        pool_videos=30,
        test_videos=100,
    )


def full_budget() -> TrackingBudget:
    """Meant for one GPU."""
    return TrackingBudget(
        describing=Describing(steps=1000),
        steps=20_000,
        videos=32,
        questions=3,
        train_videos=200,
        pool_videos=60,
        test_videos=300,
    )


class TrackingTrack(StreamTrack):
    """State tracking over three objects, three places and three swapping sounds."""

    all_variants = VARIANTS
    quick = tuple(variant.name for variant in VARIANTS)
    parts = PARTS
    state_parts = STATE_PARTS
    latent_depth = 2

    def __init__(self, folder: Path, budget: TrackingBudget, device: str, workers: int) -> None:
        self.spent = budget
        super().__init__(folder, device, workers, budget.describing, budget.steps, budget.rate, 501)
        self.words = ChatTokenizer.from_words(swap_words())

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self.words

    @property
    def budget(self) -> str:
        return repr(self.spent)

    def scripts(self, split: str) -> list[Script]:
        training = split == "training"
        rng = random.Random(f"swaps {split}")
        videos = self.spent.train_videos if training else self.spent.pool_videos
        return [write_swap_script(rng.randrange(2**62), BEATS) for _ in range(videos)]

    def truth(self) -> Tensor:
        return SwapPool(self.scripts("training")).truth()

    def batches(self, seed: int) -> Iterator[StreamBatch]:
        """Videos of growing length and number of swaps, each asked about at its end and at two places before it."""
        pool = SwapPool(self.scripts("training"))
        most = max(TESTED)
        for step in range(self.steps):
            rng = random.Random(f"tracking {seed} {step}")
            # Videos grow over the first half; a first one shows an object, and asks where it is. Swaps grow in number
            # more slowly than videos: two are not learned before one is.
            done = (step + 1) / self.steps
            longest = max(1, round(SNIPPETS * min(1.0, 2 * done)))
            swapped = max(1, round(most * min(1.0, done / SWAPS_GROW)))
            snippets = longest if rng.random() < 0.5 else rng.randint(1, longest)
            whole = max(snippets, len(state_tracking.PLACES))
            games = [
                pool.game(rng, whole, rng.randint(0, min(swapped, whole - len(state_tracking.PLACES))))
                for _ in range(self.spent.videos)
            ]
            cuts = sorted({snippets, *(rng.randint(1, snippets) for _ in range(CUTS - 1))})
            questions = tuple(
                tensorize(
                    [
                        game.ask(rng, cut, rng.choice(("where", "where", "what")))
                        for game in games
                        for _ in range(self.spent.questions)
                    ],
                    whole,
                    self.words,
                )
                for cut in cuts
            )
            chosen_VT = torch.tensor([game.order for game in games])
            yield StreamBatch(
                chosen_VT=chosen_VT,
                cuts=tuple(cuts),
                questions=questions,
                told=tuple(range(1, whole + 1)),
                states_VCP=torch.tensor([game.told() for game in games]),
            )

    def tests(self) -> Sequence[tuple[str, float | None, TestSet]]:
        pool = SwapPool(self.scripts("test"))
        found: list[tuple[str, float | None, TestSet]] = []
        for count in TESTED:
            rng = random.Random(f"tracking test {count}")
            games = [pool.game(rng, SNIPPETS, count) for _ in range(self.spent.test_videos)]
            kinds = ("where", "what")
            asked = tuple(game.ask(rng, SNIPPETS, kind) for game in games for kind in kinds)
            test = TestSet(
                name="swaps",
                chosen_VT=torch.tensor([game.order for game in games]),
                asked=asked,
                labels=kinds * len(games),
            )
            found.append(("swaps", float(count), test))
        return found


def tracking_track(folder: Path, quick: bool, device: str, workers: int) -> TrackingTrack:
    """The track with its quick or its full budget."""
    return TrackingTrack(folder, quick_budget() if quick else full_budget(), device, workers)
