"""`longtake bench ask --model vlm:...`: each way is measured on a real index of a tiny model; unequal ones are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("torchvision")

from longtake.errors import InputError, LongTakeError
from longtake.jobs.bench import ask_process, ask_vlm
from longtake.operators.hub.random_model import write_random_vlm
from longtake.operators.vlm import Clip, load_vlm
from longtake.pipeline.table.metadata import IndexMetadata
from longtake.pipeline.table.schema import VideoRow
from longtake.pipeline.table.vlm_columns import Places, floats
from longtake.pipeline.table.writer import Committer, SnippetRow, write_snippets

ROOT = Path(__file__).resolve().parents[3]
SNIPPETS, PICTURES = 3, 4


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An index of all tokens, unrounded, and the frames that it was made of."""
    folder = tmp_path_factory.mktemp("bench")
    directory = write_random_vlm(folder / "qwen", "qwen3_5", seed=7)
    vlm = load_vlm(directory)
    height, width = vlm.frame_size(32, 48)
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (SNIPPETS * PICTURES, height, width, 3), dtype=torch.uint8, generator=generator)
    times_s = [0.25 + number / 2 for number in range(len(frames))]
    metadata = IndexMetadata(
        model=f"vlm:{directory}", fingerprint=vlm.fingerprint, tokens=0, width=vlm.width, rate_hz=2.0, kind="vlm",
        token_store="float32", combiner="none", snippet_frames=PICTURES, most_tokens_a_step=256,
    )  # fmt: skip
    rows = []
    for number in range(SNIPPETS):
        part = slice(number * PICTURES, (number + 1) * PICTURES)
        clip = Clip(frames_FHWC=frames[part], times_s=tuple(times_s[part]), start_s=2.0 * number)
        made = vlm.encode_snippet(clip)
        rows.append(
            SnippetRow(
                video_id="v", snippet=number, start_ns=number * 2 * 10**9, stop_ns=(number + 1) * 2 * 10**9,
                pictures=PICTURES, tokens=floats(made.tokens_ND), text="", memory=b"", places=Places.of(made),
            )
        )  # fmt: skip
    committer = Committer(str(folder / "all.lt"), metadata)
    committer.commit_snippets([write_snippets(committer.uri, metadata, rows, {"v": -1})])
    committer.put_videos([VideoRow(uri="/v.mp4", video_id="v", snippets=SNIPPETS, status="done", model=metadata.model)])
    np.save(folder / "frames.npy", frames.numpy())
    return {
        "model": str(directory), "index": str(folder / "all.lt"), "video": "/v.mp4",
        "frames": str(folder / "frames.npy"), "times_s": times_s, "threads": 1,
    }  # fmt: skip


def test_the_gate_lets_the_same_logits_through_and_no_others(work: dict[str, Any], tmp_path: Path) -> None:
    checked = ask_process.check(work)
    assert checked["largest"] > 0.1
    ask_vlm.require_close(checked, 12)
    # One picture turned upside down is another video.
    frames = np.load(work["frames"])
    frames[5] = frames[5][::-1]
    np.save(tmp_path / "other.npy", frames)
    with pytest.raises(LongTakeError, match=r"12 frames: the logits from the index differ .* nothing to compare"):
        ask_vlm.require_close(ask_process.check({**work, "frames": str(tmp_path / "other.npy")}), 12)
    with pytest.raises(LongTakeError, match="nothing to compare"):
        ask_vlm.require_close({"difference": float("nan"), "largest": 1.0}, 12)


def test_each_way_is_measured_in_a_process_of_its_own(work: dict[str, Any], tmp_path: Path) -> None:
    path, made = tmp_path / "work.json", {}
    for way in ("plain", "stored"):
        path.write_text(json.dumps({**work, "way": way}))
        done = subprocess.run(
            [sys.executable, "-m", "longtake.jobs.bench.ask_process", str(path)], capture_output=True, text=True,
            env={"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PATH": ""},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made[way] = json.loads(done.stdout.splitlines()[-1])
        assert made[way]["peak_bytes"] >= made[way]["loaded_bytes"] > 50 << 20
        assert min(made[way]["first_s"], made[way]["tenth_s"]) > 0
    # Twelve pictures of 2 x 3 tokens, two in a step, and the text around them.
    assert made["plain"]["tokens"] > 36
    assert made["stored"]["kept_bytes"] > 0


@pytest.mark.parametrize("text", ["64,", "a", "64,64", "3", "0"])
def test_numbers_of_frames_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"--frames {text}"):
        ask_vlm.read_frames(text)
    assert ask_vlm.read_frames("64,256") == [64, 256]


def test_the_figures_say_whether_the_targets_are_met() -> None:
    way = {"first_s": 0.2, "tenth_s": 0.01, "load_s": 1.0, "peak_bytes": 900 << 20, "loaded_bytes": 600 << 20}
    row = {
        "frames": 256,
        "plain": {**way, "tokens": 6200, "first_s": 0.5, "tenth_s": 0.25},
        "all": way,
        "16": {**way, "tenth_s": 0.0125},
    }
    assert ask_vlm.tenth_ratio([row], 256) == 20.0 and ask_vlm.tenth_ratio([row], 64) is None
    stored = {
        "tokens_a_frame": 196.0, "tokens_a_frame_kept": 16.0, "bytes_an_hour_all": 12_100_000,
        "bytes_an_hour_16": 1_000_000, "share": 0.0826, "target_share": 0.0833,
    }  # fmt: skip
    figures = {
        "input": {"video": "a.mp4", "frames_a_second": 2.0, "height": 96, "width": 128},
        "rows": [row], "stored": stored, "ratio": 20.0, "target_ratio": ask_vlm.TARGET,
    }  # fmt: skip
    shown = ask_vlm.summarise(figures)
    assert "20 x faster than the plain call (at least 20 wanted: met)" in shown
    assert "1/12.1 (at most 1/12 wanted: met)" in shown
    few = {**figures, "ratio": 19.0, "stored": {**stored, "tokens_a_frame": 117.0, "share": 0.13}}
    assert "wanted: missed)" in ask_vlm.summarise(few)
    assert "1/7.7 (1/12 is wanted where a frame has 192 tokens)" in ask_vlm.summarise(few)
