"""Training on rows about videos, in Mirasol3B's two stages (arXiv 2311.05698, section 4).

Stage `snippets` is pretraining: short stretches of snippets, with captions where there are some, and reconstruction of
the next snippet, all losses alike. Stage `questions` learns all rows over whole videos; its text counts ten times as
much as reconstruction. Where no encoder and no combiner learns, tokens are read from a table that is filled once, and
reconstruction is of tokens alone; elsewhere decoded snippets are.

Combiners with memory are trained through each stretch, which begins with their initial memory.

Shapes: V stretches, T snippets, S = V * T, m tokens, D width, R reduced width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from longtake.errors import InputError
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.checkpoint import CONFIG, WEIGHTS, save_model
from longtake.operators.model.model import LongTakeModel
from longtake.operators.training.data_plan import (
    ENCODERS,
    PARTS,
    DataPlan,
    TokenSource,
    TrainingData,
    question_batches,
    snippet_batches,
)
from longtake.operators.training.losses import Losses, LossWeights, question_losses, reconstruction_losses, reduced
from longtake.operators.training.row_batches import RowBatch, Stretch, moved, tensorize_rows
from longtake.operators.training.run import Report, Stage, TrainingRun
from longtake.operators.training.snippet_store import join_clips


class DataTrainer(TrainingRun):
    """A run on rows.

    Args:
        model: what is trained, on `device` from here on. start: names the checkpoint that it came from, if any.
    """

    columns = (
        *("stage", "step", "loss", "text", "evidence", "next_tokens", "next_features", "exact"),
        *("rate", "seconds"),
    )

    def __init__(
        self,
        model: LongTakeModel,
        tokenizer: ChatTokenizer,
        plan: DataPlan,
        data: TrainingData,
        out: Path,
        *,
        start: str = "",
        device: str = "cpu",
        save_every: int = 250,
        log_every: int = 20,
    ) -> None:
        self.batches = {"snippets": snippet_batches(plan, data), "questions": question_batches(plan, data)}
        stages = [
            Stage(name=name, steps=batches.steps, rate=getattr(plan, name).rate)
            for name, batches in self.batches.items()
        ]
        shortest = min([stage.steps for stage in stages if stage.steps], default=0)
        super().__init__(
            out,
            stages,
            weight_decay=plan.weight_decay,
            warmup=min(100, shortest // 10),
            device=device,
            save_every=save_every,
            log_every=log_every,
        )
        self.plan, self.data, self.start = plan, data, start
        self.model, self.tokenizer = model.to(self.device), tokenizer

    def _identity(self) -> dict[str, Any]:
        words = hashlib.sha256(self.tokenizer.tokenizer.to_str().encode()).hexdigest()[:16]
        return {**_known_early(self.plan, self.model, self.start), "data": self.data.key(), "words": words}

    def _prepare(self, on_report: Callable[[Report], None]) -> None:
        """Nothing: the data is there."""

    def _begin(self, stage: str) -> None:
        """Nothing: what a stage reads, a resumed one reads too."""

    def _end(self, stage: str) -> None:
        """Nothing is left behind."""

    def _freeze(self, stage: str) -> None:
        learns = self.plan.learns(stage)
        for part in PARTS:
            getattr(self.model, part).requires_grad_(part in learns)

    def _losses(self, stage: str) -> Iterator[Losses]:
        batches, plan = self.batches[stage], getattr(self.plan, stage)
        if self.step >= batches.steps:
            return
        source = self.data.encode(self._encoders()) if self.plan.reads_tokens(stage) else None
        generator = torch.Generator()
        for step in range(self.step, batches.steps):
            batch = tensorize_rows(batches[step], self.tokenizer)
            generator.manual_seed(self.plan.seed * 1_000_003 + step)
            keep_VT = (torch.rand(batch.there_VT.shape, generator=generator) < self.plan.keep).to(self.device)
            with self._autocast():
                yield self._batch_losses(batch, plan.weights, keep_VT, source)

    def _batch_losses(
        self, batch: RowBatch, weights: LossWeights, keep_VT: Tensor, source: TokenSource | None
    ) -> Losses:
        there_VT = batch.there_VT.to(self.device)
        next_features: tuple[Tensor, Tensor] | None = None
        if source is not None:
            tokens_VTmD = torch.stack(
                [source.tokens(one.video)[_places(one, there_VT.shape[1])] for one in batch.stretches]
            ).to(self.device)
        else:
            tokens_VTmD, next_features = self._encode(batch.stretches, there_VT.shape[1])
        if batch.questions is None or batch.asked_Q is None:
            return reconstruction_losses(self.model, tokens_VTmD, weights, keep_VT, next_features, there_VT)
        questions = moved(batch.questions, self.device)
        asked_Q = batch.asked_Q.to(self.device)
        return question_losses(
            self.model, tokens_VTmD, questions, weights, keep_VT, next_features, there_VT=there_VT, asked_Q=asked_Q
        )

    def _encode(self, stretches: tuple[Stretch, ...], snippets: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Tokens of decoded snippets [V, T, m, D], and the reduced features that are to be reconstructed."""
        assert self.data.store is not None
        store, names = self.data.store, self.data.names
        clips = join_clips([store.read(names[one.video], _places(one, snippets)) for one in stretches])
        parts = (clips.frames_SFHWC, clips.frame_mask_SF, clips.mel_SAM, clips.mel_mask_SA)
        features = self.model.features(*(part.to(self.device, non_blocking=True) for part in parts))
        combiner, latent = self.model.combiner, self.model.config.latent
        count = len(stretches)
        start_s_T = torch.arange(snippets, device=self.device) * self.data.snippet_s
        tokens_VTmD, _ = combiner.sequence(features, combiner.initial_memory(count), start_s_T.expand(count, -1))
        # What is to be predicted must not learn to be predictable.
        video_SR = reduced(features.video_BND.detach(), features.video_mask_BN, latent.reconstruct_video)
        audio_SR = reduced(features.audio_BND.detach(), features.audio_mask_BN, latent.reconstruct_audio)
        shape = (count, snippets)
        return tokens_VTmD, (video_SR.unflatten(0, shape), audio_SR.unflatten(0, shape))

    def _encoders(self) -> Path:
        return write_encoders(self.out / "encoders", self.model, self.tokenizer)


