"""Questions about one video's tokens: latents once, then any number of answers.

Shapes: T snippets, m tokens a snippet, N = T * m, D width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longtake.operators.model.checkpoint import LoadedModel
from longtake.operators.model.latent import LatentCache
from longtake.operators.model.sampling import Generated, generate, score_choices

# Snippets a pass of the latent model: bounds the attention matrix on long videos, the result is the same.
CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer, how likely the model holds it, and where it looked.

    `probability` is the likelihood of the whole answer; with choices, normalised over them; with votes, the share of
    votes. `weights_T` is the attention on each snippet, float32 [T]; what is missing to 1 went to "nowhere".
    `unknown_words` are the question's words that the checkpoint's vocabulary lacks.
    """

    text: str
    probability: float
    weights_T: Tensor
    votes: dict[str, int] | None
    unknown_words: tuple[str, ...]


class Answerer:
    """Answers questions over the tokens of any video, with one model."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.device = next(loaded.model.parameters()).device

    def latents(self, tokens_TmD: Tensor) -> Tensor:
        """The latent model's reading of a whole video, float32 [T, m, D]; it does not depend on any question.

        Args:
            tokens_TmD: float32, at least one snippet.
        Raises:
            ValueError: no snippet, or tokens of another model's shape.
        """
        wanted = (self.loaded.config.combiner.tokens, self.loaded.config.width)
        if tokens_TmD.ndim != 3 or tokens_TmD.shape[1:] != wanted or len(tokens_TmD) == 0:
            raise ValueError(f"tokens are {tuple(tokens_TmD.shape)}; wanted [T >= 1, {wanted[0]}, {wanted[1]}]")
        cache = LatentCache()
        with torch.inference_mode():
            parts = [
                self.loaded.model.latent_model(chunk_TmD[None].to(self.device), cache)[0]
                for chunk_TmD in tokens_TmD.split(CHUNK)
            ]
        return torch.cat(parts)

    def answer(
        self,
        latents_TmD: Tensor,
        question: str,
        *,
        span_mask_T: Tensor | None = None,
        choices: Sequence[str] | None = None,
        votes: int = 1,
        temperature: float = 0.8,
        share: float = 0.95,
        seed: int = 0,
    ) -> Answer:
        """Answer one question.

        Args:
            latents_TmD: from `latents`.
            span_mask_T: bool, the snippets that may be looked at; None for all.
            choices: answer with the likeliest of these.
            votes: above 1, sample so many answers at `temperature` and top-p `share` and take the most common one
                (self-consistency); the likelier one wins a tie.
        Raises:
            ValueError: an empty question or span, a span mask of another video's length, both choices and votes, or a
                question that is too long.
        """
        tokenizer, decoder = self.loaded.tokenizer, self.loaded.model.text_decoder
        # Punctuation alone is no question either.
        if not tokenizer.text(question):
            raise ValueError("the question is empty")
        if choices is not None and votes > 1:
            raise ValueError("choices are scored, not sampled: give either choices or votes")
        if votes < 1:
            raise ValueError(f"votes must be at least 1, not {votes}")
        snippets, tokens, _ = latents_TmD.shape
        span_T = torch.ones(snippets, dtype=torch.bool) if span_mask_T is None else span_mask_T
        if span_T.shape != (snippets,):
            raise ValueError(f"the span mask is {tuple(span_T.shape)}; the video has {snippets} snippets")
        if not bool(span_T.any()):
            raise ValueError("the span holds no snippet")
        tallies: dict[str, int] | None = None
        with torch.inference_mode():
            context = decoder.context(latents_TmD[None], span_T[None].to(self.device))
            if choices is not None:
                scored = score_choices(decoder, tokenizer, question, context, choices)
                place = max(range(len(scored)), key=lambda row: scored[row].log_probability)
                best, text = scored[place], choices[place]
                probability = 1 / sum(math.exp(s.log_probability - best.log_probability) for s in scored)
            elif votes > 1:
                generator = torch.Generator(self.device).manual_seed(seed)
                sampled = generate(
                    decoder, tokenizer, question, context,
                    count=votes, temperature=temperature, share=share, generator=generator,
                )  # fmt: skip
                best, text, tallies = self._majority(sampled)
                probability = tallies[text] / votes
            else:
                best = generate(decoder, tokenizer, question, context)[0]
                text, probability = tokenizer.decode(best.ids), math.exp(best.log_probability)
        weights_T = best.evidence_N[1:].unflatten(0, (snippets, tokens)).sum(-1).float().cpu()
        return Answer(
            text=text,
            probability=probability,
            weights_T=weights_T,
            votes=tallies,
            unknown_words=tokenizer.unknown_words(question),
        )

    def _majority(self, sampled: Sequence[Generated]) -> tuple[Generated, str, dict[str, int]]:
        texts = [self.loaded.tokenizer.decode(one.ids) for one in sampled]
        tallies = Counter(texts)
        place = max(range(len(sampled)), key=lambda row: (tallies[texts[row]], sampled[row].log_probability))
        return sampled[place], texts[place], dict(tallies.most_common())
