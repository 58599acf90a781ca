"""Scoring answers against known truth: accuracy with its interval, and the baselines that it must beat.

A question file is JSON lines: `video` (base name), `question`, `answer`, `kind`, the evidence `start_s` and `stop_s`
(both null where nothing happened), and the span asked about, `from_s` and `to_s` (null: the whole video). Where it
matters, also `about` (what questions in other words share), `voice` ("trained" or "unseen": who says what is asked
about) and `tolerance_s` (an answer in seconds is right within it).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from longtake.errors import InputError

if TYPE_CHECKING:
    from longtake.pipeline.answering.index import Index
    from longtake.pipeline.answering.question import VideoAnswer

NOTHING = "nothing"
# Kinds whose evidence is one moment, so that "the top moment overlaps the true one" means something.
KINDS_WITH_A_MOMENT = ("needle", "bind", "said", "after", "when")
_KIND_ORDER = ("needle", "bind", "said", "after", "first", "last", "exists", "count", "when")
_Z_95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Question:
    """One row of a question file. Times are seconds of the video; `from_s`/`to_s` restrict what may be looked at."""

    video: str
    question: str
    answer: str
    kind: str
    start_s: float | None = None
    stop_s: float | None = None
    from_s: float | None = None
    to_s: float | None = None
    about: str | None = None
    voice: str | None = None
    tolerance_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("video", "question", "answer", "kind"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{name} must be a text, not {value!r}")
        for name in ("about", "voice"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name} must be a text or null, not {getattr(self, name)!r}")
        for name in ("start_s", "stop_s", "from_s", "to_s", "tolerance_s"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"{name} must be a number of seconds or null, not {value!r}")
        if (self.start_s is None) != (self.stop_s is None):
            raise ValueError("start_s and stop_s must both be given or both be null")
        if self.start_s is not None and self.stop_s is not None and self.stop_s <= self.start_s:
            raise ValueError(f"stop_s {self.stop_s} must be after start_s {self.start_s}")
        if self.from_s is not None and self.to_s is not None and self.to_s <= self.from_s:
            raise ValueError(f"to_s {self.to_s} must be after from_s {self.from_s}")
        if self.tolerance_s is not None and (self.tolerance_s < 0 or _number(self.answer) is None):
            raise ValueError(
                f"a tolerance of {self.tolerance_s} s wants a number of seconds as answer: {self.answer!r}"
            )

    @property
    def has_span(self) -> bool:
        """Whether the question is about a part of the video only."""
        return self.from_s is not None or self.to_s is not None

    def is_right(self, answer: str) -> bool:
        """Whether an answer is the true one, or within the tolerance of it in seconds."""
        given, truth = _number(answer), _number(self.answer)
        if self.tolerance_s is not None and given is not None and truth is not None:
            return abs(given - truth) <= self.tolerance_s
        return normalise(answer) == normalise(self.answer)


def read_questions(path: str | Path) -> list[Question]:
    """The rows of a question file; fields that are not known here are ignored.

    Raises:
        InputError: the file cannot be read, holds no question, or a line is not a question; names file and line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the questions: {error}") from error
    known = {field.name for field in dataclasses.fields(Question)}
    questions = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"a question is a JSON object, not {type(row).__name__}")
            questions.append(Question(**{key: value for key, value in row.items() if key in known}))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}, line {number}: {str(error).replace('Question.__init__() ', '')}") from error
    if not questions:
        raise InputError(f"{path}: holds no question")
    return questions


def wilson_interval(successes: int, count: int, z: float = _Z_95) -> tuple[float, float]:
    """The Wilson score interval of a proportion (95 % by default); (0, 1) where nothing was counted.

    Raises:
        ValueError: `successes` is not between 0 and `count`.
    """
    if not 0 <= successes <= count:
        raise ValueError(f"{successes} successes of {count}")
    if count == 0:
        return (0.0, 1.0)
    share = successes / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    # Rounding must not push the ends past what they are in exact arithmetic.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return (low, high)


def normalise(answer: str) -> str:
    """Two answers are the same when they agree but for case, surrounding space and a final full stop."""
    return " ".join(answer.lower().split()).rstrip(".").strip()


