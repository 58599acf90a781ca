"""The track of coverage and alignment: the world's questions about whole videos, each variant without one part.

Shapes: V videos, T snippets, m tokens, D width, Q questions, L text tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from longtake.operators.ablation.combining import (
    Describing,
    Senses,
    TokenSource,
    optimizer_of,
    rate_at,
    train_combiner,
    update,
)
from longtake.operators.ablation.features import SnippetFeatures
from longtake.operators.ablation.questions import Batches, TestSet
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.config import (
    CombinerConfig,
    CombinerName,
    LatentConfig,
    ModelConfig,
    TextConfig,
    TransformerConfig,
)
from longtake.operators.model.model import LongTakeModel
from longtake.operators.synthetic.training.batches import tensorize
from longtake.operators.training.batch_tensors import Questions
from longtake.operators.training.losses import LossWeights, question_losses, rightly_answered

# recent and uniform snippets: one snippet in so many is kept, with so many times the tokens each.
PART = 4
# Share of snippets that random masking leaves visible to others in training.
KEEP = 0.9


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model of the track: the full one but for what is set here. `says` is its line in the report."""

    name: str
    says: str
    combiner: CombinerName = "transformer"
    tokens: int = 4
    latent_depth: int = 1
    senses: Senses = "both"
    snippets: Literal["all", "recent", "uniform"] = "all"

    def config(self, encoders: ModelConfig) -> ModelConfig:
        """The model's config over the features of `encoders`: one layer a part, two in the text decoder."""
        one = TransformerConfig(depth=1, heads=4)
        memory = 16 if self.combiner == "ttm" else 0
        return dataclasses.replace(
            encoders,
            name=f"ablation {self.name}",
            combiner=CombinerConfig(
                name=self.combiner,
                tokens=self.tokens,
                transformer=one,
                memory_tokens=memory,
                read_tokens=self.tokens if memory else 0,
                timestamp=bool(memory),
            ),
            latent=LatentConfig(transformer=dataclasses.replace(one, depth=self.latent_depth)),
            text=TextConfig(
                vocabulary=encoders.text.vocabulary,
                context=encoders.text.context,
                transformer=TransformerConfig(depth=2, heads=4, mlp_ratio=2.0),
                kv_heads=2,
                width=96,
            ),
        )

    def kept(self, snippets: int) -> Tensor:
        """The numbers of the snippets that the model is given, int64."""
        count = -(-snippets // PART)
        if self.snippets == "recent":
            return torch.arange(snippets - count, snippets)
        if self.snippets == "uniform":
            # The middle of each part.
            return (torch.arange(count) * snippets + snippets // 2) // count
        return torch.arange(snippets)


VARIANTS: tuple[Variant, ...] = (
    Variant(name="full", says="transformer combiner, 4 tokens a snippet, latent model, every snippet"),
    Variant(name="no_sound", says="no sound, in training and test", senses="no_sound"),
    Variant(
        name="sound_shuffled",
        says="each snippet with the sound of another of its video, in training and test",
        senses="sound_shuffled",
    ),
    Variant(name="no_picture", says="no pictures, in training and test", senses="no_picture"),
    Variant(name="average_pool", says="combiner: average pooling", combiner="average_pool"),
    Variant(name="attention_pool", says="combiner: attention pooling", combiner="attention_pool"),
    Variant(name="c_abstractor", says="combiner: C-Abstractor", combiner="c_abstractor"),
    Variant(name="ttm", says="combiner: Token Turing Machine of 16 memory tokens", combiner="ttm"),
    *(
        Variant(name=f"tokens_{count}", says=f"{count} token{'s' * (count > 1)} a snippet", tokens=count)
        for count in (1, 2, 8, 16)
    ),
    Variant(name="no_latent", says="no latent model: the decoder reads the combiner's tokens", latent_depth=0),
    Variant(
        name="recent", says="the last quarter of the snippets, 16 tokens each", tokens=4 * PART, snippets="recent"
    ),
    Variant(
        name="uniform", says="every fourth snippet, 16 tokens each", tokens=4 * PART, snippets="uniform"
    ),
    Variant(name="question_only", says="the question alone", senses="none"),
)  # fmt: skip
QUICK = ("full", "no_sound", "sound_shuffled", "average_pool", "no_latent", "recent")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every variant is trained with."""

    describing: Describing
    batches: Batches
    rate: float = 2e-3
    weights: LossWeights = dataclasses.field(default_factory=lambda: LossWeights(next_features=0.0))


class CoverageModel:
    """A variant with its weights: trained by `train`, then asked by `right`."""

    def __init__(self, variant: Variant, encoders: ModelConfig, tokenizer: ChatTokenizer, device: str) -> None:
        self.variant, self.tokenizer = variant, tokenizer
        self.device = torch.device(device)
        self.config = variant.config(encoders)
        self.model: LongTakeModel | None = None
        self.description = 0.0

    def train(
        self,
        batches: Iterable[tuple[Tensor, Questions]],
        features: SnippetFeatures,
        truth_BP: Tensor,
        plan: Plan,
        seed: int,
        on_step: Callable[[str, int, int, float, float], None],
    ) -> None:
        """Both stages, the second on `batches` as `Batches.draw` gives them; `on_step` is told the stage, the step and
        how many, the loss and the share of right answers.

        Raises:
            ValueError: the loss is not finite.
        """
        torch.manual_seed(seed)
        self.model = model = LongTakeModel(self.config).to(self.device)
        if self.variant.senses != "none":
            self.description = train_combiner(
                model.combiner,
                features,
                truth_BP,
                self.variant.senses,
                plan.describing,
                seed,
                lambda step, loss: on_step("snippets", step, plan.describing.steps, loss, 0.0),
            )
        source = TokenSource(model.combiner, features, self.variant.senses)
        optimizer = optimizer_of(torch.nn.ModuleList([model.latent_model, model.text_decoder]))
        generator = torch.Generator()
        steps = plan.batches.steps
        for step, (chosen_VT, questions) in enumerate(batches):
            generator.manual_seed(seed * 1_000_003 + step)
            keep_VT = torch.rand(chosen_VT.shape, generator=generator) < KEEP
            tokens_VTmD = source.of(chosen_VT, generator)
            kept_T = self.variant.kept(chosen_VT.shape[1])
            # As in the shipped training; a third less time on a CPU too.
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                losses = question_losses(
                    model,
                    tokens_VTmD[:, kept_T.to(self.device)],
                    self._given(questions, kept_T),
                    plan.weights,
                    keep_VT[:, kept_T].to(self.device),
                    self._no_features(len(chosen_VT), len(kept_T)),
                )
            update(optimizer, losses.total, rate_at(step, steps, min(100, steps // 10 + 1), plan.rate))
            on_step("questions", step + 1, steps, losses.parts["text"], losses.parts["exact"])

    def right(self, test: TestSet, features: SnippetFeatures, seed: int) -> Tensor:
        """Whether each question of a test set is answered exactly as greedy decoding would, bool [Q].

        A greedy answer is right if and only if every token is the likeliest one after the true ones before it.
        """
        assert self.model is not None, "train first"
        source = TokenSource(self.model.combiner, features, self.variant.senses)
        generator = torch.Generator().manual_seed(seed)
        found = []
        videos = max(1, 1024 // test.snippets)
        for first in range(0, len(test.chosen_VT), videos):
            part = test.part(first, first + videos)
            kept_T = self.variant.kept(test.snippets)
            asked = self._given(tensorize(part.asked, test.snippets, self.tokenizer), kept_T)
            with torch.inference_mode():
                tokens_VTmD = source.of(part.chosen_VT, generator)[:, kept_T.to(self.device)]
                latents_VTmD = self.model.latent_model(tokens_VTmD)
                span_VT = torch.ones(latents_VTmD.shape[:2], dtype=torch.bool, device=self.device)
                context = self.model.text_decoder.context(latents_VTmD, span_VT)
                on_QL = asked.answer_QL[:, 1:]
                logits_SV, _ = self.model.text_decoder(
                    asked.ids_QL[:, :-1], context.with_span(asked.span_QT, latents_VTmD.shape[2]), at_BL=on_QL
                )
            found.append(rightly_answered(logits_SV, asked.ids_QL[:, 1:], on_QL).cpu())
        return torch.cat(found)

    def _given(self, questions: Questions, kept_T: Tensor) -> Questions:
        """Questions as the variant's decoder gets them: the kept snippets, or none for the question alone."""
        span_QT, evidence_QT = questions.span_QT[:, kept_T], questions.evidence_QT[:, kept_T]
        if self.variant.senses == "none":
            span_QT = torch.zeros_like(span_QT)
        given = dataclasses.replace(questions, span_QT=span_QT, evidence_QT=evidence_QT)
        return Questions(**{name: value.to(self.device) for name, value in vars(given).items()})

    def _no_features(self, videos: int, snippets: int) -> tuple[Tensor, Tensor]:
        empty = torch.zeros(videos, snippets, 0, device=self.device)
        return empty, empty