def _known_early(plan: DataPlan, model: LongTakeModel, start: str) -> dict[str, Any]:
    """What is known of a run's identity before its data is."""
    # None for encoders of our own, whose weights the start tells.
    towers = [getattr(encoder, "fingerprint", None) for encoder in (model.video_encoder, model.audio_encoder)]
    return {"plan": repr(plan), "config": model.config.fingerprint(), "towers": towers, "from": start}


def require_own_run(out: Path, plan: DataPlan, model: LongTakeModel, start: str) -> None:
    """Refuse a directory with another run before any video is decoded, as far as this can be known by then.

    Raises:
        InputError: the run there has another plan, config or start, or was no run on rows.
    """
    path = out / "state.json"
    if not path.is_file():
        return
    state = json.loads(path.read_text())
    if any(state.get(name) != value for name, value in _known_early(plan, model, start).items()):
        raise InputError(f"{out}: holds a run of another plan or config; choose another directory")


def write_encoders(path: Path, model: LongTakeModel, tokenizer: ChatTokenizer) -> Path:
    """The checkpoint of `path` with this model's encoders and combiner, which an index may be written with.

    It stays as it is where the encoders that lie there are these, whatever has become of the other parts since.
    """
    own = {
        name: value.detach().float().cpu() for name, value in model.state_dict().items() if name.startswith(ENCODERS)
    }
    if all((path / name).is_file() for name in (CONFIG, WEIGHTS)):
        same = (path / CONFIG).read_text() == model.config.to_json()
        there = load_file(path / WEIGHTS)
        if same and all(name in there and torch.equal(there[name], value) for name, value in own.items()):
            return path
    save_model(path, model, tokenizer)
    return path


def _places(stretch: Stretch, snippets: int) -> NDArray[np.int64]:
    """The places of a stretch's snippets in its video; the last one fills up to `snippets`."""
    places_T: NDArray[np.int64] = np.minimum(stretch.first + np.arange(snippets), stretch.stop - 1)
    return places_T
