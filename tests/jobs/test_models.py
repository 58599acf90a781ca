"""`longtake models`: presets and shipped weights, and what a directory is, under which licence, for which option."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longtake.jobs.main import main


def test_directories_are_shown_with_licence_and_use(
    random_encoders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    paths = [str(random_encoders / "siglip"), str(random_encoders / "whisper"), str(tmp_path)]
    assert main(["models", *paths, str(tmp_path / "gone")]) == 0
    shown = capsys.readouterr()
    assert shown.err == (
        f"longtake: warning: {tmp_path / 'gone'}: not a model directory, and not a hub name like Qwen/Qwen3.5-0.8B\n"
    )
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines[0][0] == "model" and [line[0] for line in lines[1:]] == paths
    assert "--video-encoder" in lines[1] and "--audio-encoder" in lines[2]
    assert " ".join(lines[3]).endswith("mit none: models of class bert are not supported")
    assert main(["models", "--json", *paths]) == 0
    found = json.loads(capsys.readouterr().out)["models"]
    assert [one["model_class"] for one in found] == ["SiglipVisionModel", "WhisperModel", "bert"]
    assert [one["card"]["licence"] for one in found] == ["not stated", "not stated", "mit"]


def test_what_is_no_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", str(tmp_path / "gone")]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and "gone: not a model directory" in shown.err


def test_shipped_weights_are_listed_with_their_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed["presets"]] == ["tiny", "small", "base", "mirasol_3b"]
    assert [one["name"] for one in listed["weights"]] == ["small", "tiny"]
    [tiny] = [one for one in listed["weights"] if one["name"] == "tiny"]
    assert tiny["licence"] == "apache-2.0" and tiny["parameters"] == 1_828_032
