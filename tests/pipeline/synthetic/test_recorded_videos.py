"""A world of real material as files: rendered, encoded, decoded again; its questions, splits and a guesser's score."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from longtake.errors import InputError
from longtake.operators.synthetic.recorded.material import SIDE, Material, Recording
from longtake.operators.synthetic.sounds import SAMPLE_RATE_HZ
from longtake.operators.synthetic.worlds import RealWorld
from longtake.pipeline.evaluation import evaluate
from longtake.pipeline.synthetic.write_videos import (
    REAL_FRAMES,
    Balance,
    WorldOptions,
    draw_balanced,
    question_row,
    write_video,
    write_world,
)

OBJECTS = tuple(f"object{letter}" for letter in "abcdefghijklmnop")
WORDS = ("one", "two", "three", "four", "five", "six", "seven")
SPEAKERS = ("anna", "ben", "carl")


@pytest.fixture(scope="module")
def material() -> Material:
    """Squares in colours of their own, and chirps of words' and speakers' own."""
    rng = np.random.default_rng(1)
    sprites = np.full((len(OBJECTS), SIDE, SIDE, 4), 255, np.uint8)
    sprites[..., :3] = rng.integers(0, 256, (len(OBJECTS), 1, 1, 3))
    recordings = []
    for label in WORDS:
        for speaker in SPEAKERS:
            for take in range(10):
                t = np.arange(int(rng.uniform(0.2, 0.9) * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
                hz = 200 + 90 * WORDS.index(label) + 31 * SPEAKERS.index(speaker)
                wave = (0.3 * np.sin(2 * np.pi * (hz + 100 * t) * t)).astype(np.float32)
                recordings.append(Recording(label=label, speaker=speaker, take=str(take), samples=wave))
    return Material(names=OBJECTS, sprites_PSS4=sprites, recordings=tuple(recordings))


def write_folders(material: Material, folder: Path) -> tuple[Path, Path]:
    """The material as folders of PNG and WAV files."""
    from PIL import Image

    for name, sprite in zip(material.names, material.sprites_PSS4, strict=True):
        path = folder / "pictures" / name / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(sprite).save(path)
    for recording in material.recordings:
        path = folder / "sounds" / recording.label / f"{recording.speaker}_{recording.take}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE_HZ, layout="mono")
            samples = (recording.samples * 32767).round().astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
            frame.sample_rate = SAMPLE_RATE_HZ
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return folder / "pictures", folder / "sounds"


def decode(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], int]:
    with av.open(str(path)) as container:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        bitrate = container.streams.video[0].bit_rate or 0
    with av.open(str(path)) as container:
        wave = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return pictures, wave, bitrate


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]


def test_pictures_and_words_survive_encoding_at_their_time(material: Material, tmp_path: Path) -> None:
    world = RealWorld(material)
    # Longer than the part that is rendered at a time.
    script = world.script(5, 18)
    write_video(script, tmp_path / "v.mp4", WorldOptions(out=tmp_path, videos=1, width=128, height=96), world)
    pictures, wave, _ = decode(tmp_path / "v.mp4")
    times = [(n + 0.5) / 8 for n in range(18 * 8)]
    wanted = world.pictures(script, times, 96, 128).numpy()
    assert pictures.shape == wanted.shape == (144, 96, 128, 3)
    error = np.mean(np.square(pictures.astype(np.float64) - wanted), axis=(1, 2, 3))
    assert (10 * np.log10(255**2 / error)).min() > 22
    sound = world.sound(script)
    assert 0 <= len(wave) - len(sound) <= 1024
    for saying in script.sayings:
        begin, end = (round(t * SAMPLE_RATE_HZ) for t in (saying.start_s, saying.stop_s))
        part = sound[begin:end]
        shifts = range(-80, 81, 4)
        match = [float(np.corrcoef(part, wave[begin + s : end + s])[0, 1]) for s in shifts if begin + s >= 0]
        # Within five milliseconds of where the script says it is.
        assert max(match) > 0.8, saying


def test_a_world_is_the_same_for_the_same_seed_and_its_parts_vary(material: Material, tmp_path: Path) -> None:
    pictures, sounds = write_folders(material, tmp_path / "material")
    made = {}
    for name in ("a", "b"):
        options = WorldOptions(
            out=tmp_path / name,
            videos=6,
            snippets=8,
            pictures=pictures,
            sounds=sounds,
            split="test",
            hold_out_voice="ben",
        )
        warnings: list[str] = []
        made[name] = write_world(options, on_warning=warnings.append)
        assert warnings == []
    assert made["a"] == made["b"] and rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    sizes, voices = set(), Counter()
    for number in range(6):
        name = f"v{number:04d}.mp4"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        shown, _, _ = decode(tmp_path / "a" / name)
        assert len(shown) == 64
        sizes.add(shown.shape[2:0:-1])
    assert len(sizes) > 2 and sizes <= set(REAL_FRAMES)
    for row in rows_of(tmp_path / "a"):
        voices[row.get("voice")] += 1
        # Each row is one that `evaluate` reads, with the tolerance on answers in seconds only.
        assert ("tolerance_s" in row) == (row["kind"] == "when") and row["about"]
        if row["start_s"] is not None:
            assert 0 <= (row["from_s"] or 0) <= row["start_s"] < row["stop_s"] <= (row["to_s"] or 8)
    read = evaluate.read_questions(tmp_path / "a" / "questions.jsonl")
    assert len(read) == made["a"].questions and {q.voice for q in read} == {"trained", "unseen", None}
    # All that is asked about one video's words is of one sort of voice.
    by_video: dict[str, set[str]] = {}
    for question in read:
        if question.voice is not None:
            by_video.setdefault(question.video, set()).add(question.voice)
    assert all(len(sorts) == 1 for sorts in by_video.values())


def test_fixed_frames_and_bitrates_are_kept_to(material: Material, tmp_path: Path) -> None:
    pictures, sounds = write_folders(material, tmp_path / "material")
    rates = {}
    for bitrate in (60_000, 900_000):
        folder = tmp_path / str(bitrate)
        write_world(
            WorldOptions(
                out=folder,
                videos=1,
                snippets=6,
                width=160,
                height=120,
                bitrate=bitrate,
                pictures=pictures,
                sounds=sounds,
            )
        )
        shown, _, rates[bitrate] = decode(folder / "v0000.mp4")
        assert shown.shape == (48, 120, 160, 3)
    assert rates[900_000] > 2 * rates[60_000]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pictures": Path("p")}, "needs both a folder of pictures and one of sounds"),
        ({"split": "test"}, "the built-in world has no splits and no voices"),
        ({"hold_out_voice": "ben"}, "the built-in world has no splits and no voices"),
        ({"pictures": Path("p"), "sounds": Path("s"), "width": 96}, "both the width and the height"),
        ({"pictures": Path("p"), "sounds": Path("s"), "width": 96, "height": 47}, "pictures of 96 x 47"),
    ],
)
def test_options_are_validated(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WorldOptions(**{"out": tmp_path, "videos": 1, **changes})


def test_questions_of_a_set_are_balanced_and_a_guesser_is_near_chance(material: Material) -> None:
    world = RealWorld(material)
    rng, balance = random.Random(0), Balance(world)
    rows = []
    for seed in range(60):
        drawn = draw_balanced(rng, world.script(seed, 32), 2, balance)
        # Not even in other words is a question asked twice.
        keys = [(q.kind, q.about, q.moments, q.answer, q.from_s, q.to_s) for q in drawn]
        assert len(set(keys)) == len(drawn) <= 3 * len(world.kinds)
        rows += [question_row(f"v{seed}.mp4", question) for question in drawn]
    fields = ("video", "question", "answer", "kind", "about", "tolerance_s")
    asked = [evaluate.Question(**{k: row[k] for k in fields if k in row}) for row in rows]
    # The best that nobody can beat without looking, and twice that to allow for a set's own accidents.
    limits = dict.fromkeys(("needle", "bind", "said", "after", "first", "last"), 0.25) | {"count": 0.35, "exists": 0.6}
    for guesses in (evaluate.majority_guesses(asked), evaluate.question_only_guesses(asked)):
        for kind in world.kinds:
            of_kind = [(q, guess) for q, guess in zip(asked, guesses, strict=True) if q.kind == kind]
            assert len(of_kind) > 50
            right = sum(q.is_right(guess) for q, guess in of_kind) / len(of_kind)
            # Within 2 s of a second of 32: one of about six.
            assert right < limits.get(kind, 0.3), (kind, right)
    for kind in ("bind", "said", "after", "first", "last"):
        answers = Counter(row["answer"] for row in rows if row["kind"] == kind)
        assert 0.04 < answers["nothing"] / answers.total() < 0.2, (kind, answers)
        names = WORDS if kind == "said" else OBJECTS
        assert set(answers) - {"nothing"} == set(names)
        del answers["nothing"]
        assert max(answers.values()) < 2 * answers.total() / len(names) + 2
    yes = Counter(row["answer"] for row in rows if row["kind"] == "exists")
    assert 0.45 < yes["yes"] / yes.total() < 0.55
