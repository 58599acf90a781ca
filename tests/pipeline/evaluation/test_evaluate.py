"""The table of an evaluation: intervals, baselines and moments, against values known beforehand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtake.errors import InputError
from longtake.pipeline.evaluation.evaluate import (
    Answered,
    Question,
    chance_to_overlap,
    judge,
    majority_guesses,
    question_only_guesses,
    read_questions,
    summarise,
    wilson_interval,
)


@dataclass(frozen=True)
class Stretch:
    start_s: float
    stop_s: float


def asked(video: str, question: str, answer: str, kind: str = "needle", **times: float) -> Question:
    return Question(video=video, question=question, answer=answer, kind=kind, **times)


def answered(text: str, *moments: Stretch) -> Answered:
    return Answered(text=text, probability=0.5, moments=moments, from_s=0, to_s=50)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_agrees_with_the_published_table(successes: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(successes, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_wilson_interval_holds_the_share_and_mirrors(case: tuple[int, int]) -> None:
    successes, count = case
    low, high = wilson_interval(successes, count)
    assert 0 <= low <= successes / count <= high <= 1
    # Four times as many questions of the same share leave less doubt.
    surer_low, surer_high = wilson_interval(4 * successes, 4 * count)
    assert surer_high - surer_low < high - low
    mirrored_low, mirrored_high = wilson_interval(count - successes, count)
    assert (1 - mirrored_high, 1 - mirrored_low) == pytest.approx((low, high), abs=1e-12)


def test_wilson_interval_of_nothing_and_of_nonsense() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson_interval(3, 2)


def test_majority_is_the_commonest_answer_of_the_kind() -> None:
    questions = [
        asked("a", "what?", "Red"),
        asked("b", "what?", "red."),
        asked("c", "what?", "blue"),
        asked("a", "how many?", "3", "count"),
    ]
    assert majority_guesses(questions) == ["red", "red", "red", "3"]


def test_question_only_never_sees_the_video_that_it_guesses_about() -> None:
    # In video a the answer to "x?" is always red, elsewhere always blue: only someone who saw a would say red.
    questions = [
        asked("a", "x?", "red"),
        asked("a", "x?", "red"),
        asked("a", "x?", "red"),
        asked("b", "x?", "blue"),
        asked("c", "x?", "blue"),
    ]
    assert question_only_guesses(questions) == ["blue", "blue", "blue", "red", "red"]


def test_question_only_falls_back_to_the_kind_and_then_to_no_guess() -> None:
    questions = [
        asked("a", "only in a?", "red"),
        asked("b", "other?", "green"),
        asked("c", "other?", "green"),
        asked("a", "alone in its kind?", "2", "count"),
    ]
    assert question_only_guesses(questions) == ["green", "green", "green", ""]


def test_question_only_finds_an_answer_that_the_words_give_away() -> None:
    questions = [
        asked(video, f"is it {word}?", answer, "exists")
        for video in ("a", "b", "c")
        for word, answer in (("day", "yes"), ("night", "no"))
    ]
    judged = judge(questions, [answered("yes")] * len(questions))
    (score,) = summarise(judged).kinds
    assert (score.accuracy, score.majority, score.question_only) == (0.5, 0.5, 1.0)


def test_table_counts_kinds_spans_nothing_and_moments() -> None:
    questions = [
        asked("a", "flash?", "star", start_s=10, stop_s=12),
        asked("a", "flash in this part?", "nothing", from_s=0, to_s=5),
        asked("b", "flash?", "moon", start_s=3, stop_s=5),
        asked("b", "horn?", "red", "bind", start_s=7, stop_s=8),
        asked("b", "first?", "sun", "first", start_s=1, stop_s=2),
    ]
    answers = [
        answered("Star", Stretch(11.9, 14), Stretch(0, 1)),
        answered("nothing"),
        answered("sun", Stretch(5, 6), Stretch(3, 5)),
        answered("red"),
        answered("sun", Stretch(40, 41)),
    ]
    result = summarise(judge(questions, answers))
    assert result.videos == 2
    assert [(s.name, s.correct, s.count) for s in result.kinds] == [("needle", 2, 3), ("bind", 1, 1), ("first", 1, 1)]
    assert [(s.name, s.correct, s.count) for s in result.groups] == [
        ("all", 4, 5),
        ("first/last", 1, 1),
        ("span questions", 1, 1),
        ("answer is nothing", 1, 1),
    ]
    # Only the strongest moment counts, touching ends do not overlap, and no moment at all is a miss.
    assert [(s.name, s.correct, s.count) for s in result.moments] == [
        ("top moment: needle", 1, 2),
        ("top moment: bind", 0, 1),
    ]
    # (2 + 2.1) / (50 - 2.1) for the first needle, (2 + 1) / (50 - 1) for the second.
    assert [s.chance for s in result.moments] == pytest.approx([(4.1 / 47.9 + 3 / 49) / 2, 0])
    assert "judged" not in result.to_dict()
    assert len(json.loads(json.dumps(result.to_dict(with_answers=True)))["judged"]) == 5


@given(st.floats(0.01, 100), st.floats(0, 99), st.floats(0.01, 1))
def test_chance_to_overlap_is_what_throwing_the_moment_gives(length_s: float, start_s: float, width_s: float) -> None:
    stop_s = start_s + width_s
    throws = [(100 - length_s) * (k + 0.5) / 4000 for k in range(4000)]
    hits = sum(at < stop_s and at + length_s > start_s for at in throws)
    assert chance_to_overlap(length_s, start_s, stop_s, 0, 100) == pytest.approx(hits / 4000, abs=1e-3)


def test_a_moment_as_long_as_the_video_always_overlaps() -> None:
    assert chance_to_overlap(10, 3, 4, 0, 10) == 1
    assert chance_to_overlap(12, 3, 4, 0, 10) == 1


ROW = {"video": "v.mp4", "question": "q?", "answer": "a", "kind": "needle"}


def test_questions_are_read_with_unknown_fields_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({**ROW, "seed": 3, "start_s": 1, "stop_s": 2.5}) + "\n\n" + json.dumps(ROW) + "\n")
    first, second = read_questions(path)
    assert (first.start_s, first.stop_s, first.has_span) == (1, 2.5, False)
    assert second.start_s is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "a question is a JSON object, not list"),
        (
            json.dumps({"video": "v", "question": "q", "kind": "k"}),
            "missing 1 required keyword-only argument: 'answer'",
        ),
        (json.dumps({**ROW, "answer": 3}), "answer must be a text, not 3"),
        (json.dumps({**ROW, "start_s": 3}), "both be given or both be null"),
        (json.dumps({**ROW, "start_s": 3, "stop_s": 3}), "stop_s 3 must be after start_s 3"),
        (json.dumps({**ROW, "from_s": True}), "from_s must be a number of seconds or null, not True"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + line + "\n")
    with pytest.raises(InputError, match="line 2") as caught:
        read_questions(path)
    assert reason in str(caught.value)


def test_a_file_that_is_missing_or_empty_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the questions"):
        read_questions(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no question"):
        read_questions(tmp_path / "empty.jsonl")


def test_an_answer_in_seconds_is_right_within_its_tolerance_and_so_is_a_guess() -> None:
    question = asked("a", "when?", "12", "when", tolerance_s=2)
    for answer, right in (("12", 1), ("10", 1), ("14.", 1), ("13.5 seconds", 1), ("14 s", 1), ("9", 0), ("15", 0)):
        assert question.is_right(answer) == bool(right), answer
    for answer in ("nothing", "twelve", "", "-12", "12 and 13"):
        assert not question.is_right(answer), answer
    # Without a tolerance numbers are words like others.
    assert not asked("a", "how many?", "2", "count").is_right("3")
    # "20" is the majority; within two seconds it is right three times of four.
    questions = [
        asked(video, "when?", answer, "when", tolerance_s=2)
        for video, answer in zip("abcd", ("20", "20", "22", "30"), strict=True)
    ]
    (score,) = summarise(judge(questions, [answered("21"), answered("17"), answered("24"), answered("nothing")])).kinds
    assert (score.correct, score.count, score.majority) == (2, 4, 0.75)
    for answer, tolerance_s in (("soon", 2), ("12", -1)):
        with pytest.raises(ValueError, match="a tolerance of"):
            asked("a", "when?", answer, "when", tolerance_s=tolerance_s)


def test_questions_in_other_words_are_one_for_the_question_only_guess() -> None:
    def about(video: str, text: str, answer: str) -> Question:
        return Question(video=video, question=text, answer=answer, kind="bind", about="word seven")

    questions = [
        about("a", "what was on screen while seven was said?", "cat"),
        about("b", "which object was shown while seven was spoken?", "cat"),
        about("c", "what was visible while the voice said seven?", "dog"),
        asked("d", "while nine?", "hat", "bind"),
        asked("e", "while nine?", "hat", "bind"),
        asked("f", "while nine?", "hat", "bind"),
    ]
    # The others' answers to the same question decide; by their words alone it would be the kind's commonest, "hat".
    assert question_only_guesses(questions)[:3] == ["cat", "cat", "cat"]


def test_trained_and_unseen_voices_are_scored_apart() -> None:
    questions = [
        Question(video="a", question="x?", answer="cat", kind="bind", voice="trained"),
        Question(video="a", question="y?", answer="cat", kind="said", voice="trained"),
        Question(video="b", question="x?", answer="cat", kind="bind", voice="unseen"),
        Question(video="b", question="z?", answer="cat", kind="needle"),
    ]
    result = summarise(judge(questions, [answered("cat"), answered("dog"), answered("dog"), answered("cat")]))
    assert [(s.name, s.correct, s.count) for s in result.groups if "voice" in s.name] == [
        ("trained voice", 1, 2),
        ("trained voice: bind", 1, 1),
        ("trained voice: said", 0, 1),
        ("unseen voice", 0, 1),
        ("unseen voice: bind", 0, 1),
    ]
    with pytest.raises(ValueError, match="voice must be a text or null, not 3"):
        Question(video="a", question="x?", answer="cat", kind="bind", voice=3)  # type: ignore[arg-type]
