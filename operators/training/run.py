"""A training run in a directory: stages, a learning-rate schedule each, saves that resume to the same next step.

What a stage trains, on which losses, and what happens between stages is the subclass's.
"""

from __future__ import annotations

import csv
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

from longtake.errors import InputError
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.checkpoint import save_model
from longtake.operators.model.model import LongTakeModel
from longtake.operators.training.losses import Losses

DONE = "done"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """So many steps, by a learning rate that rises to `rate` and falls to a fiftieth of it."""

    name: str
    steps: int
    rate: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """One line of progress."""

    stage: str
    step: int
    steps: int
    values: dict[str, float]


class TrainingRun(ABC):
    """A run in a directory: `state.*` to resume, `curves.csv`, and the model in `model/` at the end.

    A subclass sets `model` and `tokenizer`, names the columns of its curves, and says what its stages do.
    """

    columns: tuple[str, ...]
    model: LongTakeModel
    tokenizer: ChatTokenizer

    def __init__(
        self,
        out: Path,
        stages: Sequence[Stage],
        *,
        weight_decay: float,
        warmup: int,
        device: str = "cpu",
        workers: int = 1,
        save_every: int = 250,
        log_every: int = 20,
    ) -> None:
        self.out, self.stages = out, tuple(stages)
        self.weight_decay, self.warmup = weight_decay, warmup
        self.device = torch.device(device)
        self.workers, self.save_every, self.log_every = workers, save_every, log_every
        self.optimizer: torch.optim.AdamW | None = None
        self.stage, self.step, self.seconds = self.stages[0].name, 0, 0.0

    @abstractmethod
    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on; plain JSON."""

    @abstractmethod
    def _freeze(self, stage: str) -> None:
        """Let a stage train its own parts alone."""

    @abstractmethod
    def _losses(self, stage: str) -> Iterator[Losses]:
        """The losses of a stage's steps from `step` on."""

    @abstractmethod
    def _prepare(self, on_report: Callable[[Report], None]) -> None:
        """What is to be done before the first step of a run that is not done."""

    @abstractmethod
    def _begin(self, stage: str) -> None:
        """What is to be done before a stage's first step, when its parts are frozen."""

    @abstractmethod
    def _end(self, stage: str) -> None:
        """What is to be done when a stage has ended, before that is saved."""

    def _modules(self) -> torch.nn.ModuleDict:
        """All that is saved, by names that a resumed run must have too."""
        return torch.nn.ModuleDict({"model": self.model})

    def run(self, on_report: Callable[[Report], None], stop_after: int | None = None) -> None:
        """Train from where the directory's state stands to the end, or for `stop_after` steps.

        Raises:
            InputError: the directory holds a run of another plan or config, or the plan cannot be carried out.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        self._resume()
        if self.stage != DONE:
            self._prepare(on_report)
        with self._attention():
            if self._train(on_report, stop_after):
                save_model(self.out / "model", self.model, self.tokenizer)

    def _train(self, on_report: Callable[[Report], None], stop_after: int | None) -> bool:
        """Whether the run came to its end."""
        done = 0
        for number, stage in enumerate(self.stages):
            if self.stage != stage.name:
                continue
            self._freeze(stage.name)
            if self.step == 0:
                self._begin(stage.name)
            if self.optimizer is None:
                self.optimizer = self._fresh_optimizer()
            began = time.monotonic()
            for losses in self._losses(stage.name):
                rate = _rate(self.step, stage.steps, self.warmup, stage.rate)
                self._update(losses.total, rate)
                self.step += 1
                done += 1
                self.seconds += time.monotonic() - began
                began = time.monotonic()
                if self.step % self.log_every == 0 or self.step == stage.steps:
                    values = {"loss": losses.total.item(), **losses.parts, "rate": rate, "seconds": self.seconds}
                    self._log(stage.name, values)
                    on_report(Report(stage=stage.name, step=self.step, steps=stage.steps, values=values))
                if self.step % self.save_every == 0:
                    self.save()
                if stop_after is not None and done >= stop_after:
                    self.save()
                    return False
            self._end(stage.name)
            self.stage = self._names()[number + 1]
            self.step, self.optimizer = 0, None
            self.save()
        return True

    def _names(self) -> tuple[str, ...]:
        return (*(stage.name for stage in self.stages), DONE)

    def _from(self, data: Dataset[Any], first: int) -> Iterable[tuple[int, Any]]:
        """A data set's items from number `first` on, with their numbers."""
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

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The parameters of the current stage."""
        named = list(self._modules().named_parameters())
        return [(name, parameter) for name, parameter in named if parameter.requires_grad]

    def _fresh_optimizer(self) -> torch.optim.AdamW:
        decayed = [p for _, p in self._trained() if p.ndim >= 2]
        others = [p for _, p in self._trained() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
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
            writer = csv.DictWriter(file, self.columns, restval="")
            if fresh:
                writer.writeheader()
            writer.writerow(
                {"stage": stage, "step": self.step, **{k: f"{v:.6g}" for k, v in values.items() if k in self.columns}}
            )

    def save(self) -> None:
        """Write the state that `run` resumes from: tensors first, then the file that names them, at once."""
        tensors = {f"weights/{name}": value for name, value in self._modules().state_dict().items()}
        if self.optimizer is not None:
            for name, parameter in self._trained():
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value).cpu()
        name = f"state-{self.stage}-{self.step}.safetensors"
        write_tensors(self.out / name, tensors)
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
            self._trim_curves()
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
        self._trim_curves()

    def _trim_curves(self) -> None:
        """Drop the rows that a killed run wrote after its last saved state."""
        path = self.out / "curves.csv"
        if not path.is_file():
            return
        order = {name: number for number, name in enumerate(self._names())}
        here = order[self.stage], self.step
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        kept = [row for row in rows if self.stage == DONE or (order[row["stage"]], int(row["step"])) <= here]
        part = path.with_name(path.name + ".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(kept)
        part.replace(path)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file that is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    save_file({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, part)
    part.replace(path)


def _rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear warm-up, then a cosine to a fiftieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
