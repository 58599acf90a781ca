"""Questions about one video, answered by a public model over stored tokens: streamed, sampled, or chosen.

Shapes: P entries of the prefix, V vocabulary, T snippets, R rows of evidence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from longtake.operators.model.answering import Answer
from longtake.operators.model.sampling import top_p
from longtake.operators.vlm.cache import fork
from longtake.operators.vlm.evidence import Watch, weights_of_snippets
from longtake.operators.vlm.model import VLM
from longtake.operators.vlm.prefix import Prefix, logits, run


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How an answer is decoded: at most `limit` tokens; `temperature` 0 takes the likeliest token each time, above 0
    tokens are drawn from the `share` of probability (top-p) with `seed`."""

    limit: int = 256
    temperature: float = 0.0
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit < 1 or self.temperature < 0 or not 0 < self.share <= 1:
            raise ValueError(f"{self}: limit >= 1, temperature >= 0 and 0 < share <= 1 are wanted")


GREEDY = Decoding()


@dataclass(kw_only=True)
class _State:
    """A sequence in the making: its cache, the next position, the last logits and where they were read off."""

    cache: Any
    position: int
    logits_V: Tensor
    evidence_1P: Tensor


@dataclass(kw_only=True)
class _Spoken:
    """What was decoded so far: tokens without the end marker, the log-probability with it, and the evidence."""

    ids: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    evidence: list[Tensor] = field(default_factory=list)

    def note(self, state: _State, pick: int, ended: bool) -> None:
        self.log_probability += float(state.logits_V.log_softmax(-1)[pick])
        if not ended:
            self.ids.append(pick)
        # The end marker's own look counts only for an answer that has nothing else.
        if not ended or not self.evidence:
            self.evidence.append(state.evidence_1P)


class VLMAnswerer:
    """Answers questions over prefixes that `prefix.read_video` made, with one model.

    Answers may be streamed in turns, but from one thread: the model is switched to watched attention for each pass.
    """

    def __init__(self, vlm: VLM) -> None:
        self.vlm = vlm

    def stream(self, prefix: Prefix, question: str, decoding: Decoding = GREEDY) -> AnswerStream:
        """One answer, piece by piece; `AnswerStream.answer` is the whole once the pieces are used up.

        Raises:
            ValueError: an empty question, or one with a special token in it.
        """
        return AnswerStream(self, prefix, decoding, question=self._question(prefix, question))

    def answer(
        self,
        prefix: Prefix,
        question: str,
        decoding: Decoding = GREEDY,
        *,
        choices: Sequence[str] | None = None,
        votes: int = 1,
    ) -> Answer:
        """One answer, whole.

        Args:
            choices: answer with the likeliest of these; the probability is normalised over them.
            votes: above 1, draw so many answers and take the most common one; the likelier one wins a tie.
        Raises:
            ValueError: as of `stream`, also of a choice; both choices and votes, no choice, or votes at temperature 0.
        """
        if choices is not None and votes > 1:
            raise ValueError("choices are scored, not sampled: give either choices or votes")
        if votes < 1:
            raise ValueError(f"votes must be at least 1, not {votes}")
        if choices is not None:
            return self._choose(prefix, self._question(prefix, question), choices)
        if votes > 1:
            return self._vote(prefix, self._question(prefix, question), decoding, votes)
        return self.stream(prefix, question, decoding).finish()

    @torch.no_grad()
    def question_logits(self, prefix: Prefix, question: str) -> Tensor:
        """The logits at every token from the end of the video to where the answer begins, float32 [n, V]."""
        ids = self._question(prefix, question)
        hidden = self._pass(prefix.fork(), ids, prefix.layout.next_position)
        return logits(self.vlm.family, hidden)

    @torch.no_grad()
    def evidence(self, prefix: Prefix, question: str) -> Tensor:
        """Where the answer begins to look: the weight of each snippet, float32 [T] that sums to 1.

        It costs one pass over the question. Raises as `stream` does.
        """
        asked = self._start(prefix, self._question(prefix, question))
        return weights_of_snippets(asked.evidence_1P, prefix.snippet_S, prefix.snippets)

    def _question(self, prefix: Prefix, question: str) -> list[int]:
        """Token ids from the end of the video on."""
        prompt = self.vlm.family.prompt
        if not question.strip():
            raise ValueError("the question is empty")
        self._require_plain("question", question)
        around = prompt.around(question, prefix.system)
        if around.before != prefix.before:
            raise ValueError(
                "the chat template puts something about the question before the video: no prefix is shared"
            )
        return prompt.ids(around.after)

    def _require_plain(self, what: str, text: str) -> None:
        # Whoever asks must not write the conversation's own marks: `all_special_tokens` names only a few of them.
        added = self.vlm.tokenizer.added_tokens_decoder.values()
        special = [token.content for token in added if token.special and token.content in text]
        if special:
            raise ValueError(f"the {what} holds the special token {special[0]}")

    def _pass(self, cache: Any, ids: Sequence[int], position: int) -> Tensor:
        family = self.vlm.family
        embeddings = family.model.get_input_embeddings()(torch.tensor(list(ids), device=self.vlm.device))
        positions_AS = torch.arange(position, position + len(ids)).expand(family.axes, -1)
        return run(family, cache, embeddings, positions_AS)

    @torch.no_grad()
    def _start(self, prefix: Prefix, question: Sequence[int]) -> _State:
        cache = prefix.fork()
        return self._extend(prefix, cache, question, prefix.layout.next_position)

    @torch.no_grad()
    def _extend(self, prefix: Prefix, cache: Any, ids: Sequence[int], position: int) -> _State:
        with Watch(self.vlm.family.language, keys=len(prefix)) as watch:
            hidden = self._pass(cache, ids, position)
        return _State(
            cache=cache,
            position=position + len(ids),
            logits_V=logits(self.vlm.family, hidden[-1:])[0],
            evidence_1P=watch.take(),
        )

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.vlm.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _answer(self, prefix: Prefix, spoken: _Spoken, text: str, probability: float, votes: Any = None) -> Answer:
        weights_T = weights_of_snippets(torch.cat(spoken.evidence), prefix.snippet_S, prefix.snippets)
        return Answer(text=text, probability=probability, weights_T=weights_T, votes=votes, unknown_words=())

    def _vote(self, prefix: Prefix, question: list[int], decoding: Decoding, votes: int) -> Answer:
        if decoding.temperature == 0:
            raise ValueError(f"{votes} votes at temperature 0 are all the same; give one above 0")
        generator = torch.Generator(self.vlm.device).manual_seed(decoding.seed)
        asked = self._start(prefix, question)
        streams = [AnswerStream(self, prefix, decoding, asked=asked, generator=generator) for _ in range(votes)]
        texts = [stream.finish().text for stream in streams]
        tallies = Counter(texts)
        place = max(range(votes), key=lambda row: (tallies[texts[row]], streams[row].spoken.log_probability))
        ranked = dict(tallies.most_common())
        return self._answer(prefix, streams[place].spoken, texts[place], tallies[texts[place]] / votes, ranked)

    @torch.no_grad()
    def _choose(self, prefix: Prefix, question: list[int], choices: Sequence[str]) -> Answer:
        if not choices:
            raise ValueError("no choice to score")
        asked = self._start(prefix, question)
        scored = [self._score(prefix, asked, choice) for choice in choices]
        place = max(range(len(scored)), key=lambda row: scored[row].log_probability)
        best = scored[place]
        probability = 1 / sum(math.exp(one.log_probability - best.log_probability) for one in scored)
        return self._answer(prefix, best, choices[place], probability)

    def _score(self, prefix: Prefix, asked: _State, choice: str) -> _Spoken:
        """The log-likelihood of a choice as the whole answer, its end marker included."""
        self._require_plain("choice", choice)
        ids = self.vlm.family.prompt.ids(choice)
        if not ids:
            raise ValueError("a choice is empty")
        end = self.vlm.tokenizer.eos_token_id
        end = end if end in self.vlm.end_ids else min(self.vlm.end_ids)
        with Watch(self.vlm.family.language, keys=len(prefix), rows=len(ids)) as watch:
            hidden = self._pass(fork(asked.cache), ids, asked.position)
        log_RV = torch.cat([asked.logits_V[None], logits(self.vlm.family, hidden)]).log_softmax(-1)
        score = float(log_RV[torch.arange(len(ids) + 1), torch.tensor([*ids, end])].sum())
        # The last row reads the end marker off: it is no word of the answer.
        evidence = [asked.evidence_1P, watch.take()[:-1]]
        return _Spoken(ids=ids, log_probability=score, evidence=evidence)


