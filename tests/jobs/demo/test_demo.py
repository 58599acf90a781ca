"""`longtake demo`: which questions it asks, and the whole of it on short videos with an untrained model."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from longtake.errors import InputError
from longtake.jobs.demo.questions import GENERAL, WISHES, choose_questions, read_made_questions
from longtake.operators.synthetic.script import write_script
from longtake.pipeline.synthetic.write_videos import Balance, draw_balanced, question_row

ROOT = Path(__file__).resolve().parents[3]
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    rng, balance = random.Random(5), Balance()
    rows = [
        question_row(f"v{number:04d}.mp4", question)
        for number in range(3)
        for question in draw_balanced(rng, write_script(number, 64), 2, balance)
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_dozen_questions_of_every_kind_spread_over_the_videos(rows_file: Path) -> None:
    rows = read_made_questions(rows_file)
    chosen = choose_questions(rows)
    assert len(chosen) == len(WISHES) == 12
    assert Counter(row.kind for row in chosen) == dict.fromkeys(
        ("needle", "bind", "first", "last", "count", "exists"), 2
    )
    assert Counter(row.video for row in chosen) == {"v0000.mp4": 4, "v0001.mp4": 4, "v0002.mp4": 4}
    assert sum(row.has_span for row in chosen) >= 4
    assert sum(row.answer == "nothing" for row in chosen) >= 1
    assert len({(row.video, row.question, row.from_s, row.to_s) for row in chosen}) == 12
    assert choose_questions(rows) == chosen


def test_too_few_questions_are_refused(rows_file: Path) -> None:
    with pytest.raises(InputError, match="5 questions were made, and 12 are wanted"):
        choose_questions(read_made_questions(rows_file)[:5])


def test_a_file_of_another_make_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "what?"}\n')
    with pytest.raises(InputError, match="not the questions of a made world"):
        read_made_questions(path)


def demo(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "longtake.jobs.main", "demo", *words]
    return subprocess.run(command, env=ENV, capture_output=True, text=True)


def test_the_whole_demo_with_an_own_video(tmp_path: Path, media: Path, index_writer) -> None:
    own = media / "chaplin.mp4"
    words = ("--model", str(index_writer.checkpoint), "--videos", "1", "--seconds", "12", "--video", str(own))
    done = demo("--out", str(tmp_path / "out"), *words)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "out" / "demo.html"
    lines = done.stdout.splitlines()
    assert len([line for line in lines if "v0000.mp4" in line]) == 12
    assert len([line for line in lines if "chaplin.mp4" in line and "not known" in line]) == len(GENERAL)
    assert " of 12 right, after " in lines[-1] and lines[-1].endswith(f"look at {page}")
    text = page.read_text()
    assert text.count('<section class="video"') == 2
    assert text.count('src="data:video/mp4;base64,') == 2
    # Twelve snippets of a second, and ten of chaplin.mp4's 9.6 s.
    assert text.count('class="cell') == 22
    assert text.count("data:image/jpeg;base64,") == 22
    assert text.count('<li class="question') == 12 + len(GENERAL)
    assert "https:" not in text and "http:" not in text
    assert "What is true of it is not known here" in text


def test_bad_arguments_cost_nothing(tmp_path: Path) -> None:
    done = demo("--out", str(tmp_path / "out"), "--video", str(tmp_path / "missing.mp4"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"longtake: error: {tmp_path / 'missing.mp4'}: no such file\n"
    assert not (tmp_path / "out").exists()
