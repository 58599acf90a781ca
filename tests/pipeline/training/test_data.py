"""Files of rows: what is wrong with a row, where it lies in its video, and videos decoded into a store."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longtake.errors import InputError
from longtake.operators.model import presets
from longtake.operators.training.rows import CAPTION_PROMPT
from longtake.operators.training.snippet_store import StoredVideo
from longtake.pipeline.evaluation.evaluate import read_questions
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.snippet import Snippet
from longtake.pipeline.media.snippets import read_snippets
from longtake.pipeline.synthetic.write_videos import WorldOptions, write_world
from longtake.pipeline.training.data import place_rows
from longtake.pipeline.training.rows import BadRows, FileRow, place_row, read_rows
from longtake.pipeline.training.videos import Film, look_at_videos, store_for, store_videos

SECOND = 1_000_000_000
# Four snippets of a second; the third is lost to damage.
WINDOWS = tuple((n * SECOND, (n + 1) * SECOND) for n in (0, 1, 3, 4))


def read(tmp_path: Path, *lines: str | dict[str, Any], most_bad: int | None = None) -> tuple[list[FileRow], BadRows]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return read_rows(path, most_bad, tmp_path / "out" / "skipped.jsonl")


def question(**more: Any) -> dict[str, Any]:
    return {"video": "a.mp4", "question": "what?", "answer": "this"} | more


def one(tmp_path: Path, **more: Any) -> FileRow:
    (row,), bad = read(tmp_path, question(**more))
    assert not bad.found
    return row


def test_questions_and_captions_are_read_with_their_paths(tmp_path: Path) -> None:
    rows, bad = read(
        tmp_path,
        question(kind="needle", voice=None, start_s=1, stop_s=2.5),
        "",
        {"video": "/films/b.mkv", "caption": " a dog runs ", "from_s": 0, "to_s": 3},
        question(video="sub/../c.mp4", start_s=None, stop_s=None),
        question(start_s=1, stop_s=2, moments=[[1, 2], [5, 6]]),
        question(start_s=None, stop_s=None, moments=[]),
    )
    assert not bad.found and bad.rows == 5
    assert [row.line for row in rows] == [1, 3, 4, 5, 6]
    assert [row.path for row in rows[:3]] == [str(tmp_path / "a.mp4"), "/films/b.mkv", str(tmp_path / "c.mp4")]
    assert (rows[1].question, rows[1].answer, rows[1].caption) == (CAPTION_PROMPT, "a dog runs", True)
    assert (rows[1].from_s, rows[1].to_s) == (0.0, 3.0)
    assert [row.moments for row in rows] == [((1.0, 2.5),), None, None, ((1.0, 2.0), (5.0, 6.0)), ()]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"video": "a.mp4", ', "not JSON: "),
        ('"a.mp4"', "a row is a JSON object, not str"),
        ({"question": "what?", "answer": "x"}, "no video"),
        (question(video=7), "video must be a text, not 7"),
        (question(answer="  "), "the answer is empty"),
        ({"video": "a.mp4", "question": "what?"}, "no answer"),
        ({"video": "a.mp4", "caption": ""}, "the caption is empty"),
        ({"video": "a.mp4"}, "a row has either a question with its answer or a caption"),
        (question(caption="x"), "a row has either a question with its answer or a caption"),
        (question(from_s="1"), 'from_s must be a number of seconds from 0 on, not "1"'),
        (question(from_s=-1), "from_s must be a number of seconds from 0 on, not -1"),
        (question(to_s=float("nan")), "to_s must be a number of seconds from 0 on, not NaN"),
        (question(from_s=4, to_s=4), "to_s 4 must be after from_s 4"),
        (question(to_s=0), "to_s 0 must be after 0"),
        (question(start_s=3), "evidence needs both a start and a stop"),
        (question(start_s=3, stop_s=3), "the evidence stops at 3 s, not after its start at 3 s"),
        (question(moments=[1, 2]), "moments must be a list of pairs of seconds"),
    ],
)
def test_a_row_that_is_none_is_listed_with_its_reason(tmp_path: Path, line: Any, reason: str) -> None:
    rows, bad = read(tmp_path, question(), line)
    assert len(rows) == 1
    (found,) = bad.in_order()
    assert found.line == 2 and found.reason.startswith(reason), found.reason


def test_bytes_that_are_no_text_are_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(question()).encode() + b'\n{"video": "\xff"}\n')
    rows, bad = read_rows(path, None, tmp_path / "skipped.jsonl")
    assert len(rows) == 1 and bad.in_order()[0].reason.startswith("not JSON: ")


def test_too_many_bad_rows_stop_the_run_and_all_are_written_down(tmp_path: Path) -> None:
    lines = [question() for _ in range(150)] + [question(answer="") for _ in range(15)]
    _, bad = read(tmp_path, *lines)
    assert bad.most == 16
    bad.settle()
    bad.add(3, "a.mp4", "it is\nbroken")
    bad.add(3, "a.mp4", "the first reason stands")
    bad.settle()
    bad.add(1, "b.mp4", "gone")
    with pytest.raises(InputError) as refused:
        bad.settle()
    listed = tmp_path / "out" / "skipped.jsonl"
    assert str(refused.value) == (
        f"{tmp_path}/rows.jsonl: 17 of 165 rows cannot be used, more than the 16 that --max-bad-rows allows:"
        f" line 1: b.mp4: gone; line 3: a.mp4: it is broken; line 151: a.mp4: the answer is empty; ..."
        f" ({listed} lists all of them)"
    )
    written = [json.loads(line) for line in listed.read_text().splitlines()]
    assert len(written) == 17 and written[0] == {"line": 1, "video": "b.mp4", "reason": "gone"}
    _, few = read(tmp_path, question(), question(answer=""), most_bad=0)
    with pytest.raises(InputError, match="1 of 2 rows cannot be used, more than the 0"):
        few.settle()
    _, none_left = read(tmp_path, question(answer=""))
    with pytest.raises(InputError, match="1 of 1 rows cannot be used, and no other is left"):
        none_left.settle()
    with pytest.raises(InputError, match="holds no row"):
        read(tmp_path, "", " ")
    with pytest.raises(InputError, match="cannot read the rows"):
        read_rows(tmp_path / "nothing.jsonl", None, listed)


def test_rows_lie_over_the_snippets_that_there_are(tmp_path: Path) -> None:
    whole = place_row(one(tmp_path), 3, WINDOWS)
    assert (whole.video, whole.span, whole.evidence) == (3, (0, 4), None)
    # The hole between 2 and 3 s has no place: what follows it moves up.
    late = place_row(one(tmp_path, from_s=1.2, to_s=4, start_s=3.0, stop_s=3.4), 0, WINDOWS)
    assert (late.span, late.evidence) == ((1, 3), ((2, 3),))
    # A moment that stops where a snippet begins is not in it; a rounded end is the end; an empty list proves nothing.
    two = place_row(one(tmp_path, to_s=5.4, moments=[[0.5, 1.0], [4.2, 5.3]]), 0, WINDOWS)
    assert (two.span, two.evidence) == ((0, 4), ((0, 1), (3, 4)))
    assert place_row(one(tmp_path, moments=[]), 0, WINDOWS).evidence == ()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"from_s": 5}, "from_s 5 lies outside the video, which ends at 5.0 s"),
        ({"to_s": 9}, "to_s 9 lies outside the video, which ends at 5.0 s"),
        ({"start_s": 4, "stop_s": 6}, "its evidence at 4-6 s lies outside the video of 5.0 s"),
        ({"from_s": 2, "to_s": 3}, "nothing of its span could be decoded"),
        ({"start_s": 2.2, "stop_s": 2.8}, "nothing of its evidence could be decoded"),
    ],
)
def test_what_lies_outside_the_video_is_refused(tmp_path: Path, more: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        place_row(one(tmp_path, **more), 0, WINDOWS)


def test_the_made_worlds_questions_are_rows_as_they_are(tmp_path: Path) -> None:
    write_world(WorldOptions(out=tmp_path / "world", videos=1, snippets=8, seed=4, width=64, height=48))
    path = tmp_path / "world" / "questions.jsonl"
    rows, bad = read_rows(path, None, tmp_path / "skipped.jsonl")
    asked = read_questions(path)
    assert not bad.found and [(r.question, r.answer) for r in rows] == [(q.question, q.answer) for q in asked]
    kept, (film,) = look_at_videos(rows, bad)
    store = store_for(tmp_path / "store", presets.tiny())
    videos = store_videos([film], store, presets.tiny(), 0, lambda done: None)
    placed, _, _ = place_rows(kept, [film], videos, 512, bad)
    assert not bad.found and len(placed) == len(asked)
    for row, truth in zip(placed, asked, strict=True):
        assert row.span == (int(truth.from_s or 0), 8 if truth.to_s is None else round(truth.to_s))
        if truth.start_s is None:
            assert row.evidence == ()
        else:
            assert row.evidence is not None and row.evidence[0][0] == int(truth.start_s)


class Deadly:
    """A video's info that ends the process which unpickles it, as a decoder's crash would."""

    duration_ns = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def test_videos_are_stored_as_indexing_reads_them_whatever_happens_to_others(
    tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    config = presets.tiny()
    make_clip(tmp_path / "good.mp4", 3)
    make_clip(tmp_path / "gone.mp4", 1, seed=2)
    (tmp_path / "text.mp4").write_text("this is no video")
    lines = [question(video=name) for name in ("good.mp4", "text.mp4", "missing.mp4", "gone.mp4", "good.mp4")]
    rows, bad = read(tmp_path, *lines, question(video="good.mp4", to_s=1.0))
    kept, films = look_at_videos(rows, bad)
    assert [row.line for row in kept] == [1, 4, 5, 6] and [Path(film.path).name for film in films] == [
        "good.mp4",
        "gone.mp4",
    ]
    assert bad.found[3].reason == "No such file or directory"
    assert bad.found[2].reason.startswith("not a media file that can be read")
    (tmp_path / "gone.mp4").unlink()
    films.append(Film(path="deadly.mp4", name="deadly", info=Deadly()))  # type: ignore[arg-type]
    store = store_for(tmp_path / "store", config)
    told: list[int] = []
    good, gone, deadly = store_videos(films, store, config, 1, told.append)
    assert told[-1] == 3 and deadly == StoredVideo(windows=(), error="the process that decoded it died")
    assert not gone.windows and gone.error
    wanted = [
        made
        for made in read_snippets(probe(tmp_path / "good.mp4"), config, Sampling(rate_hz=config.rate_hz))
        if isinstance(made, Snippet)
    ]
    assert good.windows == tuple((made.start_ns, made.stop_ns) for made in wanted) and len(wanted) == 3
    clips = store.read(films[0].name, np.arange(3))
    assert np.array_equal(clips.frames_SFHWC.numpy(), np.stack([made.frames_FHWC for made in wanted]))
    assert np.array_equal(clips.mel_SAM.numpy(), np.stack([made.sound_AM for made in wanted]))
    assert np.array_equal(clips.mel_mask_SA.numpy(), np.stack([made.mel_mask_A for made in wanted]))
    # Nothing is decoded twice, not even what failed.
    (tmp_path / "good.mp4").unlink()
    again: list[int] = []
    assert store_videos(films, store, config, 0, again.append) == [good, gone, deadly] and again == [3]
    # Rows of what could not be read are bad; so is one about more snippets than a question may read.
    placed, used, _ = place_rows(kept, films, [good, gone, deadly], 2, bad)
    assert [(row.video, row.span) for row in placed] == [(0, (0, 1))] and used == [films[0]]
    assert bad.found[1].reason == "it is about 3 snippets, more than 2; give it a span"
    assert set(bad.found) == {1, 2, 3, 4, 5}
