"""`longtake index` and `failures --retry` as processes, on real files, with an untrained model."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longtake.errors import InputError
from longtake.jobs.index.snippet_length import outside_trained_range
from longtake.operators.model import presets
from longtake.pipeline.bench.loop_clip import loop_clip
from longtake.pipeline.table.schema import IndexReader

ROOT = Path(__file__).resolve().parents[3]
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
SUMMARY = ["videos", "indexed", "skipped", "failed", "snippets", "frames", "video_seconds", "seconds"]


def longtake(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "longtake.jobs.main", *map(str, words)]
    return subprocess.run(command, env=ENV, capture_output=True, text=True)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, media: Path) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    shutil.copy(media / "pancake.mkv", folder)
    (folder / "broken.mp4").write_bytes(b"no video at all" * 99)
    return folder


@pytest.fixture(scope="module")
def into(archive: Path, index_writer) -> Path:
    """An index of the archive, made by the command; what it said is beside it."""
    place = archive.parent / f"{archive.name}.lt"
    done = longtake("index", archive, "--into", place, "--model", index_writer.checkpoint, "--frames", "16", "--json")
    assert done.returncode == 0, done.stderr
    (archive.parent / "said.json").write_text(done.stdout)
    (archive.parent / "warned.txt").write_text(done.stderr)
    return place


def test_json_is_one_object_with_the_summary(into: Path) -> None:
    (line,) = (into.parent / "said.json").read_text().splitlines()
    said = json.loads(line)
    assert list(said)[: len(SUMMARY)] == SUMMARY
    assert [said[key] for key in SUMMARY[:6]] == [2, 1, 0, 1, 2, 16]
    assert said["video_seconds"] == pytest.approx(10.3, abs=0.2) and said["seconds"] > 0
    (failure,) = said["failures"]
    assert failure["stage"] == "probe" and failure["uri"].endswith("broken.mp4")
    assert IndexReader.open(str(into)).metadata.frames == 16


def test_snippets_longer_than_the_model_knows_are_warned_about(into: Path) -> None:
    warned = (into.parent / "warned.txt").read_text()
    assert "with 16 frames a video, 1 of 1 videos have snippets of 5.1" in warned
    assert "was trained on snippets of 0.8 to 1.25 s" in warned


def test_again_skips_what_is_done_and_strict_tells_failures_apart(into: Path, archive: Path) -> None:
    # Without --model and --frames the index's own are used, so everything counts as done.
    done = longtake("index", archive, "--into", into)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 videos: 0 indexed, 1 skipped, 1 failed\n")
    assert "failed: " in done.stdout and "broken.mp4: not a media file" in done.stdout
    assert longtake("index", archive, "--into", into, "--strict").returncode == 1
    assert longtake("index", archive / "pancake.mkv", "--into", into, "--strict").returncode == 0


def test_a_changed_model_is_refused(into: Path, archive: Path, tmp_path: Path) -> None:
    from longtake.operators.model.checkpoint import save_model
    from longtake.operators.synthetic.random_model import random_model

    other = random_model(presets.tiny(), seed=2)
    save_model(tmp_path / "other", other.model, other.tokenizer)
    done = longtake("index", archive, "--into", into, "--model", tmp_path / "other")
    assert done.returncode == 2
    assert "--rebuild" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4: no such file or folder"),
        (["{archive}", "--rate", "0"], "a rate of 0.0 frames/s"),
        (["{archive}", "--rate", "4", "--frames", "8"], "not allowed with argument --rate"),
        (["{archive}", "--decoders", "0"], "--decoders must be at least 1"),
        (["{archive}", "--model", "nobody"], "nobody: not a model directory"),
        (["{archive}", "--reader", "vlc"], "invalid choice: 'vlc'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(archive: Path, tmp_path: Path, words: list[str], message: str) -> None:
    given = [word.format(archive=archive) for word in words]
    done = longtake("index", *given, "--into", tmp_path / "new.lt")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.startswith("longtake: error: ") and done.stderr.count("\n") == 1


def test_a_second_writer_is_told_so_and_exits_with_1(into: Path, archive: Path) -> None:
    from longtake.pipeline.table.lock import IndexLock

    with IndexLock(into):
        done = longtake("index", archive, "--into", into)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("longtake: error: ") and done.stderr.count("\n") == 1


def test_retry_reads_what_failed_again(into: Path, archive: Path, media: Path) -> None:
    # The file has been repaired: the very reason to retry.
    shutil.copy(media / "rotated_90.mov", archive / "broken.mp4")
    done = longtake("failures", into, "--retry")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 video: 1 indexed, 0 skipped, 0 failed\n")
    assert longtake("failures", into).stdout == f"{into}: no failures\n"
    assert {row.status for row in IndexReader.open(str(into)).videos()} == {"done"}


def is_index(place: Path) -> bool:
    """Whether there is an index by now."""
    with contextlib.suppress(InputError):
        IndexReader.open(str(place))
        return True
    return False


def test_ctrl_c_exits_with_130_and_leaves_an_index_to_go_on_with(tmp_path: Path, media: Path, index_writer) -> None:
    # Long enough to be surely under way when the signal comes.
    video, into = tmp_path / "long.webm", tmp_path / "stopped.lt"
    loop_clip(media / "big_buck_bunny_30s.webm", video, 1800.0)
    words = ["index", video, "--into", into, "--model", index_writer.checkpoint]
    command = [sys.executable, "-m", "longtake.jobs.main", *map(str, words)]
    process = subprocess.Popen(
        command,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background of a shell ignores SIGINT, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not is_index(into):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate()
    finally:
        process.kill()
    assert (process.returncode, said) == (130, ""), errors
    assert "the same command goes on from there" in errors and "Traceback" not in errors
    assert IndexReader.open(str(into)).videos() is not None


def test_trained_range_has_inclusive_ends() -> None:
    config = presets.tiny()
    assert config.snippet_s is not None
    low, high = config.snippet_s
    assert [outside_trained_range(s, config) for s in (low * 0.99, low, 1.0, high, high * 1.01)] == [
        True,
        False,
        False,
        False,
        True,
    ]
