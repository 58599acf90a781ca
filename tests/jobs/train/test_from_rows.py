"""`longtake train --data` through the command line: real MP4s in, a model that answers out."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import random
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from longtake.jobs.main import main
from longtake.operators.model import presets
from longtake.operators.model.checkpoint import load_model, save_model
from longtake.operators.model.config import PretrainedConfig
from longtake.operators.model.encoders.towers import on_public_encoders
from longtake.operators.synthetic.random_model import random_model
from longtake.operators.synthetic.script import write_script
from longtake.pipeline.synthetic.write_videos import WorldOptions, write_video
from longtake.pipeline.table.schema import IndexReader

NAMES = ("one", "two", "three")
SECONDS = 4


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def longtake(*words: str | Path) -> Done:
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        code = main([str(word) for word in words])
    return Done(code, out.getvalue(), errors.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short films, and rows about them: captions of their halves, questions, and four rows that are no use."""
    folder = tmp_path_factory.mktemp("films")
    rng = random.Random(8)
    rows: list[dict[str, object]] = []
    for name in NAMES:
        video = f"{name}.mp4"
        options = WorldOptions(out=folder, videos=1, snippets=SECONDS, width=64, height=48)
        write_video(write_script(rng.randrange(2**62), SECONDS), folder / video, options)
        told = {"video": video, "caption": f"film {name}"}
        rows += [{**told, "from_s": start, "to_s": start + 2} for start in (0, 2)]
        rows.append({"video": video, "question": "Which film is this?", "answer": name, "start_s": 0, "stop_s": 1})
        rows.append({"video": video, "question": "Is it short?", "answer": "yes"})
    (folder / "broken.mp4").write_bytes((folder / "one.mp4").read_bytes()[:500])
    lines = [json.dumps(row) for row in rows]
    lines += [
        json.dumps({"video": "broken.mp4", "caption": "a broken film"}),
        json.dumps({"video": "zero.mp4", "caption": "no film"}),
        json.dumps({"video": "one.mp4", "question": "Which film is this?", "answer": ""}),
        '{"video": "one.mp4"',
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder


SETTINGS = ("--preset", "tiny", "--snippet-epochs", "12", "--epochs", "24", "--batch", "2", "--stretch", "2",
            "--workers", "0")  # fmt: skip


def texts(out: Path, stage: str) -> list[float]:
    with (out / "curves.csv").open(newline="") as file:
        return [float(row["text"]) for row in csv.DictReader(file) if row["stage"] == stage]


def curves(out: Path) -> list[tuple[str, int]]:
    with (out / "curves.csv").open(newline="") as file:
        return [(row["stage"], int(row["step"])) for row in csv.DictReader(file)]


def test_rows_about_films_become_a_model_that_answers(folder: Path, tmp_path: Path) -> None:
    out, rows = tmp_path / "run", folder / "rows.jsonl"
    stopped = longtake("train", "--data", rows, "--out", out, *SETTINGS, "--stop-after", "20")
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped in stage snippets at step 20; the same command goes on" in stopped.stdout
    errors = stopped.stderr.splitlines()
    assert "longtake: 4 of 16 rows cannot be used:" in errors
    shown = [line.split() for line in errors if line[:4].strip().isdecimal()]
    assert [(line[0], line[1]) for line in shown] == [
        ("13", "broken.mp4"),
        ("14", "zero.mp4"),
        ("15", "one.mp4"),
        ("16", "-"),
    ]
    assert any(line.startswith("longtake: stage snippets: 36 steps, 6 captions; trains video_enc") for line in errors)
    assert any(line.startswith("longtake: stage questions: 48 steps, 12 rows (3 with evidence)") for line in errors)
    listed = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [row["line"] for row in listed] == [13, 14, 15, 16] and "No such file" in listed[1]["reason"]
    assert "12 rows about 3 videos of 12 snippets; 4 rows skipped" in stopped.stderr

    stored = {path.name: path.stat().st_mtime_ns for path in (out / "snippets").iterdir()}
    assert len([name for name in stored if name.endswith(".bin")]) == 3
    done = longtake("train", "--data", rows, "--out", out, *SETTINGS)
    assert done.returncode == 0 and f"model: {out}/model" in done.stdout.replace("\n", ""), done.stderr
    # Decoded once; then the frozen encoders' tokens were indexed once.
    assert {path.name: path.stat().st_mtime_ns for path in (out / "snippets").iterdir()} == stored
    assert [row.snippets for row in IndexReader.open(str(out / "tokens.lt")).videos()] == [SECONDS] * 3
    assert curves(out) == [("snippets", 20), ("snippets", 36), ("questions", 20), ("questions", 40), ("questions", 48)]
    falling = texts(out, "snippets") + texts(out, "questions")
    assert falling[-1] < 0.3 * falling[0], falling

    # Another plan, or a run on made worlds, is refused before its rows are even read.
    for words in (("--data", "nothing.jsonl", *SETTINGS, "--seed", "5"), ("--preset", "tiny")):
        other = longtake("train", "--out", out, *words)
        assert other.returncode == 2 and "holds a run of another plan or config" in other.stderr

    into = tmp_path / "films.lt"
    indexed = longtake("index", folder / "one.mp4", folder / "three.mp4", "--into", into, "--model", out / "model")
    assert indexed.returncode == 0, indexed.stderr
    asked = longtake("ask", into, "Which film is this?", "--json")
    assert asked.returncode == 0, asked.stderr
    answers = {Path(one["video"]).stem: one["answer"] for one in json.loads(asked.stdout)["answers"]}
    assert answers == {"one": "one", "three": "three"}

    # From this model, with all that makes tokens frozen: what the first run indexed is all that is read.
    second = tmp_path / "second"
    shutil.copytree(out / "encoders", second / "encoders")
    shutil.copytree(out / "tokens.lt", second / "tokens.lt")
    before = IndexReader.open(str(second / "tokens.lt"))
    frozen = "video_encoder,audio_encoder,combiner"
    words = ("--from", out / "model", "--freeze", frozen, "--snippet-epochs", "1", "--epochs", "8", "--batch", "2")
    tuned = longtake("train", "--data", rows, "--out", second, *words)
    assert tuned.returncode == 0, tuned.stderr
    assert not (second / "snippets").exists()
    # Its metadata names the first run's encoders, and no video was taken up again.
    after = IndexReader.open(str(second / "tokens.lt"))
    assert after.videos() == before.videos() and after.version == before.version
    assert "tokens from" in tuned.stderr and "decoding the videos" not in tuned.stderr
    made, start = load_model(str(second / "model")), load_model(str(out / "model"))
    assert made.tokenizer.tokenizer.to_str() == start.tokenizer.tokenizer.to_str()
    weights = made.model.state_dict()
    changed = {n.split(".")[0] for n, v in start.model.state_dict().items() if not v.equal(weights[n])}
    assert changed == {"latent_model", "text_decoder"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "rows.jsonl", "--long-steps", "3"), "--long-steps is for training without --data"),
        (("--epochs", "3"), "--epochs is for training with --data"),
        (("--from", "tiny"), "--from is for training with --data"),
        (
            ("--data", "rows.jsonl", "--freeze", "eyes"),
            "--freeze eyes: there is no such part; there are video_encoder,",
        ),
        (("--data", "rows.jsonl", "--freeze", "latent_model,text_decoder"), "stage questions: every part is frozen,"),
        (("--data", "rows.jsonl", "--epochs", "0", "--snippet-epochs", "0"), "both stages have 0 epochs"),
        (("--data", "rows.jsonl", "--preset", "base", "--from", "tiny"), "--from tiny is a model of its own config"),
        (("--data", "rows.jsonl", "--preset", "huge"), "no preset is named 'huge'; there are tiny"),
        (("--data", "rows.jsonl", "--epochs", "-1"), "--epochs must be at least 0, not -1"),
        (("--data", "rows.jsonl", "--learning-rate", "2"), "--learning-rate must lie between 0 and 1, not 2"),
        (("--data", "nothing.jsonl"), "nothing.jsonl: cannot read the rows: No such file or directory"),
        (("--data", "rows.jsonl", "--max-bad-rows", "3"), "rows.jsonl: 4 of 16 rows cannot be used, more than the 3"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_nothing_is_decoded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(folder)
    done = longtake("train", "--out", tmp_path / "run", *words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"longtake: error: {message}"), done.stderr
    assert not (tmp_path / "run" / "snippets").exists() and not (tmp_path / "run" / "state.json").exists()


def test_public_encoders_learn_their_projections_from_rows(folder: Path, random_encoders: Path, tmp_path: Path) -> None:
    words = ("--data", folder / "rows.jsonl", "--out", tmp_path, *SETTINGS,
             "--video-encoder", random_encoders / "siglip", "--audio-encoder", random_encoders / "whisper")  # fmt: skip
    for stop in (1, 2):
        done = longtake("train", *words, "--stop-after", "1")
        assert done.returncode == 0, done.stderr
        assert f"stopped in stage snippets at step {stop}; the same command goes on" in done.stdout
    (state,) = tmp_path.glob("state-*.safetensors")
    assert state.name == "state-snippets-2.safetensors"
    moments = [name for name in load_file(state) if name.startswith("optimizer/model.video_encoder")]
    assert moments and all("projection" in name for name in moments)
    other = longtake("train", *words[:-4], "--stop-after", "1")
    assert other.returncode == 2 and "holds a run of another plan or config" in other.stderr
    # A checkpoint may name its encoders beside it; what a run writes lies elsewhere.
    shutil.copytree(random_encoders / "siglip", tmp_path / "siglip")
    named = on_public_encoders(presets.tiny(), video=PretrainedConfig(source=str(tmp_path / "siglip")))
    made = random_model(named)
    assert named.video.pretrained is not None
    beside = dataclasses.replace(named.video.pretrained, source="../siglip")
    made.model.config = dataclasses.replace(named, video=dataclasses.replace(named.video, pretrained=beside))
    save_model(tmp_path / "beside", made.model, made.tokenizer)
    begun = longtake("train", "--data", folder / "rows.jsonl", "--from", tmp_path / "beside", "--out",
                     tmp_path / "sub" / "out", "--workers", "0", "--batch", "2", "--stop-after", "1")  # fmt: skip
    assert begun.returncode == 0, begun.stderr
    state = json.loads((tmp_path / "sub" / "out" / "state.json").read_text())
    placed = dataclasses.replace(beside, source=str(tmp_path / "beside" / "../siglip"))
    wanted = dataclasses.replace(named, video=dataclasses.replace(named.video, pretrained=placed))
    assert state["config"] == wanted.fingerprint()
    both = longtake("train", *words, "--from", "tiny")
    assert "--video-encoder makes a new model; a checkpoint has encoders of its own" in both.stderr


def test_help_says_which_options_go_together() -> None:
    done = longtake("train", "--help")
    assert done.returncode == 0
    data, world = done.stdout.index("with --data:"), done.stdout.index("without --data:")
    assert data < done.stdout.index("  --freeze PART") < world < done.stdout.index("  --long-steps N")
    assert "longtake train --data rows.jsonl --preset small --out runs/mine" in done.stdout
