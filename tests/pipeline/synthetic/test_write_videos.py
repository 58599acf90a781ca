"""The made world as real MP4 files, decoded again: counts, lengths, colours, sounds, spoilt variants, questions."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from longtake.errors import InputError
from longtake.operators.synthetic.pictures import render_pictures
from longtake.operators.synthetic.questions import KINDS, sentence
from longtake.operators.synthetic.script import COLOURS, Script, write_script
from longtake.operators.synthetic.sounds import SAMPLE_RATE_HZ, render_sound
from longtake.pipeline.evaluation import evaluate
from longtake.pipeline.synthetic.write_videos import (
    Balance,
    WorldOptions,
    draw_balanced,
    question_row,
    write_video,
    write_world,
)

Pictures = npt.NDArray[np.uint8]
Wave = npt.NDArray[np.float32]

# More than the part that is rendered at a time, and no multiple of it.
BEATS = 18
SCRIPT = write_script(5, BEATS)


def options(out: Path, **changes: Any) -> WorldOptions:
    return WorldOptions(**{"out": out, "videos": 1, "snippets": BEATS, "width": 96, "height": 72, **changes})


def decode(path: Path) -> tuple[Pictures, list[float], Wave]:
    """Every picture as RGB, their times in seconds, and the sound at its own rate."""
    with av.open(str(path)) as container:
        (video,), (audio,) = container.streams.video, container.streams.audio
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (audio.rate, audio.layout.name) == (SAMPLE_RATE_HZ, "mono")
        frames = list(container.decode(video))
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
        times = [float(frame.time) for frame in frames if frame.time is not None]
    with av.open(str(path)) as container:
        parts = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return pictures, times, np.concatenate(parts)


def written(folder: Path, script: Script, **changes: Any) -> tuple[Pictures, list[float], Wave]:
    path = folder / "video.mp4"
    write_video(script, path, options(folder, **changes))
    return decode(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pictures, list[float], Wave]:
    return written(tmp_path_factory.mktemp("plain"), SCRIPT)


def rendered(script: Script, shift: float = 0.0) -> Pictures:
    """The pictures that were encoded, or what the script shows `shift` pictures later."""
    last = script.duration_s - 1e-6
    times = [min(last, max(0.0, (n + 0.5 + shift) / 8)) for n in range(script.beats * 8)]
    pictures: Pictures = render_pictures(script, times, 72, 96).numpy()
    return pictures


def psnr(a: Pictures, b: Pictures) -> float:
    error = np.mean(np.square(a.astype(np.float64) - b))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def beat_energies(wave: Wave) -> npt.NDArray[np.float64]:
    """Root mean square of each whole beat."""
    beats = len(wave) // SAMPLE_RATE_HZ
    whole = wave[: beats * SAMPLE_RATE_HZ].astype(np.float64).reshape(beats, SAMPLE_RATE_HZ)
    return np.asarray(np.sqrt(np.mean(np.square(whole), axis=1)))


def test_a_video_has_eight_pictures_a_second_and_as_much_sound(
    plain: tuple[Pictures, list[float], Wave],
) -> None:
    pictures, times, wave = plain
    assert pictures.shape == (BEATS * 8, 72, 96, 3)
    assert times == [float(Fraction(n, 8)) for n in range(BEATS * 8)]
    # AAC comes in blocks of 1024 samples: at most one of padding.
    assert 0 <= len(wave) - BEATS * SAMPLE_RATE_HZ <= 1024


def test_pictures_survive_encoding(plain: tuple[Pictures, list[float], Wave]) -> None:
    pictures, _, _ = plain
    wanted = rendered(SCRIPT)
    for number, (found, picture) in enumerate(zip(pictures, wanted, strict=True)):
        assert psnr(found, picture) > 24, number
    # Each picture is nearer to its own moment than to one half a picture away, where enough has moved to say.
    for shift in (-0.49, 0.49):
        near = rendered(SCRIPT, shift)
        moved = [n for n in range(1, BEATS * 8 - 1) if psnr(wanted[n], near[n]) < 36]
        nearer = sum(psnr(pictures[n], wanted[n]) > psnr(pictures[n], near[n]) for n in moved)
        assert len(moved) > 20 and nearer > 0.9 * len(moved), (shift, nearer, len(moved))


def test_colours_survive_encoding(plain: tuple[Pictures, list[float], Wave]) -> None:
    pictures, _, _ = plain
    wanted = rendered(SCRIPT)
    without = rendered(Script(**{**vars(SCRIPT), "things": ()}))
    checked: Counter[str] = Counter()
    for thing in SCRIPT.things:
        number = int((thing.start_s + thing.stop_s) / 2 * 8)
        # The inside of the thing, away from its edges, where colour is half as sharp as brightness.
        painted = (np.abs(wanted[number].astype(int) - without[number]).max(-1) > 20).astype(int)
        inside = painted.copy()
        for dy, dx in ((0, 2), (2, 0), (0, -2), (-2, 0)):
            inside &= np.roll(painted, (dy, dx), (0, 1))
        if inside.sum() < 12:
            continue
        found, true = (p[number][inside.astype(bool)].mean(0) for p in (pictures, wanted))
        assert np.abs(found - true).max() < 24, (thing, found, true)
        checked[thing.colour] += 1
    assert len(checked) >= 6


def test_sound_survives_encoding_at_its_time(plain: tuple[Pictures, list[float], Wave]) -> None:
    _, _, wave = plain
    wanted = render_sound(SCRIPT)
    # Where it lies: the shift at which both agree best is under five milliseconds.
    size = 1 << 20
    product = np.fft.rfft(wave, size) * np.conj(np.fft.rfft(wanted, size))
    shift = int(np.argmax(np.fft.irfft(product)))
    shift = shift - size if shift > size // 2 else shift
    assert abs(shift) < 0.005 * SAMPLE_RATE_HZ
    found, true = beat_energies(wave), beat_energies(wanted)
    np.testing.assert_allclose(found, true, rtol=0.15, atol=0.004)
    assert true.max() > 10 * true.min()


def test_shuffled_sound_keeps_every_beat_whole_at_another_place(
    plain: tuple[Pictures, list[float], Wave], tmp_path: Path
) -> None:
    pictures, times, wave = written(tmp_path, SCRIPT, spoil="sound_order")
    assert np.array_equal(pictures, plain[0]) and times == plain[1]
    assert len(wave) == len(plain[2])
    before, after = beat_energies(render_sound(SCRIPT)), beat_energies(wave)
    np.testing.assert_allclose(np.sort(after), np.sort(before), rtol=0.15, atol=0.004)
    # The order is another one: most beats that can be told apart by loudness have moved.
    assert np.mean(np.abs(after - before) > 0.15 * before + 0.004) > 0.3


def test_blanked_pictures_are_black_and_the_sound_stays(
    plain: tuple[Pictures, list[float], Wave], tmp_path: Path
) -> None:
    pictures, times, wave = written(tmp_path, SCRIPT, spoil="pictures")
    assert pictures.shape == plain[0].shape and times == plain[1]
    assert pictures.max() <= 2 < 100 < plain[0].max()
    assert np.array_equal(wave, plain[2])


def questions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]


def test_a_world_is_the_same_for_the_same_seed_spoilt_or_not(tmp_path: Path) -> None:
    made = {}
    for name, changes in (("a", {}), ("b", {}), ("deaf", {"spoil": "sound_order"}), ("other", {"seed": 1})):
        seen: list[int] = []
        settings = options(tmp_path / name, videos=2, snippets=6, width=48, height=48, **changes)
        made[name] = write_world(settings, on_video=seen.append)
        assert seen == [1, 2]
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
            "questions.jsonl",
            "v0000.mp4",
            "v0001.mp4",
        ]
    rows = {name: questions(tmp_path / name) for name in made}
    assert rows["a"] == rows["b"] == rows["deaf"] != rows["other"]
    assert made["a"] == made["b"] and made["a"].questions == len(rows["a"])
    assert made["a"].by_kind == Counter(row["kind"] for row in rows["a"])
    for name in ("v0000.mp4", "v0001.mp4"):
        files = [(tmp_path / folder / name).read_bytes() for folder in ("a", "b", "deaf")]
        assert files[0] == files[1] != files[2]
    assert (tmp_path / "a" / "v0000.mp4").read_bytes() != (tmp_path / "a" / "v0001.mp4").read_bytes()
    # The rows are what `evaluate` reads, about the files that are there.
    read = evaluate.read_questions(tmp_path / "a" / "questions.jsonl")
    assert {question.video for question in read} == {"v0000.mp4", "v0001.mp4"}
    assert all(row["question"][0].isupper() and row["question"].endswith("?") for row in rows["a"])
    for row in rows["a"]:
        if row["start_s"] is not None:
            assert 0 <= (row["from_s"] or 0) <= row["start_s"] < row["stop_s"] <= (row["to_s"] or 6)


def test_a_folder_that_holds_a_world_is_refused(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text("mine")
    with pytest.raises(InputError, match=r"questions\.jsonl: is there already; choose another folder"):
        write_world(options(tmp_path, snippets=1))
    assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]
    # What an interrupted run has left, without the questions that are written last, is written over.
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "v0000.mp4").write_bytes(b"half a video")
    write_world(options(tmp_path / "cut", snippets=1))
    assert len(decode(tmp_path / "cut" / "v0000.mp4")[0]) == 8
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file: cannot make this folder"):
        write_world(options(tmp_path / "file", snippets=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"videos": 0}, "at least 1 video of 1 snippet, not 0 of 18"),
        ({"snippets": 0}, "at least 1 video of 1 snippet, not 1 of 0"),
        ({"width": 97}, "pictures of 97 x 72: even sides of at least 48 are wanted"),
        ({"height": 46}, "pictures of 96 x 46: even sides"),
        ({"questions_per_kind": -1}, "-1 questions a kind"),
        ({"bitrate": 0}, "at 0 bit/s"),
        ({"spoil": "everything"}, "one of nothing, sound_order, pictures, not 'everything'"),
    ],
)
def test_options_are_validated(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        options(tmp_path, **changes)


def test_questions_of_a_set_are_balanced_and_never_asked_twice() -> None:
    rng, balance = random.Random(0), Balance()
    rows = []
    for seed in range(40):
        drawn = draw_balanced(rng, write_script(seed, 32), 2, balance)
        assert len(set(drawn)) == len(drawn) <= 3 * len(KINDS)
        assert sum(question.from_s is not None for question in drawn) <= len(KINDS)
        rows += [question_row(f"v{seed}.mp4", question) for question in drawn]
    for kind in KINDS:
        of_kind = [row for row in rows if row["kind"] == kind]
        assert len(of_kind) >= 100
        answers = Counter(row["answer"] for row in of_kind)
        share = {answer: count / len(of_kind) for answer, count in answers.items()}
        if kind == "exists":
            assert abs(share["yes"] - 0.5) < 0.06
        elif kind == "count":
            assert set(share) == {"1", "2", "3", "4"} and max(share.values()) < 0.36
        else:
            assert 0.04 < share["nothing"] < 0.25, (kind, share["nothing"])
            assert sum(answer in COLOURS for answer in answers) == 8, kind
            # No answer but "nothing" is worth guessing.
            assert max(value for answer, value in share.items() if answer != "nothing") < 0.12
        spans = [row for row in of_kind if row["from_s"] is not None]
        assert 0.2 < len(spans) / len(of_kind) < 0.4
    # What a guesser who sees no video would score.
    asked = [evaluate.Question(**{k: r[k] for k in ("video", "question", "answer", "kind")}) for r in rows]
    for guesses in (evaluate.majority_guesses(asked), evaluate.question_only_guesses(asked)):
        right = Counter(q.kind for q, guess in zip(asked, guesses, strict=True) if guess == q.answer)
        for kind, limit in (
            ("needle", 0.3),
            ("bind", 0.3),
            ("first", 0.3),
            ("last", 0.3),
            ("count", 0.5),
            ("exists", 0.7),
        ):
            assert right[kind] / sum(q.kind == kind for q in asked) < limit, kind


def test_the_questions_of_a_set_are_what_they_were() -> None:
    # The digest is of the code that the shipped weights were scored with.
    rng, balance = random.Random(5), Balance()
    drawn = [draw_balanced(rng, write_script(seed, 24), 2, balance) for seed in range(8)]
    rows = [question_row("v.mp4", question) for questions in drawn for question in questions]
    found = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert (len(rows), found) == (144, "8d7d5f6aedf5103abf41c2330a2e74885978c122ec5af5f69c877b8205816691")


def test_a_row_says_when_the_evidence_is_and_is_written_as_people_write() -> None:
    drawn = draw_balanced(random.Random(1), write_script(2, 32), 3, Balance())
    assert len(drawn) > 20
    for question in drawn:
        row = question_row("v.mp4", question)
        assert row["question"] == sentence(question.text)
        assert [tuple(moment) for moment in row["moments"]] == list(question.moments)
        if question.moments:
            starts, stops = zip(*question.moments, strict=True)
            assert (row["start_s"], row["stop_s"]) == (min(starts), max(stops))
        else:
            assert row["start_s"] is None and row["stop_s"] is None
        assert json.loads(json.dumps(row)) == row
