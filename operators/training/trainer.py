"""The training run: three stages, a learning-rate schedule each, checkpoints that resume to the same next step.

Stage `snippets` trains the encoders and the combiner to describe single snippets. Stage `long` freezes them, caches
the tokens of a pool of beats and trains the latent model and the text decoder on videos of growing length made of
these. Stage `polish` goes on with long videos alone, at a rate that starts lower.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

from longtake.operators.chat import ChatTokenizer
from longtake.operators.checkpoint import save_model
from longtake.operators.combiners import Features
from longtake.operators.config import ModelConfig
from longtake.operators.errors import InputError
from longtake.operators.model import LongTakeModel, named_towers
from longtake.operators.training.batches import Questions
from longtake.operators.training.losses import Losses, LossWeights, question_losses
from longtake.operators.training.pool import (
    BeatPool,
    EncodedBeats,
    LongDataset,
    LongStage,
    PoolSpec,
    RenderedVideos,
    encode_pool,
)
from longtake.operators.training.snippet_stage import PARTS, SnippetDataset, SnippetHeads, SnippetStage
from longtake.operators.world.questions import word_list

STAGES = ("snippets", "long", "polish", "done")
COLUMNS: tuple[str, ...] = (
    *("stage", "step", "loss", "features", "tokens", "text", "evidence", "next_tokens", "next_features", "exact"),
    *(*PARTS, "rate", "seconds"),
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


@dataclass(frozen=True, kw_only=True)
class Report:
    """One line of progress."""

    stage: str
    step: int
    steps: int
    values: dict[str, float]


class Trainer:
    """A run in a directory: `state.*` to resume, `curves.csv`, and the model in `model/` at the end."""

    def __init__(
        self,
        config: ModelConfig,
        plan: Plan,
        out: Path,
        *,
        device: str = "cpu",
        workers: int = 1,
        save_every: int = 250,
        log_every: int = 20,
    ) -> None:
        self.config, self.plan, self.out = config, plan, out
        self.device = torch.device(device)
        self.workers, self.save_every, self.log_every = workers, save_every, log_every
        self.tokenizer = ChatTokenizer.from_words(word_list())
        if len(self.tokenizer) > config.text.vocabulary:
            raise InputError(f"the world has {len(self.tokenizer)} words, the config room for {config.text.vocabulary}")
        self.towers = named_towers(config)
        torch.manual_seed(plan.seed)
        self.model = LongTakeModel(config, self.towers).to(self.device)
        # Both this and the pool are found out at once, not after hours of the first stage.
        if self.model.combiner.initial_memory(1).shape[1]:
            raise InputError(f"the {config.combiner.name} combiner carries memory: this training pools single snippets")
        self.pool: BeatPool | None = None
        self.heads = SnippetHeads(config, self.model.combiner.layout).to(self.device)
        self.optimizer: torch.optim.AdamW | None = None
        self.stage, self.step, self.seconds = "snippets", 0, 0.0

    def run(self, on_report: Callable[[Report], None], stop_after: int | None = None) -> None:
        """Train from where the directory's state stands to the end, or for `stop_after` steps.

        Raises:
            InputError: the directory holds a run of another plan or config, or the plan's pool is too small.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        self._resume()
        if self.stage != "done":
            self.pool = BeatPool(self.plan.pool)
            self._prepare(on_report)
        with self._attention():
            if self._train(on_report, stop_after):
                save_model(self.out / "model", self.model, self.tokenizer)

    def _prepare(self, on_report: Callable[[Report], None]) -> None:
        """What is to be done before the first step."""

    def _train(self, on_report: Callable[[Report], None], stop_after: int | None) -> bool:
        """Whether the run came to its end."""
        done = 0
        plan = self.plan
        schedule = {
            "snippets": (plan.snippet_steps, plan.snippet_rate),
            "long": (plan.long_steps, plan.long_rate),
            "polish": (plan.polish_steps, plan.polish_rate),
        }
        for stage, (steps, peak) in schedule.items():
            if self.stage != stage:
                continue
            self._freeze(stage)
            if stage == "long" and self.step == 0:
                self._renew_readers()
            if self.optimizer is None:
                self.optimizer = self._fresh_optimizer()
            batches = self._snippet_losses() if stage == "snippets" else self._long_losses(stage)
            began = time.monotonic()
            for losses in batches:
                rate = _rate(self.step, steps, self.plan.warmup, peak)
                self._update(losses.total, rate)
                self.step += 1
                done += 1
                self.seconds += time.monotonic() - began
                began = time.monotonic()
                if self.step % self.log_every == 0 or self.step == steps:
                    values = {"loss": losses.total.item(), **losses.parts, "rate": rate, "seconds": self.seconds}
                    self._log(stage, values)
                    on_report(Report(stage=stage, step=self.step, steps=steps, values=values))
                if self.step % self.save_every == 0:
                    self.save()
                if stop_after is not None and done >= stop_after:
                    self.save()
                    return False
            if stage == "snippets":
                # Tokens that other encoders left here are not these.
                self._cache.unlink(missing_ok=True)
            self.stage = STAGES[STAGES.index(stage) + 1]
            self.step, self.optimizer = 0, None
            self.save()
        return True

    def _snippets(self) -> Dataset[Any]:
        """Batches of the first stage: what `_features` takes, and descriptions."""
        return SnippetDataset(self.config, self.plan.snippets, self.plan.snippet_steps, self.plan.seed)

    def _pool_beats(self) -> Iterable[Any]:
        """All of the pool's beats in their order, as `_features` takes them."""
        return self._loader(RenderedVideos(self.config, self.plan.pool), 0)

    def _snippet_losses(self) -> Iterator[Losses]:
        for _, (clips, truth_SP) in self._from(self._snippets(), self.step):
            with self._autocast():
                features = self._features(clips)
                count = len(truth_SP)
                memory = self.model.combiner.initial_memory(count)
                tokens_SmD, _ = self.model.combiner(features, memory, torch.zeros(count, device=self.device))
                sound_S = clips.heard_S.to(self.device)
                of_features, of_tokens, right = self.heads(features, tokens_SmD, truth_SP.to(self.device), sound_S)
            parts = {"features": of_features.item(), "tokens": of_tokens.item(), **right}
            parts["exact"] = sum(right.values()) / max(1, len(right))
            yield Losses(total=of_features + of_tokens, parts=parts)

    def _long_losses(self, stage: str) -> Iterator[Losses]:
        plan = self.plan
        made, steps = (plan.long, plan.long_steps) if stage == "long" else (plan.polish, plan.polish_steps)
        assert self.pool is not None
        beats = self._encoded_beats()
        seed = plan.seed + STAGES.index(stage) - 1
        data = LongDataset(self.pool, self.tokenizer, made, steps, seed)
        generator = torch.Generator()
        for step, (chosen_VT, questions) in self._from(data, self.step):
            chosen_VT = chosen_VT.to(self.device)
            generator.manual_seed(seed * 1_000_003 + step)
            keep_VT = (torch.rand(chosen_VT.shape, generator=generator) < plan.keep).to(self.device)
            questions = Questions(**{name: value.to(self.device) for name, value in vars(questions).items()})
            with self._autocast():
                yield question_losses(
                    self.model,
                    beats.tokens_PmD[chosen_VT],
                    questions,
                    plan.weights,
                    keep_VT,
                    (beats.video_PR[chosen_VT], beats.audio_PR[chosen_VT]),
                )

    @property
    def _cache(self) -> Path:
        return self.out / "pool.safetensors"

    def _encoded_beats(self) -> EncodedBeats:
        """The pool's tokens and reduced features, from the run's cache where it is there."""
        cache = self._cache
        if not cache.is_file():
            # Float32, as in use: what the decoder learns to read is what it will be given.
            _write(cache, vars(encode_pool(self.model, self._features, self._pool_beats())))
        return EncodedBeats(**{name: value.to(self.device) for name, value in load_file(cache).items()})

    def _features(self, clips: Any) -> Features:
        """The encoders' features of a batch of `Clips`."""
        parts = (clips.frames_SFHWC, clips.frame_mask_SF, clips.mel_SAM, clips.mel_mask_SA)
        return self.model.features(*(part.to(self.device, non_blocking=True) for part in parts))

    def _from(self, data: Dataset[Any], first: int) -> Iterable[tuple[int, Any]]:
        return enumerate(self._loader(data, first), start=first)

    def _loader(self, data: Dataset[Any], first: int) -> DataLoader[Any]:
        return DataLoader(
            data,
            batch_size=None,
            sampler=range(first, len(data)),  # type: ignore[arg-type]
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            multiprocessing_context="spawn" if self.workers else None,
        )

    def _attention(self) -> AbstractContextManager[None]:
        # On a CPU the fused attention's backward takes eight times as long as plain products at these sizes.
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _freeze(self, stage: str) -> None:
        """Let a stage train its own parts alone."""
        model = self.model
        for part in (model.video_encoder, model.audio_encoder, model.combiner, self.heads):
            part.requires_grad_(stage == "snippets")
        model.latent_model.requires_grad_(stage != "snippets")
        model.text_decoder.requires_grad_(stage != "snippets")

    def _renew_readers(self) -> None:
        """Start the latent model and the text decoder from weights that the plan's seed alone gives, so that this
        stage may be run again on the same encoders with other settings."""
        torch.manual_seed(self.plan.seed + 1)
        fresh = LongTakeModel(self.config, self.towers)
        self.model.latent_model.load_state_dict(fresh.latent_model.state_dict())
        self.model.text_decoder.load_state_dict(fresh.text_decoder.state_dict())

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The parameters of the current stage."""
        named = list(self._modules().named_parameters())
        return [(name, parameter) for name, parameter in named if parameter.requires_grad]

    def _modules(self) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({"model": self.model, "heads": self.heads})

    def _fresh_optimizer(self) -> torch.optim.AdamW:
        decayed = [p for _, p in self._trained() if p.ndim >= 2]
        others = [p for _, p in self._trained() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": self.plan.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))

    def _update(self, loss: Tensor, rate: float) -> None:
        assert self.optimizer is not None
        if not math.isfinite(loss.item()):
            raise InputError(f"the loss is {loss.item()} at step {self.step} of stage {self.stage}; lower the rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in self._trained()], 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def _log(self, stage: str, values: dict[str, float]) -> None:
        path = self.out / "curves.csv"
        fresh = not path.is_file()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            if fresh:
                writer.writeheader()
            writer.writerow(
                {"stage": stage, "step": self.step, **{k: f"{v:.6g}" for k, v in values.items() if k in COLUMNS}}
            )

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        identity: dict[str, Any] = {"plan": repr(self.plan), "config": self.config.fingerprint()}
        if self.towers is not None:
            named = (self.towers.video, self.towers.audio)
            identity["towers"] = [None if tower is None else tower.fingerprint for tower in named]
        return identity

    def save(self) -> None:
        """Write the state that `run` resumes from: tensors first, then the file that names them, at once."""
        tensors = {f"weights/{name}": value for name, value in self._modules().state_dict().items()}
        if self.optimizer is not None:
            for name, parameter in self._trained():
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value).cpu()
        name = f"state-{self.stage}-{self.step}.safetensors"
        _write(self.out / name, tensors)
        state = {
            "tensors": name,
            **self._identity(),
            "stage": self.stage,
            "step": self.step,
            "seconds": self.seconds,
        }
        part = self.out / "state.json.part"
        part.write_text(json.dumps(state, indent=2))
        part.replace(self.out / "state.json")
        for old in self.out.glob("state*.safetensors*"):
            if old.name != name:
                old.unlink()

    def _resume(self) -> None:
        path = self.out / "state.json"
        if not path.is_file():
            # A run that was killed before its first save starts anew.
            _trim(self.out / "curves.csv", "snippets", 0)
            return
        state = json.loads(path.read_text())
        if any(state.get(name) != value for name, value in self._identity().items()):
            raise InputError(f"{self.out}: holds a run of another plan or config; choose another directory")
        self.stage, self.step, self.seconds = state["stage"], state["step"], state["seconds"]
        tensors = load_file(self.out / state.get("tensors", "state.safetensors"))
        prefix = "weights/"
        self._modules().load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        self._freeze(self.stage)
        self.optimizer = self._fresh_optimizer()
        for name, parameter in self._trained():
            prefix = f"optimizer/{name}/"
            saved = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if saved:
                self.optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(self.device) for key, value in saved.items()
                }
        _trim(self.out / "curves.csv", self.stage, self.step)


def _rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear warm-up, then a cosine to a fiftieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    part = path.with_name(path.name + ".part")
    save_file({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, part)
    part.replace(path)


def _trim(path: Path, stage: str, step: int) -> None:
    """Drop the rows that a killed run wrote after its last saved state."""
    if not path.is_file():
        return
    order = {name: number for number, name in enumerate(STAGES)}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [r for r in rows if (order[r["stage"]], int(r["step"])) <= (order[stage], step) or stage == "done"]
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
    part.replace(path)