def _number(answer: str) -> float | None:
    """The number of seconds that an answer gives ("12", "12.5 s", "12 seconds"), or None."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?: ?s| seconds?)?", normalise(answer))
    return float(found[1]) if found else None


def majority_guesses(questions: Sequence[Question]) -> list[str]:
    """For each question the commonest answer of its kind in the whole file: the best constant guess there is."""
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        by_kind[question.kind][normalise(question.answer)] += 1
    return [_commonest(by_kind[question.kind]) for question in questions]


def question_only_guesses(questions: Sequence[Question]) -> list[str]:
    """For each question the best guess of someone who read the other videos' questions and answers, but saw nothing.

    Leave one video out: the commonest answer to the same words among the other videos' questions, else the commonest
    answer of the same kind, else no guess (an empty text, which is never right). Questions in varied wording are the
    same where they are of one kind about one thing.
    """
    by_text: dict[str, Counter[str]] = defaultdict(Counter)
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    own_text: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    own_kind: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for question in questions:
        text, answer = _same_words(question), normalise(question.answer)
        by_text[text][answer] += 1
        by_kind[question.kind][answer] += 1
        own_text[question.video, text][answer] += 1
        own_kind[question.video, question.kind][answer] += 1
    guesses = []
    for question in questions:
        text = _same_words(question)
        elsewhere = by_text[text] - own_text[question.video, text]
        if not elsewhere:
            elsewhere = by_kind[question.kind] - own_kind[question.video, question.kind]
        guesses.append(_commonest(elsewhere) if elsewhere else "")
    return guesses


def _same_words(question: Question) -> str:
    """What a guesser groups questions by."""
    return normalise(question.question) if question.about is None else f"{question.kind}: {question.about}"


def _commonest(counts: Counter[str]) -> str:
    """The commonest answer; of equally common ones the first in the alphabet, so that a run can be repeated."""
    return min(counts, key=lambda answer: (-counts[answer], answer))


class MomentLike(Protocol):
    """A stretch of a video, in seconds."""

    @property
    def start_s(self) -> float: ...

    @property
    def stop_s(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What was answered: the text, its probability, the moments with the strongest first, and what could be seen."""

    text: str
    probability: float
    moments: Sequence[MomentLike]
    from_s: float
    to_s: float


def chance_to_overlap(length_s: float, start_s: float, stop_s: float, from_s: float, to_s: float) -> float:
    """How often a moment of `length_s`, put anywhere in [from_s, to_s] alike, overlaps [start_s, stop_s]."""
    room_s = to_s - length_s - from_s
    if room_s <= 0:
        return 1.0
    hit_s = min(stop_s, to_s - length_s) - max(start_s - length_s, from_s)
    return min(1.0, max(0.0, hit_s / room_s))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One answered question. `moment_hit` and `moment_chance` are None where there is no single true moment to hit."""

    question: Question
    answer: str
    probability: float
    correct: bool
    moment: tuple[float, float] | None
    moment_hit: bool | None
    moment_chance: float | None
    majority_correct: bool
    question_only_correct: bool


@dataclass(frozen=True, kw_only=True)
class Score:
    """One line of the table: how many of a group of questions were answered correctly, and what guessing would get.

    `majority` and `question_only` guess answers and are None on the lines about moments. `chance` is how often a
    moment as long as the answer's, put anywhere, would overlap the true one, and is None on the lines about answers.
    """

    name: str
    count: int
    correct: int
    accuracy: float
    low: float
    high: float
    majority: float | None
    question_only: float | None
    chance: float | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All scores of a question file over an index."""

    videos: int
    kinds: tuple[Score, ...]
    groups: tuple[Score, ...]
    moments: tuple[Score, ...]
    judged: tuple[Judged, ...]

    def to_dict(self, *, with_answers: bool = False) -> dict[str, Any]:
        """Plain values for JSON; `with_answers` adds every question with what was answered."""
        data = dataclasses.asdict(self)
        if not with_answers:
            del data["judged"]
        return data


def judge(questions: Sequence[Question], answers: Sequence[Answered]) -> list[Judged]:
    """Compare answers with the questions' truth, in order."""
    majority, question_only = majority_guesses(questions), question_only_guesses(questions)
    judged = []
    for question, answer, constant, blind in zip(questions, answers, majority, question_only, strict=True):
        top = (answer.moments[0].start_s, answer.moments[0].stop_s) if answer.moments else None
        hit: bool | None = None
        chance: float | None = None
        if question.kind in KINDS_WITH_A_MOMENT and question.start_s is not None and question.stop_s is not None:
            hit, chance = False, 0.0
            if top is not None:
                hit = top[0] < question.stop_s and top[1] > question.start_s
                length_s = top[1] - top[0]
                chance = chance_to_overlap(length_s, question.start_s, question.stop_s, answer.from_s, answer.to_s)
        judged.append(
            Judged(
                question=question,
                answer=answer.text,
                probability=answer.probability,
                correct=question.is_right(answer.text),
                moment=top,
                moment_hit=hit,
                moment_chance=chance,
                majority_correct=question.is_right(constant),
                question_only_correct=question.is_right(blind),
            )
        )
    return judged


