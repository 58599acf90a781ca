"""Asking an index: real tables written by the real committer, answered by an untrained model of the shipped size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import longtake
from longtake.errors import IndexMismatchError, InputError
from longtake.operators.model import presets
from longtake.operators.model.answering import Answerer
from longtake.operators.model.checkpoint import save_model
from longtake.operators.synthetic.random_model import random_model
from longtake.pipeline.answering.index import Index
from longtake.pipeline.table.schema import FailureRow, IndexReader, VideoRow

VIDEOS = {"/films/a/intro.mp4": 6, "/films/b/intro.mp4": 9, "/films/b/outro.mkv": 12}
QUESTION = "what was shown when the border flashed?"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, index_writer) -> str:
    folder = tmp_path_factory.mktemp("index") / "films.lt"
    committer = index_writer.create(folder, VIDEOS)
    committer.put_videos([VideoRow(uri="/films/broken.mp4", video_id="", status="failed")])
    committer.put_failures(
        [FailureRow(uri="/films/broken.mp4", video_id="", stage="probe", error="MediaError", message="empty")]
    )
    return str(folder)


@pytest.fixture(scope="module")
def index(path: str) -> Index:
    return longtake.open_index(path)


def test_every_video_answers_and_says_where_it_looked(index: Index) -> None:
    answers = index.ask(QUESTION)
    assert [answer.video for answer in answers] == list(VIDEOS)
    for answer in answers:
        assert answer.question == QUESTION
        assert 0 < answer.probability <= 1
        assert answer.seen_until_s == VIDEOS[answer.video]
        assert not answer.still_indexing and answer.votes is None and answer.unknown_words == ()
        assert sum(moment.weight for moment in answer.moments) <= 1 + 1e-6
        for moment in answer.moments:
            assert 0 <= moment.start_s < moment.stop_s <= answer.seen_until_s


def test_an_answer_is_what_the_model_says_about_the_stored_tokens(index: Index, path: str, index_writer) -> None:
    row = index.find("outro")
    (answer,) = index.ask(QUESTION, video="outro")
    tokens, *_ = IndexReader.open(path).tokens(row.video_id)
    answerer = Answerer(index_writer.loaded)
    wanted = answerer.answer(answerer.latents(torch.from_numpy(np.array(tokens))), QUESTION)
    assert (answer.answer, answer.probability) == (wanted.text, pytest.approx(wanted.probability, abs=1e-6))


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("/films/b/outro.mkv", "/films/b/outro.mkv"),
        ("/films/a/../b/outro.mkv", "/films/b/outro.mkv"),
        ("outro.mkv", "/films/b/outro.mkv"),
        ("outro", "/films/b/outro.mkv"),
        (" a/intro.mp4 ", "/films/a/intro.mp4"),
        ("./b/intro.mp4", "/films/b/intro.mp4"),
    ],
)
def test_a_video_is_found_by_path_ending_name_and_stem(index: Index, name: str, uri: str) -> None:
    assert index.find(name).uri == uri


def test_a_video_is_found_by_the_start_of_its_id(index: Index) -> None:
    for row in index.videos():
        if row.video_id:
            assert index.find(row.video_id[:8]) == row
            assert index.find(row.video_id) == row


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "intro",
            r"names 2 videos: /films/a/intro.mp4 \(\w{8}\), /films/b/intro.mp4 \(\w{8}\); give the path or the id",
        ),
        ("intro.mp4", "names 2 videos"),
        ("outr0.mkv", "no video 'outr0.mkv'; did you mean outro.mkv"),
        ("zzz", "no video 'zzz'; it holds broken.mp4, intro.mp4, outro.mkv"),
        ("  ", "must not be empty"),
    ],
)
def test_a_name_that_names_no_one_video_is_explained(index: Index, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        index.find(name)


def test_a_video_without_snippets_says_so(index: Index) -> None:
    with pytest.raises(InputError, match=r"/films/broken.mp4: nothing of it is indexed \(status: failed\)"):
        index.ask(QUESTION, video="broken.mp4")


def test_a_span_masks_the_decoder_over_the_whole_videos_latents(index: Index, index_writer, path: str) -> None:
    row = index.find("outro")
    before = index._backend.watch(row)
    (answer,) = index.ask(QUESTION, video="outro", from_s=3, to_s=7)
    assert index._backend.watch(row) is before
    assert all(moment.start_s >= 3 and moment.stop_s <= 7 for moment in answer.moments)
    tokens, *_ = IndexReader.open(path).tokens(row.video_id)
    answerer = Answerer(index_writer.loaded)
    mask = torch.zeros(12, dtype=torch.bool)
    mask[3:7] = True
    latents = answerer.latents(torch.from_numpy(np.array(tokens)))
    wanted = answerer.answer(latents, QUESTION, span_mask_T=mask)
    assert answer.probability == pytest.approx(wanted.probability, abs=1e-6)
    # The untrained model spreads its attention, so the masked answer's probability differs from the open one's.
    assert answer.probability != index.ask(QUESTION, video="outro")[0].probability


def test_a_span_leaves_out_videos_that_end_before_it(index: Index) -> None:
    assert [answer.video for answer in index.ask(QUESTION, from_s=7)] == ["/films/b/intro.mp4", "/films/b/outro.mkv"]
    with pytest.raises(InputError, match="no video reaches into 50 s to the end"):
        index.ask(QUESTION, from_s=50)
    with pytest.raises(InputError, match=r"a/intro.mp4: nothing in 7 s to 8 s is indexed; it is indexed up to 6.0 s"):
        index.ask(QUESTION, video="a/intro.mp4", from_s=7, to_s=8)


def test_the_model_sees_no_video_out_of_the_span(path: str) -> None:
    index = longtake.open_index(path)
    with pytest.raises(InputError, match="no video reaches into 50 s to the end"):
        index.ask(QUESTION, from_s=50)
    assert index._backend._answerer is None
    (answer,) = index.ask(QUESTION, from_s=10)
    one_snippet = index.cached_bytes // VIDEOS["/films/b/outro.mkv"]
    assert answer.video == "/films/b/outro.mkv" and one_snippet > 0
    index.ask(QUESTION)
    assert index.cached_bytes == one_snippet * sum(VIDEOS.values())


def test_spans_are_known_without_the_model(path: str, tmp_path: Path) -> None:
    index = longtake.open_index(path, model=str(tmp_path / "gone"))
    windows = index._backend.windows(index.find("outro"))
    assert windows.start_ns_T.tolist() == [second * 1_000_000_000 for second in range(12)]
    assert windows.stop_s == 12
    with pytest.raises(InputError, match="no video reaches into 50 s to the end"):
        index.ask(QUESTION, from_s=50)
    with pytest.raises(InputError, match=r"nothing in 7 s to 8 s is indexed; it is indexed up to 6\.0 s"):
        index.ask(QUESTION, video="a/intro.mp4", from_s=7, to_s=8)
    with pytest.raises(InputError, match="gone"):
        index.ask(QUESTION, from_s=10)


def test_choices_votes_and_unknown_words(index: Index) -> None:
    (chosen,) = index.ask(QUESTION, video="outro", choices=["red", " blue "])
    assert chosen.answer in ("red", "blue") and 0 < chosen.probability <= 1
    (voted,) = index.ask(QUESTION, video="outro", votes=5)
    assert voted.votes is not None and sum(voted.votes.values()) == 5
    assert voted.votes[voted.answer] == max(voted.votes.values())
    (puzzled,) = index.ask("what was the xylograph when the border flashed?", video="outro")
    assert puzzled.unknown_words == ("xylograph",)
    (puzzled,) = index.ask(QUESTION, video="outro", choices=["red", "zebrawood"])
    assert puzzled.unknown_words == ("zebrawood",)


def test_a_streamed_answer_is_the_asked_one(index: Index) -> None:
    stream = index.stream(QUESTION, "outro", from_s=3)
    with pytest.raises(ValueError, match="there are pieces left"):
        _ = stream.answer
    assert "".join(stream).strip() == stream.answer.answer
    assert [stream.answer] == index.ask(QUESTION, video="outro", from_s=3) and stream.video == stream.answer.video
    assert list(stream) == [] and index.stream(QUESTION, "outro", from_s=3).finish() == stream.answer
    with pytest.raises(InputError, match=r"nothing in 50 s to the end is indexed"):
        index.stream(QUESTION, "outro", from_s=50)
    too_long = index.stream("what " * 500, "outro")
    with pytest.raises(InputError, match="the model reads at most"):
        next(too_long)


def test_a_question_that_is_too_long_is_bad_input(index: Index) -> None:
    with pytest.raises(InputError, match=r"'what what what.*tokens; the model reads at most"):
        index.ask("what " * 500, video="outro")
    with pytest.raises(InputError, match="the model reads at most"):
        index.ask("what " * 500, video="outro", choices=["red", "blue"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"question": "  "}, "the question is empty"),
        ({"from_s": -1.0}, "'from' must be a number of seconds from 0 on, not -1.0"),
        ({"to_s": float("nan")}, "'to' must be"),
        ({"to_s": 0.0}, "stops at 0 s, which is not after its start at 0 s"),
        ({"from_s": 5, "to_s": 4}, "stops at 4 s"),
        ({"choices": ["red"]}, "at least two different words"),
        ({"choices": ["red", "red "]}, "at least two different words"),
        ({"choices": ["red", "blue"], "votes": 3}, "exclude each other"),
        ({"votes": 0}, "votes must be at least 1"),
        ({"temperature": 0}, "temperature must be above 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(index: Index, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        index.ask(**{"question": QUESTION, **options})


def test_latents_are_kept_within_the_bound(path: str) -> None:
    index = longtake.open_index(path)
    index.ask(QUESTION)
    one_snippet = index.cached_bytes // sum(VIDEOS.values())
    assert index.cached_bytes == one_snippet * sum(VIDEOS.values())
    small = Index(path, cache_bytes=one_snippet * 21)
    assert small.ask(QUESTION) == index.ask(QUESTION)
    # The last two videos (9 + 12 snippets) fit.
    assert small.cached_bytes == one_snippet * 21
    least = Index(path, cache_bytes=0)
    assert least.ask(QUESTION) == index.ask(QUESTION)
    assert least.cached_bytes == one_snippet * 12


def test_a_video_still_being_indexed_is_asked_up_to_what_is_committed(tmp_path: Path, index_writer) -> None:
    committer = index_writer.create(tmp_path / "live.lt", {"/done.mp4": 5})
    index_writer.add(committer, "/growing.mp4", range(4), status="indexing")
    index = longtake.open_index(tmp_path / "live.lt")
    done, growing = index.ask(QUESTION)
    assert (done.still_indexing, done.seen_until_s) == (False, 5.0)
    assert (growing.still_indexing, growing.seen_until_s) == (True, 4.0)
    with pytest.raises(InputError, match=r"nothing in 6 s to the end is indexed so far; it is indexed up to 4\.0 s"):
        index.ask(QUESTION, video="growing", from_s=6)

    kept, version = index._backend.watch(index.find("done")), index.version
    index_writer.add(committer, "/growing.mp4", range(4, 10), status="indexing")
    assert index.version == version and index.ask(QUESTION) == [done, growing]
    assert index.refresh() and index.version > version
    assert index.ask(QUESTION, video="growing")[0].seen_until_s == 10.0
    assert index._backend.watch(index.find("done")) is kept
    assert not index.refresh()


def test_another_model_is_refused(path: str, tmp_path: Path) -> None:
    other = random_model(presets.tiny(), seed=2)
    save_model(tmp_path / "other", other.model, other.tokenizer)
    index = longtake.open_index(path, model=str(tmp_path / "other"))
    assert len(index.videos()) == 4
    with pytest.raises(IndexMismatchError, match="indexed with model"):
        index.ask(QUESTION)


def test_no_index_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no index here"):
        longtake.open_index(tmp_path)


def test_an_empty_index_has_nothing_to_ask(tmp_path: Path, index_writer) -> None:
    index_writer.create(tmp_path / "empty.lt", {})
    index = longtake.open_index(tmp_path / "empty.lt")
    with pytest.raises(InputError, match="holds nothing to ask about yet"):
        index.ask(QUESTION)
    with pytest.raises(InputError, match="the index holds no video yet"):
        index.ask(QUESTION, video="a")
