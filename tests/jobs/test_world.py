"""`longtake world`: files and questions in a folder, what a guesser would score, and one-line errors."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from longtake.jobs.main import main

SMALL = ("--snippets", "8", "--width", "48", "--height", "48")


def test_a_world_is_written_and_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "world"
    assert main(["world", "--out", str(out), "--videos", "2", *SMALL, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    assert (summary["videos"], summary["questions"]) == (2, len(rows))
    assert sum(summary["by_kind"].values()) == len(rows) > 10
    # The majority is right at least once in each kind.
    assert set(summary["guesses"]) == set(summary["by_kind"])
    assert all(0 < majority <= 1 and 0 <= blind <= 1 for majority, blind in summary["guesses"].values())
    assert {row["video"] for row in rows} == {path.name for path in out.glob("*.mp4")} == {"v0000.mp4", "v0001.mp4"}

    # A second world in the same folder is refused, and the first stays as it is.
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(["world", "--out", str(out), "--videos", "3", "--seed", "1", *SMALL]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"longtake: error: {out}/questions.jsonl: is there already; choose another folder\n"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_table_names_every_kind_with_its_baselines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "--out", str(tmp_path / "w"), "--videos", "1", "--questions", "1", *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "majority" in shown and "question only" in shown and "%" in shown
    rows = [json.loads(line) for line in (tmp_path / "w" / "questions.jsonl").read_text().splitlines()]
    assert all(row["kind"] in shown for row in rows)
    assert f"1 videos and {len(rows)} questions" in shown.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--videos", "0"), "a world needs at least 1 video of 1 snippet, not 0 of 8"),
        (("--width", "49"), "pictures of 49 x 48: even sides of at least 48 are wanted"),
        (("--questions", "-2"), "-2 questions a kind"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert main(["world", "--out", str(tmp_path / "w"), *SMALL, *words]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"longtake: error: {message}") and shown.err.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_world_of_real_material_names_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for number, label in enumerate(("cat", "dog", "hat")):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        Image.new("RGBA", (32, 32), (80 * number, 200, 40, 255)).save(tmp_path / "pictures" / label / "a.png")
    (tmp_path / "pictures" / "hat" / "broken.png").write_text("no picture")
    t = np.arange(3_200) / 8_000
    for number, label in enumerate(("one", "two", "three")):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for speaker in ("anna", "ben"):
            for take in range(3):
                with wave.open(str(tmp_path / "sounds" / label / f"{speaker}_{take}.wav"), "wb") as file:
                    file.setnchannels(1)
                    file.setsampwidth(2)
                    file.setframerate(8_000)
                    tone = 9_000 * np.sin(2 * np.pi * 300 * (number + 1) * t)
                    file.writeframes(tone.astype("<i2").tobytes())
    folders = ("--pictures", str(tmp_path / "pictures"), "--sounds", str(tmp_path / "sounds"))
    words = ["world", *folders, "--videos", "2", *SMALL, "--split", "train", "--hold-out-voice"]
    assert main([*words, "ben", "--out", str(tmp_path / "w"), "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith(f"longtake: warning: {tmp_path}/pictures/hat/broken.png: left out: cannot be decoded")
    assert shown.err.count("\n") == 1
    rows = [json.loads(line) for line in (tmp_path / "w" / "questions.jsonl").read_text().splitlines()]
    assert json.loads(shown.out)["questions"] == len(rows) > 20
    assert {row["voice"] for row in rows if "voice" in row} == {"trained"}
    # Wrong names and half a material are one line each.
    assert main([*words, "carl", "--out", str(tmp_path / "x")]) == 2
    assert "error: no voice is named 'carl'; there are anna, ben\n" in capsys.readouterr().err
    assert main(["world", *folders[:2], "--out", str(tmp_path / "x")]) == 2
    assert "needs both a folder of pictures and one of sounds" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
