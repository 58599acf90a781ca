"""`longtake ask`, `status`, `failures` and `evaluate` on a real index, through the command line's one entry.

In this process, since a new one spends seconds on its imports; test_main.py has the cases where the process matters.
"""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from longtake.jobs.main import main
from longtake.pipeline.table.schema import FailureRow, VideoRow

QUESTION = "what was shown when the border flashed?"


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def longtake(*words: str, stdin: str = "") -> Done:
    out, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.setattr("sys.stdin", io.StringIO(stdin))
        code = main(words)
    return Done(code, out.getvalue(), errors.getvalue())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, index_writer) -> str:
    folder = tmp_path_factory.mktemp("index") / "films.lt"
    committer = index_writer.create(folder, {"/films/one.mp4": 6, "/films/two.mp4": 9})
    index_writer.add(committer, "/films/two.mp4", range(9, 12), status="indexing")
    committer.put_videos([VideoRow(uri="/films/broken.mp4", video_id="", status="failed")])
    committer.put_failures(
        [
            FailureRow(uri="/films/broken.mp4", video_id="", stage="probe", error="MediaError", message="it is empty"),
            FailureRow(
                uri="/films/two.mp4",
                video_id="x",
                stage="decode",
                error="InvalidDataError",
                message="bad packet",
                start_ns=61_000_000_000,
                stop_ns=62_500_000_000,
            ),
        ]
    )
    return str(folder)


def test_one_question_prints_answers_probabilities_and_moments(path: str) -> None:
    done = longtake("ask", path, QUESTION)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("one.mp4: ") and lines[0].endswith(" %)")
    assert lines[1].startswith("  looked at ")
    assert "  seen up to 0:12.0; the rest is not indexed yet" in lines
    assert done.stderr == ("longtake: warning: 1 not asked, since nothing of them is indexed: /films/broken.mp4\n")