class AnswerStream(Iterator[str]):
    """The pieces of one answer, as they are decoded. Nothing runs before the first piece is asked for."""

    def __init__(
        self,
        answerer: VLMAnswerer,
        prefix: Prefix,
        decoding: Decoding,
        *,
        question: list[int] | None = None,
        asked: _State | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self._answerer, self._prefix, self._decoding = answerer, prefix, decoding
        self._question, self._asked = question, asked
        self._generator = generator or torch.Generator(answerer.vlm.device).manual_seed(decoding.seed)
        self._state: _State | None = None
        self.spoken = _Spoken()
        self._shown = ""
        self._done = False

    def __next__(self) -> str:
        while not self._done:
            self._step()
            text = self._answerer._text(self.spoken.ids)
            # A letter may still lack its last bytes.
            if text != self._shown and (self._done or not text.endswith("\ufffd")):
                piece, self._shown = text[len(self._shown) :], text
                return piece
        raise StopIteration

    def _step(self) -> None:
        if self._state is None:
            self._state = self._begin()
        state = self._state
        pick = self._pick(state.logits_V)
        ended = pick in self._answerer.vlm.end_ids
        self.spoken.note(state, pick, ended)
        self._done = ended or len(self.spoken.ids) >= self._decoding.limit
        # A finished answer lets go of its cache: several votes must not hold as many copies of the video.
        self._state = None
        if not self._done:
            self._state = self._answerer._extend(self._prefix, state.cache, [pick], state.position)

    def _begin(self) -> _State:
        if self._asked is not None:
            return replace(self._asked, cache=fork(self._asked.cache))
        assert self._question is not None
        return self._answerer._start(self._prefix, self._question)

    def _pick(self, logits_V: Tensor) -> int:
        if self._decoding.temperature == 0:
            return int(logits_V.argmax())
        sharpened_1V = top_p(logits_V[None] / self._decoding.temperature, self._decoding.share)
        return int(torch.multinomial(sharpened_1V.softmax(-1), 1, generator=self._generator))

    def finish(self) -> Answer:
        """Decode the rest and return the whole answer."""
        for _ in self:
            pass
        return self.answer

    @property
    def answer(self) -> Answer:
        """The whole answer: its text stripped of blanks at both ends, its likelihood (with the end marker, where it
        came to one), and the weight of each snippet.

        Raises:
            ValueError: there are pieces left.
        """
        if not self._done:
            raise ValueError("the answer is not finished: there are pieces left")
        text = self._answerer._text(self.spoken.ids).strip()
        probability = math.exp(self.spoken.log_probability)
        return self._answerer._answer(self._prefix, self.spoken, text, probability)
