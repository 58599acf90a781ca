"""`longtake bench model`: encode + combine by the length of a video, on the CPU with the smallest preset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from longtake.jobs.main import main
from longtake.operators.bench.joint_attention import joint_attention
from longtake.operators.bench.model_cost import ModelBench, count_flops
from longtake.operators.model import presets
from longtake.operators.model.model import LongTakeModel


def test_the_command_measures_and_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.json"
    words = ["bench", "model", "--preset", "tiny", "--lanes", "2", "--frames", "32", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    if not torch.cuda.is_available():
        assert said.startswith("no GPU here: times of the CPU through the references, which say nothing of the kernels")
    kept = json.loads(out.read_text())
    assert (kept["benchmark"], kept["preset"], kept["lanes"]) == ("model", "tiny", 2) and kept["complete"]
    assert [row["frames"] for row in kept["rows"]] == [8, 16, 32]
    assert [row["snippets"] for row in kept["rows"]] == [1, 2, 4]
    assert [row["joint_videos"] for row in kept["rows"]] == [2, 1, 1], "as many snippets where they are few"
    for row in kept["rows"]:
        assert row["us_a_frame"] == pytest.approx(1e6 * row["seconds"] / (2 * row["frames"]))
        assert row["frames_per_s"] == pytest.approx(8 * row["snippets_per_s"])
        assert 0 < row["share_of_matmul"] < 1.5 and row["joint_us_a_frame"] > 0
    assert kept["gate_cosine"] >= 0.999


def test_lengths_that_make_no_snippet_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "model", "--preset", "tiny", "--frames", "7"]) == 2
    assert "--frames must be at least a snippet's, which are 8, not 7" in capsys.readouterr().err
    assert main(["bench", "model", "--preset", "huge"]) == 2
    assert "no preset is named 'huge'" in capsys.readouterr().err


def test_operations_are_counted_without_computing() -> None:
    # The dense layers alone, counted by hand: tokens x weights x 2.
    config = presets.tiny()
    model = LongTakeModel(config)
    video = sum(t * y * x for t, y, x in (tube.grid(config.video.clip) for tube in config.video.tubes))
    inside = sum(p.numel() for p in model.video_encoder.transformer.parameters() if p.dim() == 2)
    counted = count_flops(config)
    assert 2 * video * inside < counted < 10 * video * inside
    # The paper's size: half a TFLOP a snippet, as its docstring says.
    assert 0.3e12 < count_flops(presets.mirasol_3b()) < 0.8e12


def test_joint_attention_reads_all_snippets_of_a_video_and_no_other() -> None:
    bench = ModelBench(presets.tiny(), torch.device("cpu"), lanes=4)
    frames, frame_mask, mel, mel_mask, _ = bench.inputs
    with torch.inference_mode():
        before = joint_attention(bench.encoder.model, 2, frames, frame_mask, mel, mel_mask)
        frames[3] = 255 - frames[3]
        moved = (joint_attention(bench.encoder.model, 2, frames, frame_mask, mel, mel_mask) - before).abs()
    tokens = before.shape[1] // 2
    assert not moved[0].any()
    assert (moved[1].amax(dim=-1) > 1e-6).all() and before.shape == (2, 2 * tokens, 96)


def test_a_step_of_the_ttm_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "step.json"
    assert main(["bench", "step", "--preset", "tiny", "--lanes", "3", "--out", str(out)]) == 0
    kept = json.loads(out.read_text())
    tiny = presets.tiny()
    tokens = sum(t * y * x for t, y, x in (tube.grid(tiny.video.clip) for tube in tiny.video.tubes)) + 8
    assert (kept["tokens_in"], kept["memory"], kept["lanes"]) == (tokens, 96, 3)
    assert f"3 lanes, {tokens} tokens in, a memory of 96: eager " in capsys.readouterr().out
    assert kept["eager"]["ms"] > 0
    assert (kept["ours"] is not None) == torch.cuda.is_available()
