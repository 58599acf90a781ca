"""Models that read a stream of snippets' tokens into what the text decoder may see, before any question is known.

Two tracks use them: bounded memory, where all but a few tokens are given up, and state tracking, where what counts is
what the stream did to the objects.

Shapes: V videos, T snippets, m tokens a snippet, S slots in time, n tokens a slot, K = S * n memory tokens, D width,
Q questions, L text tokens, A of them of answers, B beats of the pool, C cuts at which is told what is true, P parts of
that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtake.operators.ablation.combining import optimizer_of, rate_at, update
from longtake.operators.ablation.questions import TestSet
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.combiners.ttm import LONGEST_S, TokenTuringUnit
from longtake.operators.model.config import CombinerConfig, LatentConfig, ModelConfig, TextConfig, TransformerConfig
from longtake.operators.model.latent import LatentModel
from longtake.operators.model.layers import sinusoid
from longtake.operators.model.text import TextDecoder
from longtake.operators.synthetic.training.batches import tensorize
from longtake.operators.training.batch_tensors import Questions
from longtake.operators.training.losses import rightly_answered

# latent_last: the last latents; latents: every one; tokens: the combiner's, of every snippet; none: the question alone.
Writer = Literal["ttm", "fifo", "uniform", "mean", "latent_last", "latents", "tokens", "none"]


@dataclass(frozen=True, kw_only=True)
class StreamVariant:
    """A way to write what the decoder reads: at most `memory` tokens, 0 for as many as there are."""

    name: str
    says: str
    writer: Writer
    memory: int = 0


@dataclass(frozen=True, kw_only=True)
class StreamBatch:
    """Videos, int64 beats [V, T], and questions asked after each of the `cuts` (how many snippets were read).

    `states_VCP`, where there is something to say, describes what is true after each of `told`, int64 [V, C, P].
    `positions_T` are the snippets' numbers, int64; None says 0, 1, 2, ...
    """

    chosen_VT: Tensor
    cuts: tuple[int, ...]
    questions: tuple[Questions, ...]
    told: tuple[int, ...] = ()
    states_VCP: Tensor | None = None
    positions_T: Tensor | None = None


def stream_config(encoders: ModelConfig, tokens: int, latent_depth: int, name: str) -> ModelConfig:
    """The config of stream models over combined tokens: one layer in the combiner, two in the text decoder."""
    one = TransformerConfig(depth=1, heads=4)
    return dataclasses.replace(
        encoders,
        name=name,
        combiner=CombinerConfig(name="transformer", tokens=tokens, transformer=one),
        latent=LatentConfig(transformer=TransformerConfig(depth=latent_depth, heads=4)),
        text=TextConfig(
            vocabulary=encoders.text.vocabulary,
            context=encoders.text.context,
            transformer=TransformerConfig(depth=2, heads=4, mlp_ratio=2.0),
            kv_heads=2,
            width=96,
        ),
    )


class StreamModel(nn.Module):
    """A writer and a text decoder.

    First-in-first-out, uniform and mean pooling pass what they keep through a latent model as deep as the others', so
    that all have one; "tokens" has none.
    """

    def __init__(self, variant: StreamVariant, config: ModelConfig, state_parts: Sequence[int] = ()) -> None:
        """`state_parts` are the numbers of values of each part of what is true after a snippet, if that is told."""
        super().__init__()
        self.variant, self.config, self.state_parts = variant, config, tuple(state_parts)
        width, tokens = config.width, config.combiner.tokens
        if variant.memory % tokens:
            raise ValueError(f"{variant.memory} memory tokens are not whole snippets of {tokens} tokens")
        self.slots = variant.memory // tokens
        self.text_decoder = TextDecoder(config)
        self.unit: TokenTuringUnit | None = None
        self.latent_model: LatentModel | None = None
        if variant.writer == "ttm":
            unit = dataclasses.replace(
                config.combiner,
                name="ttm",
                transformer=config.latent.transformer,
                memory_tokens=variant.memory,
                read_tokens=tokens,
            )
            # As the TTM combiner's: a memory that starts at zero has been reported not to learn.
            self.initial_KD = nn.Parameter(torch.randn(variant.memory, width))
            self.unit = TokenTuringUnit(width, tokens, unit)
        elif variant.writer != "none":
            none = dataclasses.replace(config.latent, transformer=TransformerConfig(depth=0, heads=4))
            latent = dataclasses.replace(config, latent=none) if variant.writer == "tokens" else config
            self.latent_model = LatentModel(latent)
        # Reads the last slot; thrown away with the training.
        last = variant.memory if variant.writer == "ttm" else tokens
        told = bool(state_parts) and variant.writer != "none"
        self.state = nn.Linear(last * width, sum(state_parts)) if told else None

    def write(self, tokens_VTmD: Tensor, cuts: Sequence[int], positions_T: Tensor | None = None) -> list[Tensor]:
        """What the decoder may read after each of `cuts` snippets, [V, S, n, D] each.

        `positions_T` are the snippets' numbers where they do not simply follow (in training).
        """
        if self.unit is not None:
            return self._write_turing(tokens_VTmD, cuts, positions_T)
        if self.latent_model is None:
            # One slot, hidden by `answer`: nothing of the video is read.
            return [torch.zeros_like(tokens_VTmD[:, :1]) for _ in cuts]
        writer = self.variant.writer
        if writer in ("latents", "latent_last", "tokens"):
            latents_VTmD = self.latent_model(tokens_VTmD, positions_T=positions_T)
            first = [cut - self.slots if writer == "latent_last" else 0 for cut in cuts]
            return [latents_VTmD[:, max(0, start) : cut] for start, cut in zip(first, cuts, strict=True)]
        return self._latents([self._kept(tokens_VTmD[:, :cut]) for cut in cuts])

    def _latents(self, kept: Sequence[Tensor]) -> list[Tensor]:
        """The latents of several memories [V, S, m, D]: those of as many slots go through the latent model as one."""
        assert self.latent_model is not None
        found: dict[int, Iterator[Tensor]] = {}
        for slots in {memory_VSmD.shape[1] for memory_VSmD in kept}:
            alike = [memory_VSmD for memory_VSmD in kept if memory_VSmD.shape[1] == slots]
            found[slots] = iter(self.latent_model(torch.cat(alike)).chunk(len(alike)))
        return [next(found[memory_VSmD.shape[1]]) for memory_VSmD in kept]

    def _kept(self, tokens_VTmD: Tensor) -> Tensor:
        """The memory's share of a stream by a fixed rule, [V, S, m, D]."""
        snippets = tokens_VTmD.shape[1]
        slots = min(self.slots, snippets)
        if self.variant.writer == "fifo":
            return tokens_VTmD[:, snippets - slots :]
        places_S = torch.arange(slots, device=tokens_VTmD.device)
        if self.variant.writer == "uniform":
            return tokens_VTmD[:, (places_S * snippets + snippets // 2) // slots]
        part_T = torch.arange(snippets, device=tokens_VTmD.device) * slots // snippets
        weights_ST = (part_T == places_S[:, None]).to(tokens_VTmD.dtype)
        weights_ST = weights_ST / weights_ST.sum(1, keepdim=True)
        return torch.einsum("st,vtmd->vsmd", weights_ST, tokens_VTmD)

    def _write_turing(self, tokens_VTmD: Tensor, cuts: Sequence[int], positions_T: Tensor | None) -> list[Tensor]:
        assert self.unit is not None
        videos, snippets = tokens_VTmD.shape[:2]
        if positions_T is None:
            positions_T = torch.arange(snippets, device=tokens_VTmD.device)
        stamp_TD = sinusoid(positions_T.float(), self.config.width, LONGEST_S)
        stamped_VTmD = tokens_VTmD + stamp_TD[:, None].to(tokens_VTmD.dtype)
        memory_VKD = self.initial_KD.float().expand(videos, -1, -1)
        found: dict[int, Tensor] = {}
        for snippet in range(max(cuts)):
            memory_VKD, _ = self.unit(memory_VKD, stamped_VTmD[:, snippet])
            found[snippet + 1] = memory_VKD
        return [found[cut][:, None] for cut in cuts]

    def answer(self, memory_VSnD: Tensor, ids_QL: Tensor, on_QL: Tensor, positions_T: Tensor | None = None) -> Tensor:
        """Next-token logits [A, vocabulary] of questions, the same number for each video, video-major.

        They are those of the A tokens that are True in `on_QL`, in their order. `positions_T` are the numbers that
        `write` was given; what a memory keeps is numbered by its slots.
        """
        seen_VS = torch.ones(memory_VSnD.shape[:2], dtype=torch.bool, device=memory_VSnD.device)
        if self.variant.writer not in ("latents", "tokens"):
            positions_T = None
        elif positions_T is not None:
            positions_T = positions_T[: memory_VSnD.shape[1]]
        context = self.text_decoder.context(memory_VSnD, seen_VS & (self.variant.writer != "none"), positions_T)
        logits_AV, _ = self.text_decoder(ids_QL, context, at_BL=on_QL)
        out_AV: Tensor = logits_AV
        return out_AV

    def state_loss(self, memories: Sequence[Tensor], states_VCP: Tensor) -> Tensor:
        """Mean cross-entropy of what is true after each cut, read off what was written last until then."""
        assert self.state is not None
        logits_VCv = self.state(torch.stack([memory_VSnD[:, -1].flatten(1) for memory_VSnD in memories], dim=1))
        losses = [
            F.cross_entropy(part_VCv.flatten(0, 1).float(), truth_VC.flatten())
            for part_VCv, truth_VC in zip(
                logits_VCv.split(self.state_parts, dim=-1), states_VCP.unbind(-1), strict=True
            )
        ]
        return torch.stack(losses).mean()


def train_stream(
    model: StreamModel,
    tokens_BmD: Tensor,
    batches: Iterable[StreamBatch],
    steps: int,
    rate: float,
    on_step: Callable[[int, float, float], None],
) -> None:
    """Train on the text loss, and on that of the states where a batch tells them; `on_step` is told the step, its text
    loss and the share of right answers.

    Raises:
        ValueError: the loss is not finite.
    """
    optimizer = optimizer_of(model)
    device = tokens_BmD.device
    for step, batch in enumerate(batches):
        tokens_VTmD = tokens_BmD[batch.chosen_VT.to(device)]
        losses, right, asked = [], 0, 0
        told = batch.told if model.state is not None else ()
        positions_T = None if batch.positions_T is None else batch.positions_T.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            cuts = sorted({*told, *batch.cuts})
            written = dict(zip(cuts, model.write(tokens_VTmD, cuts, positions_T), strict=True))
            states = []
            if told:
                assert batch.states_VCP is not None
                states = [model.state_loss([written[cut] for cut in told], batch.states_VCP.to(device))]
            for memory_VSnD, questions in zip([written[cut] for cut in batch.cuts], batch.questions, strict=True):
                ids_QL, on_QL = questions.ids_QL.to(device), questions.answer_QL[:, 1:].to(device)
                logits_AV = model.answer(memory_VSnD, ids_QL[:, :-1], on_QL, positions_T)
                losses.append(F.cross_entropy(logits_AV.float(), ids_QL[:, 1:][on_QL]))
                right += int(rightly_answered(logits_AV, ids_QL[:, 1:], on_QL).sum())
                asked += len(ids_QL)
        loss = torch.stack(losses).mean()
        update(optimizer, sum(states, start=loss), rate_at(step, steps, min(100, steps // 10 + 1), rate))
        on_step(step + 1, loss.item(), right / asked)


def stream_right(model: StreamModel, tokens_BmD: Tensor, test: TestSet, tokenizer: ChatTokenizer) -> Tensor:
    """Whether each question of a test set, asked after the whole video, is answered exactly, bool [Q]."""
    device = tokens_BmD.device
    found = []
    videos = max(1, 1024 // test.snippets)
    for first in range(0, len(test.chosen_VT), videos):
        part = test.part(first, first + videos)
        asked = tensorize(part.asked, test.snippets, tokenizer)
        ids_QL, on_QL = asked.ids_QL.to(device), asked.answer_QL[:, 1:].to(device)
        with torch.inference_mode():
            (memory_VSnD,) = model.write(tokens_BmD[part.chosen_VT.to(device)], [test.snippets])
            logits_AV = model.answer(memory_VSnD, ids_QL[:, :-1], on_QL)
        found.append(rightly_answered(logits_AV, ids_QL[:, 1:], on_QL).cpu())
    return torch.cat(found)
