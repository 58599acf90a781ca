"""Training on made worlds: three stages.

Stage `snippets` trains the encoders and the combiner to describe single snippets. Stage `long` freezes them, caches
the tokens of a pool of beats and trains the latent model and the text decoder on videos of growing length made of
these, by questions and, where a plan says so, by what each snippet is after all before it. Stage `polish` goes on with
long videos alone, at a rate that starts lower. Several worlds take turns, step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

from longtake.errors import InputError
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.checkpoint import LoadedModel
from longtake.operators.model.combiners import Features
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.model import LongTakeModel, named_towers
from longtake.operators.synthetic.training.running_state_head import RunningStateHead
from longtake.operators.synthetic.training.shapes_task import BUILT_IN_COURSE
from longtake.operators.synthetic.training.snippet_pool import (
    EncodedSnippets,
    LongDataset,
    LongStage,
    RenderedVideos,
    encode_pool,
)
from longtake.operators.synthetic.training.snippet_stage import (
    Ears,
    SnippetBatch,
    SnippetDataset,
    SnippetHeads,
    SnippetStage,
)
from longtake.operators.synthetic.training.task import Pool, PoolSpec, Task
from longtake.operators.training.batch_tensors import Questions
from longtake.operators.training.losses import Losses, LossWeights, question_losses
from longtake.operators.training.run import DONE, Report, Stage, TrainingRun, write_tensors

T = TypeVar("T")

STAGES = ("snippets", "long", "polish", DONE)
COLUMNS: tuple[str, ...] = (
    *("stage", "step", "loss", "features", "ears", "tokens"),
    *("text", "evidence", "recall", "next_tokens", "next_features", "exact"),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does; two runs with one plan see the same data in the same order."""

    seed: int = 0
    snippet_steps: int = 2500
    snippet_rate: float = 1.5e-3
    snippets: SnippetStage = field(default_factory=lambda: SnippetStage(videos=16, beats=8))
    long_steps: int = 2500
    long_rate: float = 1.5e-3
    long: LongStage = field(
        default_factory=lambda: LongStage(videos=16, beats=(4, 64), questions=14, captions=1, spans=0.3)
    )
    polish_steps: int = 1300
    polish_rate: float = 8e-4
    polish: LongStage = field(
        default_factory=lambda: LongStage(videos=16, beats=(32, 64), questions=14, captions=1, spans=0.3)
    )
    pool: PoolSpec = field(default_factory=lambda: PoolSpec(videos=300, beats=64, seed=1))
    weight_decay: float = 0.03
    warmup: int = 100
    keep: float = 0.9  # share of snippets that random masking leaves visible to others
    weights: LossWeights = field(default_factory=LossWeights)
    # Which task's turn each step is, over and over.
    turns: tuple[int, ...] = (0,)
    # The beats that stage `snippets` of a run on stored beats trains on; None stands for the pool's.
    stored: PoolSpec | None = None
    # Whether stored beats are varied whenever they are drawn.
    varied: bool = False
    # How many further stored beats each step of stage `snippets` hears and does not see.
    ears: int = 0


class TakingTurns(Dataset[tuple[int, Any]]):
    """Item n is the number of the task whose turn step n is, and item n of that task's data."""

    def __init__(self, data: Sequence[Dataset[Any]], turns: Sequence[int]) -> None:
        self.data, self.turns = tuple(data), tuple(turns)

    def __len__(self) -> int:
        return min(len(one) for one in self.data)  # type: ignore[arg-type]

    def __getitem__(self, step: int) -> tuple[int, Any]:
        turn = self.turns[step % len(self.turns)]
        return turn, self.data[turn][step]