def test_json_holds_all_of_an_answer(path: str) -> None:
    done = longtake("ask", path, "what was the xylograph?", "--video", "two", "--from", "0:02", "--to", "8s", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    shown = json.loads(line)
    (answer,) = shown["answers"]
    assert set(answer) == {
        "video", "video_id", "question", "answer", "probability", "moments", "seen_until_s", "still_indexing",
        "from_s", "to_s", "votes", "unknown_words", "notes",
    }  # fmt: skip
    assert (answer["video"], answer["from_s"], answer["to_s"]) == ("/films/two.mp4", 2.0, 8.0)
    assert answer["unknown_words"] == ["xylograph"]
    assert shown["warnings"] == ["the model does not know xylograph; the answer may miss the question"]
    assert "longtake: warning: the model does not know xylograph" in done.stderr


class Terminal(io.StringIO):
    """What is printed there, as a person's terminal would get it."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_one_videos_answer_comes_in_pieces(path: str) -> None:
    shown, piped = Terminal(), longtake("ask", path, QUESTION, "--video", "one")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(shown):
        # Colours and cursor movements are rich's matter.
        patch.setenv("TERM", "dumb")
        assert main(["ask", path, QUESTION, "--video", "one"]) == 0
    assert shown.getvalue() == piped.stdout
    wrong = Terminal()
    with redirect_stdout(wrong), redirect_stderr(io.StringIO()) as errors:
        assert main(["ask", path, "what " * 500, "--video", "one"]) == 2
    assert wrong.getvalue() == "" and "the model reads at most" in errors.getvalue()


def test_what_only_public_models_do_is_refused(path: str) -> None:
    for option in ("--limit", "--look-closer"):
        done = longtake("ask", path, QUESTION, option, "3")
        assert done.returncode == 2 and "is for public models (vlm:...)" in done.stderr


def test_choices_and_votes(path: str) -> None:
    done = longtake("ask", path, QUESTION, "--video", "one.mp4", "--choices", "red, blue", "--json")
    assert json.loads(done.stdout)["answers"][0]["answer"] in ("red", "blue")
    done = longtake("ask", path, QUESTION, "--video", "one.mp4", "--votes", "3")
    assert "  votes: " in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["q", "--video", "on"], "no video 'on'; did you mean one.mp4"),
        (["q", "--video", "broken"], "nothing of it is indexed (status: failed)"),
        (["q", "--from", "9", "--to", "3"], "the span stops at 3 s"),
        (["q", "--votes", "0"], "votes must be at least 1"),
        (["q", "--limit", "0"], "an answer takes at least 1 token"),
        (["q", "--look-closer", "0"], "at least 1 snippet can be looked at closer"),
        (["q", "--choices", "red"], "choices must be at least two different words"),
        ([""], "the question is empty"),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_line_and_exit_2(path: str, words: list[str], message: str) -> None:
    done = longtake("ask", path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.startswith("longtake: error: ") and done.stderr.count("\n") == 1


def test_a_file_of_text_questions(path: str, tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_text(f"# comment\n{QUESTION}\n\nhow many horns sounded?\n")
    done = longtake("ask", path, "--questions", str(file), "--video", "one")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("\n\n")
    assert first.startswith(QUESTION + "\none.mp4: ")
    assert second.startswith("how many horns sounded?\none.mp4: ")


def test_a_file_of_json_questions_goes_on_after_an_error(path: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question": QUESTION, "video": "one.mp4", "from_s": 1, "to_s": 3.5, "answer": "star", "kind": "needle"},
        {"question": QUESTION, "video": "none.mp4"},
        {"question": QUESTION, "video": "two.mp4", "choices": ["red", "blue"], "from_s": None},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    done = longtake("ask", path, "--questions", str(file), "--json")
    assert done.returncode == 2
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert first["answers"][0]["to_s"] == 3.5
    assert "no video 'none.mp4'" in second["error"]
    assert third["answers"][0]["answer"] in ("red", "blue")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no question"),
        ('{"video": "one.mp4"}', 'line 1: the row has no "question"'),
        ('{"question": "q", "votes": "3"}', "line 1: votes must be int, not '3'"),
        ("{", "line 1: Expecting property name"),
    ],
)
def test_a_bad_file_of_questions_is_refused(path: str, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(text)
    done = longtake("ask", path, "--questions", str(file))
    assert (done.returncode, done.stdout) == (2, "") and message in done.stderr


def test_without_a_question_it_reads_a_prompt(path: str) -> None:
    typed = (
        f":help\n:video one\n:span 1 4\n{QUESTION}\n:span soon now\n:nonsense\n:video\n:span\n\n{QUESTION}\n:videos\n"
    )
    done = longtake("ask", path, stdin=typed)
    assert done.returncode == 2
    answers = [line for line in done.stdout.splitlines() if ".mp4: " in line]
    assert [line.split(":")[0] for line in answers] == ["one.mp4", "one.mp4", "two.mp4"]
    assert ":quit" in done.stdout and "indexing      12 snippets  /films/two.mp4" in done.stdout
    assert "'soon' is not a moment" in done.stderr and ":nonsense is nothing" in done.stderr
    assert longtake("ask", path, stdin=f"{QUESTION}\n:quit\nnever read").returncode == 0


def test_status_tells_what_is_there(path: str) -> None:
    done = longtake("status", path)
    assert done.returncode == 0, done.stderr
    assert "3 videos (1 done, 1 indexing, 1 failed), 18 snippets, 144 frames" in done.stdout
    assert "2 failures: longtake failures" in done.stdout and "8 frames/s" in done.stdout
    shown = json.loads(longtake("status", path, "--json").stdout)
    assert (shown["videos"], shown["done"], shown["indexing"], shown["failed"]) == (3, 1, 1, 1)
    assert (shown["snippets"], shown["frames"], shown["failures"]) == (18, 144, 2)
    assert [row["snippets"] for row in shown["rows"]] == [0, 6, 12]


def test_failures_are_listed_with_place_and_reason(path: str) -> None:
    done = longtake("failures", path)
    assert done.returncode == 0, done.stderr
    (whole,) = [line for line in done.stdout.splitlines() if "broken.mp4" in line]
    assert "whole file" in whole and "it is empty" in whole
    (part,) = [line for line in done.stdout.splitlines() if "two.mp4" in line]
    assert "1:01.0-1:02.5" in part and "bad packet" in part
    shown = json.loads(longtake("failures", path, "--json").stdout)
    assert [row["stage"] for row in shown["failures"]] == ["probe", "decode"]


def test_evaluate_prints_the_table_and_json(path: str, tmp_path: Path) -> None:
    rows = [
        {"video": video, "question": QUESTION, "answer": answer, "kind": "needle", "start_s": 1, "stop_s": 2,
         "from_s": start, "to_s": stop}
        for video, answer in (("one.mp4", "star"), ("two.mp4", "nothing"), ("one.mp4", "star"))
        for start, stop in ((None, None), (0, 4))
    ]  # fmt: skip
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    written = tmp_path / "answers.jsonl"
    done = longtake("evaluate", path, str(file), "--answers", str(written))
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for row in ("needle", "all", "span questions", "answer is nothing", "top moment: needle"):
        assert f"\n{row} " in text, text
    assert "6 questions about 2 videos" in text and "95 % interval" in text
    judged = [json.loads(line) for line in written.read_text().splitlines()]
    assert [item["question"]["video"] for item in judged] == [row["video"] for row in rows]

    # The same answers must come out one by one through the public face, in the file's order.
    import longtake as public

    index = public.open_index(path)
    for item, row in zip(judged, rows, strict=True):
        (answer,) = index.ask(QUESTION, video=row["video"], from_s=row["from_s"], to_s=row["to_s"])
        assert (item["answer"], item["correct"]) == (answer.answer, answer.answer == row["answer"])

    shown = json.loads(longtake("evaluate", path, str(file), "--json").stdout)
    (needle,) = shown["kinds"]
    assert (needle["count"], needle["majority"]) == (6, pytest.approx(4 / 6))
    # Someone who knows the other video only always guesses wrong here.
    assert needle["question_only"] == 0


def test_evaluate_names_a_video_that_is_not_indexed(path: str, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps({"video": "three.mp4", "question": "q", "answer": "a", "kind": "needle"}))
    done = longtake("evaluate", path, str(file))
    assert (done.returncode, done.stdout) == (2, "") and "no video 'three.mp4'" in done.stderr
