"""`longtake train` as a process, also on a machine that has no Ray, Lance or decoder: stop, go on, model and curves."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}

# The command line behind a finder that refuses what a training machine need not have.
PROGRAM = """
import sys
blocked = {"ray", "lance", "av", "decord"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is blocked here")
sys.meta_path.insert(0, Refuse())
from longtake.jobs.main import main
code = main(sys.argv[1:])
assert not blocked & set(sys.modules)
sys.exit(code)
"""


def train(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, "train", *map(str, words)]
    return subprocess.run(command, env=ENV, capture_output=True, text=True)


def rows(out: Path) -> list[tuple[str, int]]:
    with (out / "curves.csv").open(newline="") as file:
        return [(row["stage"], int(row["step"])) for row in csv.DictReader(file)]


def test_a_stopped_training_goes_on_to_a_model_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("--out", out, "--snippet-steps", "2", "--long-steps", "1", "--polish-steps", "1", "--pool-videos", "2")
    # Rendered by another process first, then in the same one: that is no other plan.
    stopped = train(*words, "--stop-after", "1")
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped in stage snippets at step 1; the same command goes on" in stopped.stdout
    assert not (out / "model").exists() and not (out / "curves.csv").exists()

    # The same folder with another plan is refused, in one line, and nothing is touched.
    before = sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir())
    other = train(*words, "--seed", "7")
    assert other.returncode == 2
    assert other.stderr == (
        f"longtake: error: {out}: holds a run of another plan or config; choose another directory\n"
    )
    assert sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir()) == before

    done = train(*words, "--workers", "0")
    assert done.returncode == 0, done.stderr
    assert f"model: {out}/model" in done.stdout.replace("\n", "")
    assert rows(out) == [("snippets", 2), ("long", 1), ("polish", 1)]
    with Image.open(out / "curves.png") as image:
        image.load()
        assert image.format == "PNG"
    from longtake.operators.model import presets
    from longtake.operators.model.checkpoint import load_model

    loaded = load_model(str(out / "model"))
    assert loaded.config == presets.tiny()
    assert loaded.tokenizer.unknown_words("What was on screen while the horn sounded?") == ()


def test_training_on_public_encoders_ends_in_a_model_that_names_them(random_encoders: Path, tmp_path: Path) -> None:
    out, features = tmp_path / "run", tmp_path / "features"
    words = ("--out", out, "--snippet-steps", "2", "--long-steps", "1", "--polish-steps", "1", "--pool-videos", "2",
             "--video-encoder", random_encoders / "siglip", "--video-layer", "-2",
             "--audio-encoder", random_encoders / "whisper", "--features", features, "--workers", "0")  # fmt: skip
    stopped = train(*words, "--stop-after", "1")
    assert stopped.returncode == 0 and stopped.stderr == "", stopped.stderr
    kept = (features / "built-in" / "features.json").stat().st_mtime_ns
    done = train(*words)
    assert done.returncode == 0 and rows(out) == [("snippets", 2), ("long", 1), ("polish", 1)], done.stderr
    assert (features / "built-in" / "features.json").stat().st_mtime_ns == kept
    from longtake.operators.model.checkpoint import load_model
    from longtake.operators.model.config import PretrainedConfig

    config = load_model(str(out / "model")).config
    assert config.video.pretrained == PretrainedConfig(source=str(random_encoders / "siglip"), layer=-2)
    assert config.audio.pretrained == PretrainedConfig(source=str(random_encoders / "whisper"))
    assert (config.video.height, config.audio.frames) == (64, 16_000)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--video-encoder", "/nowhere"), "video encoder: /nowhere: not a model directory, and not a hub name"),
        (("--audio-layer", "3"), "--audio-layer is of a public encoder; name it with --audio-encoder"),
        (("--features", "x"), "--features keeps what public encoders see; name one with --video-encoder"),
        (("--preset", "huge"), "no preset is named 'huge'; there are tiny, small, base, mirasol_3b"),
        (("--snippet-steps", "-1"), "--snippet-steps must be at least 0, not -1"),
        (("--pool-videos", "0"), "--pool-videos must be at least 1, not 0"),
        (("--device", "tpu"), "--device tpu: this machine can train on cpu"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    from longtake.jobs.main import main

    assert main(["train", "--out", str(tmp_path / "run"), *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"longtake: error: {message}") and shown.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