class Trainer(TrainingRun):
    """A run on made worlds.

    Args:
        tasks: the worlds, by different names; `plan.turns` numbers them.
        encoders: a model whose encoders and combiner are taken as they are; stage `snippets` is left out then.
    Raises:
        InputError: the tasks, the plan, the config or the encoders do not go together.
    """

    def __init__(
        self,
        config: ModelConfig,
        plan: Plan,
        out: Path,
        *,
        tasks: Sequence[Task[Any]] = (BUILT_IN_COURSE,),
        encoders: LoadedModel | None = None,
        device: str = "cpu",
        workers: int = 1,
        save_every: int = 250,
        log_every: int = 20,
    ) -> None:
        stages = (
            Stage(name="snippets", steps=plan.snippet_steps if encoders is None else 0, rate=plan.snippet_rate),
            Stage(name="long", steps=plan.long_steps, rate=plan.long_rate),
            Stage(name="polish", steps=plan.polish_steps, rate=plan.polish_rate),
        )
        super().__init__(
            out,
            stages,
            weight_decay=plan.weight_decay,
            warmup=plan.warmup,
            device=device,
            workers=workers,
            save_every=save_every,
            log_every=log_every,
        )
        self.config, self.plan, self.tasks = config, plan, tuple(tasks)
        if not set(plan.turns) <= set(range(len(self.tasks))):
            raise ValueError(f"turns {plan.turns} of {len(self.tasks)} tasks")
        # The built-in world has no numbers of more than one digit.
        words = [word for task in tasks for word in task.world.words()]
        self.tokenizer = ChatTokenizer.from_words(words, digits=any(task is not BUILT_IN_COURSE for task in tasks))
        if len(self.tokenizer) > config.text.vocabulary:
            raise InputError(f"the world has {len(self.tokenizer)} words, the config room for {config.text.vocabulary}")
        names = [part.name for task in tasks for part in (*task.parts, *task.recalls)]
        self.columns = (*COLUMNS, *dict.fromkeys(names), "rate", "seconds")
        self.towers = named_towers(config)
        torch.manual_seed(plan.seed)
        self.model = LongTakeModel(config, self.towers).to(self.device)
        # Both this and the pool are found out at once, not after hours of the first stage.
        if self.model.combiner.initial_memory(1).shape[1]:
            raise InputError(f"the {config.combiner.name} combiner carries memory: this training pools single snippets")
        self.encoders_from = None if encoders is None else encoders.fingerprint
        if encoders is not None:
            self._take(encoders)
        self.pools: list[Pool[Any]] = []
        layout = self.model.combiner.layout
        self.heads = torch.nn.ModuleDict({task.name: SnippetHeads(config, layout, task.parts) for task in tasks}).to(
            self.device
        )
        self.recalls = torch.nn.ModuleDict({task.name: RunningStateHead(config, task.recalls) for task in tasks}).to(
            self.device
        )

    def _prepare(self, on_report: Callable[[Report], None]) -> None:
        self.pools = [task.pool(self.plan.pool) for task in self.tasks]

    def _begin(self, stage: str) -> None:
        if stage == "long":
            self._renew_readers()

    def _end(self, stage: str) -> None:
        if stage == "snippets":
            # Tokens that other encoders left here are not these.
            for task in self.tasks:
                self._cache(task).unlink(missing_ok=True)

    def _losses(self, stage: str) -> Iterator[Losses]:
        if stage != "snippets":
            return self._long_losses(stage)
        return self._snippet_losses() if self.encoders_from is None else iter(())

    def _snippets(self, task: Task[Any]) -> Dataset[SnippetBatch]:
        """Batches of the first stage: what `_features` and `_heard` take, and descriptions."""
        return SnippetDataset(self.config, task, self.plan.snippets, self.plan.snippet_steps, self.plan.seed)

    def _pool_beats(self, task: Task[Any]) -> Iterable[Any]:
        """All of the pool's beats in their order, as `_features` takes them."""
        return self._loader(RenderedVideos(self.config, self.plan.pool, task.world), 0)

    def _in_turn(self, data: Sequence[Dataset[T]]) -> Iterable[tuple[int, tuple[int, T]]]:
        """From the present step on: the step, the number of the task, and its batch."""
        return self._from(TakingTurns(data, self.plan.turns), self.step)

    def _snippet_losses(self) -> Iterator[Losses]:
        for _, (turn, batch) in self._in_turn([self._snippets(task) for task in self.tasks]):
            heads = cast(SnippetHeads, self.heads[self.tasks[turn].name])
            clips, truth_SP, ears = batch.clips, batch.truth_SP, batch.ears
            with self._autocast():
                features = self._features(clips)
                count = len(truth_SP)
                memory = self.model.combiner.initial_memory(count)
                tokens_SmD, _ = self.model.combiner(features, memory, torch.zeros(count, device=self.device))
                sound_S = clips.heard_S.to(self.device)
                of_features, of_tokens, right = heads(features, tokens_SmD, truth_SP.to(self.device), sound_S)
            total = of_features + of_tokens
            parts = {"features": of_features.item(), "tokens": of_tokens.item(), **right}
            parts["exact"] = sum(right.values()) / max(1, len(right))
            if ears is not None:
                with self._autocast():
                    of_ears = heads.hear(self._heard(ears), ears.truth_SP.to(self.device))
                total = total + of_ears
                parts["ears"] = of_ears.item()
            yield Losses(total=total, parts=parts)

    def _long_losses(self, stage: str) -> Iterator[Losses]:
        plan = self.plan
        made, steps = (plan.long, plan.long_steps) if stage == "long" else (plan.polish, plan.polish_steps)
        encoded = [self._encoded_beats(task) for task in self.tasks]
        seed = plan.seed + STAGES.index(stage) - 1
        data = [
            LongDataset(pool, task, self.tokenizer, made, steps, seed)
            for pool, task in zip(self.pools, self.tasks, strict=True)
        ]
        generator = torch.Generator()
        for step, (turn, batch) in self._in_turn(data):
            beats, recall = encoded[turn], self.recalls[self.tasks[turn].name]
            chosen_VT, recalled_VTP = batch.chosen_VT.to(self.device), batch.recalled_VTP.to(self.device)
            positions_T = None if batch.positions_T is None else batch.positions_T.to(self.device)
            generator.manual_seed(seed * 1_000_003 + step)
            keep_VT = (torch.rand(chosen_VT.shape, generator=generator) < plan.keep).to(self.device)
            questions = Questions(**{name: value.to(self.device) for name, value in vars(batch.questions).items()})
            with self._autocast():
                yield question_losses(
                    self.model,
                    beats.tokens_PmD[chosen_VT],
                    questions,
                    plan.weights,
                    keep_VT,
                    (beats.video_PR[chosen_VT], beats.audio_PR[chosen_VT]),
                    positions_T,
                    recall=partial(recall, truth_VTP=recalled_VTP),
                )

    def _cache(self, task: Task[Any]) -> Path:
        return self.out / f"pool-{task.name}.safetensors"

    def _encoded_beats(self, task: Task[Any]) -> EncodedSnippets:
        """The tokens and reduced features of a task's pool, from the run's cache where they are there."""
        cache = self._cache(task)
        if not cache.is_file():
            # Float32, as in use: what the decoder learns to read is what it will be given.
            write_tensors(cache, vars(encode_pool(self.model, self._features, self._pool_beats(task))))
        return EncodedSnippets(**{name: value.to(self.device) for name, value in load_file(cache).items()})

    def _features(self, clips: Any) -> Features:
        """The encoders' features of a batch of `Clips`."""
        parts = (clips.frames_SFHWC, clips.frame_mask_SF, clips.mel_SAM, clips.mel_mask_SA)
        return self.model.features(*(part.to(self.device, non_blocking=True) for part in parts))

    def _heard(self, ears: Ears) -> Tensor:
        """The sound encoder's features of beats that are heard only, [S, N, D]."""
        features_SND, _ = self.model.audio_encoder(ears.audio.to(self.device), ears.audio_mask.to(self.device))
        out_SND: Tensor = features_SND
        return out_SND

    def _freeze(self, stage: str) -> None:
        """Let a stage train its own parts alone."""
        model = self.model
        for part in (model.video_encoder, model.audio_encoder, model.combiner, self.heads):
            part.requires_grad_(stage == "snippets")
        model.latent_model.requires_grad_(stage != "snippets")
        model.text_decoder.requires_grad_(stage != "snippets")
        self.recalls.requires_grad_(stage != "snippets")

    def _take(self, encoders: LoadedModel) -> None:
        """Copy encoders and combiner of another model."""
        for part in ("video_encoder", "audio_encoder", "combiner"):
            try:
                getattr(self.model, part).load_state_dict(getattr(encoders.model, part).state_dict())
            except RuntimeError as error:
                raise InputError(
                    f"{encoders.path}: its {part} is not that of {self.config.name}, so it cannot be taken"
                ) from error

    def _renew_readers(self) -> None:
        """Start the latent model and the text decoder from weights that the plan's seed alone gives, so that this
        stage may be run again on the same encoders with other settings."""
        torch.manual_seed(self.plan.seed + 1)
        fresh = LongTakeModel(self.config, self.towers)
        self.model.latent_model.load_state_dict(fresh.latent_model.state_dict())
        self.model.text_decoder.load_state_dict(fresh.text_decoder.state_dict())

    def _modules(self) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({"model": self.model, "heads": self.heads, "recalls": self.recalls})

    def _identity(self) -> dict[str, Any]:
        identity: dict[str, Any] = {"plan": repr(self.plan), "config": self.config.fingerprint()}
        # The name under which runs have it on disk: with another, a run that was begun before would not go on.
        identity["courses"] = [task.key for task in self.tasks]
        identity["encoders"] = self.encoders_from
        if self.towers is not None:
            named = (self.towers.video, self.towers.audio)
            identity["towers"] = [None if tower is None else tower.fingerprint for tower in named]
        return identity
