"""The track of bounded memory: the decoder reads 16, 32 or 64 tokens, written while the question is unknown."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from longtake.operators.ablation.combining import Describing
from longtake.operators.ablation.questions import Batches, TestSet, question_set
from longtake.operators.ablation.stream import StreamBatch, StreamVariant, Writer
from longtake.operators.ablation.stream_track import StreamTrack
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.synthetic.questions import Kind
from longtake.operators.synthetic.script import BEAT_S, COLOURS, MAX_COUNT, SHAPES, SOUNDS, Script, Thing
from longtake.operators.synthetic.training.shapes_task import DESCRIPTION, ScriptPool, describe
from longtake.operators.synthetic.training.task import PoolSpec
from longtake.operators.synthetic.worlds import BUILT_IN

BEATS = 64
# Facts that a small memory can hold: a flash and at most 24 soundings a video, however long it is. What else was shown
# ("exists") grows with the video.
SHARES: tuple[tuple[Kind, int], ...] = (("needle", 3), ("bind", 4), ("first", 3), ("last", 3), ("count", 3))

# What is told in training after some snippets of each video: what the flash came with, and of every sound how often it
# was heard and what it came with first and last. Questions alone are too rare a hint of what to keep: without this
# nobody with 32 tokens learned more than the flash in 2,500 steps.
_SEEN = (DESCRIPTION["colour_heard"], DESCRIPTION["shape_heard"])
STATE_PARTS = (*_SEEN, *(MAX_COUNT + 1, *_SEEN, *_SEEN) * len(SOUNDS))

_SAYS: dict[Writer, str] = {
    "ttm": "a Token Turing Machine's memory of {} tokens",
    "fifo": "first in, first out: the last {} tokens",
    "uniform": "{} tokens of evenly spread snippets",
    "mean": "{} tokens, means of consecutive snippets",
    "latent_last": "the latent model's last {} states, which have attended to everything",
}
VARIANTS: tuple[StreamVariant, ...] = (
    StreamVariant(name="all", says="every latent: no bound, the ceiling", writer="latents"),
    *(
        StreamVariant(name=f"{writer}_{memory}", says=says.format(memory), writer=writer, memory=memory)
        for memory in (16, 32, 64)
        for writer, says in _SAYS.items()
    ),
    StreamVariant(name="question_only", says="the question alone", writer="none"),
)


@dataclass(frozen=True, kw_only=True)
class MemoryBudget:
    """How much a run trains and is asked; `per_kind` questions of each kind about each of `test_videos` of each of
    `lengths`.

    What is true is told at the end of each training video and at `told` - 1 places before it. In a share of `spread` of
    the steps the snippets stand at random numbers up to the longest test's, so that none of these is new (as in the
    training of `small`).
    """

    describing: Describing
    batches: Batches
    train_videos: int
    pool_videos: int
    test_videos: int
    per_kind: int
    told: int = 8
    spread: float = 0.5
    lengths: tuple[int, ...] = (64, 128, 256, 512)
    rate: float = 2e-3


def quick_budget() -> MemoryBudget:
    """Six variants and one seed in 60 minutes on two cores."""
    batches = Batches(steps=4000, videos=8, beats=(1, BEATS), questions=12, captions=0, spans=0.0, shares=SHARES)
    return MemoryBudget(
        describing=Describing(steps=300), batches=batches, train_videos=150, pool_videos=40, test_videos=24, per_kind=4
    )


def full_budget() -> MemoryBudget:
    """Meant for one GPU."""
    batches = dataclasses.replace(quick_budget().batches, steps=10_000, videos=16)
    return MemoryBudget(
        describing=Describing(steps=1000),
        batches=batches,
        train_videos=300,
        pool_videos=100,
        test_videos=60,
        per_kind=5,
    )


class MemoryTrack(StreamTrack):
    """Bounded memory on the made world's questions about flash and sounds."""

    all_variants = VARIANTS
    quick = ("all", "ttm_32", "fifo_32", "uniform_32", "mean_32", "latent_last_32")
    parts = DESCRIPTION
    state_parts = STATE_PARTS

    def __init__(self, folder: Path, budget: MemoryBudget, device: str, workers: int) -> None:
        self.spent = budget
        super().__init__(folder, device, workers, budget.describing, budget.batches.steps, budget.rate, 301)
        self.specs = {
            "training": PoolSpec(videos=budget.train_videos, beats=BEATS, seed=301),
            "test": PoolSpec(videos=budget.pool_videos, beats=BEATS, seed=402),
        }

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self.loaded.tokenizer

    @property
    def budget(self) -> str:
        return repr(self.spent)

    def scripts(self, split: str) -> list[Script]:
        return self.specs[split].scripts(BUILT_IN)

    def truth(self) -> Tensor:
        return torch.cat([describe(beat) for beat in ScriptPool(self.specs["training"]).beats])

    def batches(self, seed: int) -> Iterator[StreamBatch]:
        pool = ScriptPool(self.specs["training"])
        for step in range(self.steps):
            chosen_VT, questions = self.spent.batches.draw(pool, self.tokenizer, seed, step)
            snippets = chosen_VT.shape[1]
            rng = random.Random(f"memory {seed} {step}")
            told = tuple(sorted({snippets, *(rng.randint(1, snippets) for _ in range(self.spent.told - 1))}))
            positions_T = None
            if rng.random() < self.spent.spread:
                positions_T = torch.tensor(sorted(rng.sample(range(max(self.spent.lengths)), snippets)))
            yield StreamBatch(
                chosen_VT=chosen_VT,
                cuts=(snippets,),
                questions=(questions,),
                told=told,
                states_VCP=torch.tensor([states(pool.script(order), told) for order in chosen_VT.tolist()]),
                positions_T=positions_T,
            )

    def tests(self) -> Sequence[tuple[str, float | None, TestSet]]:
        pool = ScriptPool(self.specs["test"])
        rng = random.Random("memory tests")
        kinds = [kind for kind, _ in SHARES]
        found: list[tuple[str, float | None, TestSet]] = []
        for snippets in self.spent.lengths:
            orders = [pool.arrange(rng, snippets) for _ in range(self.spent.test_videos)]
            found.append(
                ("world", None, question_set("world", pool, orders, self.spent.per_kind, 0.0, snippets, kinds))
            )
        return found


def states(script: Script, cuts: Sequence[int]) -> list[list[int]]:
    """What is true after each of `cuts` snippets: the values of `STATE_PARTS`, zeros for what was not seen or heard."""
    rows = []
    for cut in cuts:
        stop_s = cut * BEAT_S
        flashes = [flash for flash in script.flashes if flash.start_s < stop_s]
        row = _seen(script.thing_at(flashes[0].start_s) if flashes else None)
        for name in SOUNDS:
            heard = [sound for sound in script.sounds if sound.name == name and sound.start_s < stop_s]
            row.append(len(heard))
            for place in (0, -1):
                row += _seen(script.thing_at((heard[place].start_s + heard[place].stop_s) / 2) if heard else None)
        rows.append(row)
    return rows


def _seen(thing: Thing | None) -> list[int]:
    return [COLOURS.index(thing.colour) + 1, SHAPES.index(thing.shape) + 1] if thing else [0, 0]


def memory_track(folder: Path, quick: bool, device: str, workers: int) -> MemoryTrack:
    """The track with its quick or its full budget."""
    return MemoryTrack(folder, quick_budget() if quick else full_budget(), device, workers)