def summarise(judged: Sequence[Judged]) -> Evaluation:
    """The table: a line for each kind, lines for groups across kinds, and lines for the moments pointed at."""
    by_kind: dict[str, list[Judged]] = defaultdict(list)
    for item in judged:
        by_kind[item.question.kind].append(item)
    order = {kind: rank for rank, kind in enumerate(_KIND_ORDER)}
    kinds = sorted(by_kind, key=lambda kind: (order.get(kind, len(order)), kind))
    groups = [
        ("all", list(judged)),
        ("first/last", [item for item in judged if item.question.kind in ("first", "last")]),
        ("span questions", [item for item in judged if item.question.has_span]),
        ("answer is nothing", [item for item in judged if normalise(item.question.answer) == NOTHING]),
    ]
    for voice in sorted({item.question.voice for item in judged if item.question.voice is not None}):
        spoken = [item for item in judged if item.question.voice == voice]
        groups.append((f"{voice} voice", spoken))
        groups += [(f"{voice} voice: {kind}", [i for i in spoken if i.question.kind == kind]) for kind in kinds]
    moments = [(kind, [item for item in by_kind[kind] if item.moment_hit is not None]) for kind in kinds]
    return Evaluation(
        videos=len({item.question.video for item in judged}),
        kinds=tuple(_answer_score(kind, by_kind[kind]) for kind in kinds),
        groups=tuple(_answer_score(name, items) for name, items in groups if items),
        moments=tuple(_moment_score(f"top moment: {kind}", items) for kind, items in moments if items),
        judged=tuple(judged),
    )


def _answer_score(name: str, items: Sequence[Judged]) -> Score:
    return _score(
        name,
        [item.correct for item in items],
        majority=sum(item.majority_correct for item in items) / len(items),
        question_only=sum(item.question_only_correct for item in items) / len(items),
    )


def _moment_score(name: str, items: Sequence[Judged]) -> Score:
    chances = [item.moment_chance or 0.0 for item in items]
    return _score(name, [item.moment_hit is True for item in items], chance=sum(chances) / len(chances))


def _score(
    name: str,
    right: Sequence[bool],
    *,
    majority: float | None = None,
    question_only: float | None = None,
    chance: float | None = None,
) -> Score:
    count, correct = len(right), sum(right)
    low, high = wilson_interval(correct, count)
    return Score(
        name=name,
        count=count,
        correct=correct,
        accuracy=correct / count,
        low=low,
        high=high,
        majority=majority,
        question_only=question_only,
        chance=chance,
    )


def evaluate(
    index: Index, questions: Sequence[Question], *, on_answer: Callable[[int], None] | None = None
) -> Evaluation:
    """Ask an index every question and compare with the truth.

    Questions are asked video by video, so that each video's latents are computed once; `on_answer` is called with
    the number answered so far.

    Raises:
        InputError: a question's video is not in the index, is named by several, or has nothing indexed yet.
    """
    # Every name is looked up before any work, so that a wrong file is noticed at once.
    ids = {name: index.find(name).video_id for name in dict.fromkeys(question.video for question in questions)}
    rank = {name: position for position, name in enumerate(ids)}
    order = sorted(range(len(questions)), key=lambda position: rank[questions[position].video])
    answers: dict[int, VideoAnswer] = {}
    for done, position in enumerate(order, start=1):
        question = questions[position]
        (answers[position],) = index.ask(
            question.question, video=ids[question.video], from_s=question.from_s, to_s=question.to_s
        )
        if on_answer is not None:
            on_answer(done)
    given = [
        Answered(
            text=answer.answer,
            probability=answer.probability,
            moments=answer.moments,
            from_s=question.from_s or 0.0,
            to_s=answer.seen_until_s if question.to_s is None else min(question.to_s, answer.seen_until_s),
        )
        for question, answer in ((questions[position], answers[position]) for position in range(len(questions)))
    ]
    return summarise(judge(questions, given))
