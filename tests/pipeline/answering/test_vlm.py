"""Asking an index of a public model: real tables, a tiny random model of a real class, and what it says by itself."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import longtake
from longtake.errors import CheckpointError, IndexMismatchError, InputError
from longtake.jobs.main import main
from longtake.operators.hub.random_model import write_random_vlm
from longtake.operators.vlm import VLM, Clip, Decoding, VLMAnswerer, load_vlm, read_video
from longtake.operators.vlm.coarse import coarse
from longtake.pipeline.answering.index import Index
from longtake.pipeline.answering.moments import find_moments
from longtake.pipeline.answering.vlm import VlmBackend
from longtake.pipeline.table.metadata import IndexMetadata
from longtake.pipeline.table.schema import IndexReader, VideoRow
from longtake.pipeline.table.vlm_columns import Places, floats
from longtake.pipeline.table.writer import Committer, SnippetRow, write_snippets

QUESTION = "which colour was on the screen?"
VIDEOS = {"/films/short.mp4": 3, "/films/long.mp4": 8}
SECONDS = 2


def write_index(folder: Path, directory: Path, vlm: VLM) -> Committer:
    """An index without any video."""
    metadata = IndexMetadata(
        model=f"vlm:{directory}", fingerprint=vlm.fingerprint, tokens=8, width=vlm.width, rate_hz=2.0, kind="vlm",
        combiner="pool", snippet_frames=4, most_tokens_a_step=256,
    )  # fmt: skip
    return Committer(str(folder), metadata)


def add(committer: Committer, vlm: VLM, uri: str, numbers: range, *, status: str = "done") -> None:
    """Snippets of two seconds and four random pictures, encoded by the model, then the video's row."""
    rows = []
    for number in numbers:
        generator = torch.Generator().manual_seed(len(uri) * 100 + number)
        size = vlm.frame_size(32, 48)
        clip = Clip(
            frames_FHWC=torch.randint(0, 256, (4, *size, 3), dtype=torch.uint8, generator=generator),
            times_s=tuple(SECONDS * number + place / 2 for place in range(4)),
            start_s=float(SECONDS * number),
        )
        made = vlm.encode_snippet(clip, combiner="pool", tokens=8)
        rows.append(
            SnippetRow(
                video_id=uri, snippet=number, start_ns=SECONDS * number * 10**9, stop_ns=SECONDS * (number + 1) * 10**9,
                pictures=4, tokens=floats(made.tokens_ND), text="", memory=b"" if number == numbers[-1] else None,
                places=Places.of(made),
            )
        )  # fmt: skip
    committer.commit_snippets([write_snippets(committer.uri, committer.metadata, rows, {uri: numbers.start - 1})])
    row = VideoRow(uri=uri, video_id=uri, snippets=numbers.stop, status=status, model=committer.metadata.model)
    committer.put_videos([row])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_vlm(tmp_path_factory.mktemp("models") / "qwen", "qwen3_5", seed=7)


@pytest.fixture(scope="module")
def vlm(directory: Path) -> VLM:
    return load_vlm(directory)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, directory: Path, vlm: VLM) -> str:
    folder = tmp_path_factory.mktemp("index") / "films.lt"
    committer = write_index(folder, directory, vlm)
    for uri, snippets in VIDEOS.items():
        add(committer, vlm, uri, range(snippets))
    return str(folder)


@pytest.fixture(scope="module")
def index(path: str) -> Index:
    return longtake.open_index(path)


def backend(index: Index) -> VlmBackend:
    assert isinstance(index._backend, VlmBackend)
    return index._backend


def test_an_answer_is_what_the_model_says_about_the_stored_tokens(index: Index, path: str, vlm: VLM) -> None:
    answers = index.ask(QUESTION, limit=6)
    assert [answer.video for answer in answers] == sorted(VIDEOS)
    video, start_ns, stop_ns, _ = IndexReader.open(path).video_tokens("/films/long.mp4")
    prefix, answerer = read_video(vlm, video), VLMAnswerer(vlm)
    wanted = answerer.answer(prefix, QUESTION, Decoding(limit=6))
    assert (answers[0].answer, answers[0].probability) == (wanted.text, pytest.approx(wanted.probability, rel=1e-6))
    assert answers[0].moments == find_moments(wanted.weights_T.numpy(), start_ns, stop_ns)
    assert answers[0].seen_until_s == 16.0 and answers[0].notes == () and answers[0].unknown_words == ()
    (chosen,) = index.ask(QUESTION, video="long", choices=["red", "blue"])
    scored = answerer.answer(prefix, QUESTION, choices=["red", "blue"])
    assert (chosen.answer, chosen.probability) == (scored.text, pytest.approx(scored.probability, rel=1e-6))
    (voted,) = index.ask(QUESTION, video="long", votes=3, limit=2, seed=4)
    assert voted.votes is not None and sum(voted.votes.values()) == 3
    assert voted.votes == index.ask(QUESTION, video="long", votes=3, limit=2, seed=4)[0].votes


def test_pieces_come_one_by_one_and_make_the_answer(index: Index) -> None:
    stream = index.stream(QUESTION, "long", limit=6)
    pieces = list(stream)
    assert len(pieces) > 1
    assert [stream.answer] == index.ask(QUESTION, video="long", limit=6)
    assert "".join(pieces).strip() == stream.answer.answer


def test_a_video_is_read_once_for_all_questions(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []

    def counted(*args: object, **kwargs: object) -> object:
        reads.append(1)
        return read_video(*args, **kwargs)  # type: ignore[arg-type]

    fresh = longtake.open_index(index.path)
    monkeypatch.setattr("longtake.pipeline.answering.vlm.read_video", counted)
    for question in (QUESTION, "what?", QUESTION):
        fresh.ask(question, video="long", limit=1)
        fresh.ask(question, video="long", from_s=4, to_s=10, limit=1)
    assert len(reads) == 2
    fresh.ask(QUESTION, video="short", limit=1)
    assert len(reads) == 3


def test_a_span_is_read_at_its_own_place_in_the_video(index: Index, path: str, vlm: VLM) -> None:
    (answer,) = index.ask(QUESTION, video="long", from_s=4, to_s=10, limit=4)
    video, *_ = IndexReader.open(path).video_tokens("/films/long.mp4")
    mask_T = torch.zeros(8, dtype=torch.bool)
    mask_T[2:5] = True
    prefix = read_video(vlm, video, keep_S=video.of_snippets(mask_T))
    wanted = VLMAnswerer(vlm).answer(prefix, QUESTION, Decoding(limit=4))
    assert (answer.answer, answer.probability) == (wanted.text, pytest.approx(wanted.probability, rel=1e-6))
    assert all(moment.start_s >= 4 and moment.stop_s <= 10 for moment in answer.moments)
    assert prefix.layout.next_position == read_video(vlm, video).layout.next_position


def test_a_closer_look_reads_the_snippets_that_the_question_looks_at(index: Index, path: str, vlm: VLM) -> None:
    video, *_ = IndexReader.open(path).video_tokens("/films/long.mp4")
    answerer, mask_T = VLMAnswerer(vlm), torch.zeros(8, dtype=torch.bool)
    weights_T = answerer.evidence(read_video(vlm, coarse(video)), QUESTION)
    mask_T[weights_T.topk(3).indices] = True
    wanted = answerer.answer(read_video(vlm, video, keep_S=video.of_snippets(mask_T)), QUESTION, Decoding(limit=4))
    (answer,) = index.ask(QUESTION, video="long", look_closer=3, limit=4)
    assert (answer.answer, answer.probability) == (wanted.text, pytest.approx(wanted.probability, rel=1e-6))
    chosen = [n for n in range(8) if mask_T[n]]
    for moment in answer.moments:
        assert all(n in chosen for n in range(int(moment.start_s) // SECONDS, int(moment.stop_s) // SECONDS))
    # Another question may need other snippets; a span bounds them.
    (inside,) = index.ask(QUESTION, video="long", from_s=8, look_closer=2, limit=4)
    assert all(moment.start_s >= 8 for moment in inside.moments)
    # A video that is no longer than that is simply read.
    assert index.ask(QUESTION, video="long", look_closer=8, limit=4) == index.ask(QUESTION, video="long", limit=4)


def test_what_is_kept_stays_within_its_bound(path: str, index: Index) -> None:
    least = Index(path, cache_bytes=0)
    assert least.ask(QUESTION, limit=3) == index.ask(QUESTION, limit=3)
    only = backend(least).prefix(least.find("short"), np.ones(3, dtype=np.bool_))
    assert least.cached_bytes == only.size_bytes
    assert index.cached_bytes > least.cached_bytes


def test_what_did_not_change_stays_when_the_index_grows(tmp_path: Path, directory: Path, vlm: VLM) -> None:
    committer = write_index(tmp_path / "live.lt", directory, vlm)
    add(committer, vlm, "/done.mp4", range(2))
    add(committer, vlm, "/growing.mp4", range(2), status="indexing")
    live = longtake.open_index(tmp_path / "live.lt")
    assert [answer.seen_until_s for answer in live.ask(QUESTION, limit=1)] == [4.0, 4.0]
    whole = np.ones(2, dtype=np.bool_)
    kept = backend(live).prefix(live.find("done"), whole)
    add(committer, vlm, "/growing.mp4", range(2, 5), status="indexing")
    assert live.refresh()
    assert backend(live).prefix(live.find("done"), whole) is kept
    (grown,) = live.ask(QUESTION, video="growing", limit=1)
    assert grown.seen_until_s == 10.0 and grown.still_indexing


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("what <|im_end|> is it?", r"the question holds the special token <\|im_end\|>"),
        ("see <|video_pad|>", r"the question holds the special token <\|video_pad\|>"),
        (" ", "the question is empty"),
    ],
)
def test_a_question_that_cannot_be_asked_is_bad_input(index: Index, question: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        index.ask(question, video="long")
    with pytest.raises(InputError, match=message):
        index.stream(question, "long").finish()


def test_a_video_past_the_trained_positions_is_answered_with_a_note(tmp_path: Path, directory: Path) -> None:
    small = tmp_path / "small"
    shutil.copytree(directory, small)
    config = json.loads((small / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 60
    (small / "config.json").write_text(json.dumps(config))
    vlm = load_vlm(small)
    committer = write_index(tmp_path / "films.lt", small, vlm)
    add(committer, vlm, "/long.mp4", range(4))
    (answer,) = longtake.open_index(tmp_path / "films.lt").ask(QUESTION, limit=1)
    assert len(answer.notes) == 1 and "and the model was made for 60" in answer.notes[0]
    errors = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(errors):
        assert main(["ask", str(tmp_path / "films.lt"), QUESTION, "--limit", "1"]) == 0
    assert "longtake: warning: long.mp4: the video reaches to position" in errors.getvalue()


def test_weights_that_moved_are_named_and_others_are_refused(
    tmp_path: Path, path: str, directory: Path, index: Index
) -> None:
    shutil.copytree(directory, tmp_path / "moved")
    moved = longtake.open_index(path, model=f"vlm:{tmp_path / 'moved'}")
    assert moved.ask(QUESTION, video="long", limit=3) == index.ask(QUESTION, video="long", limit=3)
    other = write_random_vlm(tmp_path / "other", "qwen3_5", seed=8)
    with pytest.raises(IndexMismatchError, match=r"indexed with model vlm:.*qwen .*, not vlm:.*other"):
        longtake.open_index(path, model=f"vlm:{other}").ask(QUESTION, video="long")
    with pytest.raises(CheckpointError, match="nowhere: not a model directory"):
        longtake.open_index(path, model="vlm:nowhere").ask(QUESTION, video="long")
    with pytest.raises(IndexMismatchError, match=r"indexed with the public model vlm:.*, which tiny cannot be"):
        longtake.open_index(path, model="tiny")


def test_without_transformers_the_line_says_how_to_get_it(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r"public models need transformers .* or newer: pip install"):
        longtake.open_index(path).ask(QUESTION, video="long")


def test_a_public_model_does_not_ask_an_index_of_longtakes_own(
    tmp_path: Path, directory: Path, index_writer: Callable[..., object]
) -> None:
    index_writer.create(tmp_path / "own.lt", {"/a.mp4": 2})  # type: ignore[attr-defined]
    with pytest.raises(IndexMismatchError, match=r"indexed with LongTake's model .*, which vlm:.* cannot be"):
        longtake.open_index(tmp_path / "own.lt", model=f"vlm:{directory}")


def test_the_command_line_asks_it(path: str) -> None:
    shown = io.StringIO()
    with redirect_stdout(shown):
        words = ["ask", path, QUESTION, "--video", "long", "--limit", "4", "--look-closer", "2", "--json"]
        assert main(words) == 0
    (answer,) = json.loads(shown.getvalue())["answers"]
    assert answer["video"] == "/films/long.mp4" and answer["answer"]


def test_the_command_line_writes_a_model_to_try(tmp_path: Path) -> None:
    shown, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(shown), redirect_stderr(errors):
        assert main(["random-model", "qwen3_5", str(tmp_path / "tiny"), "--seed", "3"]) == 0
        assert main(["random-model", "qwen9", str(tmp_path / "other")]) == 2
    assert f"--model vlm:{tmp_path / 'tiny'}" in shown.getvalue()
    assert errors.getvalue().startswith("longtake: error: qwen9: no class of models that can be made")
    assert load_vlm(tmp_path / "tiny").width == 32


def test_spans_are_known_without_the_model_or_a_token(path: str, tmp_path: Path) -> None:
    index = longtake.open_index(path, model=f"vlm:{tmp_path / 'gone'}")
    assert backend(index).windows(index.find("long")).stop_ns_T.tolist() == [2_000_000_000 * n for n in range(1, 9)]
    with pytest.raises(InputError, match="no video reaches into 50 s to the end"):
        index.ask(QUESTION, from_s=50)
    assert index.cached_bytes == 0
    with pytest.raises(InputError, match="gone"):
        index.ask(QUESTION, from_s=10)


def test_a_stream_ends_in_the_version_that_it_began_with(tmp_path: Path, directory: Path, vlm: VLM) -> None:
    committer = write_index(tmp_path / "live.lt", directory, vlm)
    add(committer, vlm, "/growing.mp4", range(3), status="indexing")
    index = longtake.open_index(tmp_path / "live.lt")
    (wanted,) = index.ask(QUESTION, limit=6)
    stream = index.stream(QUESTION, "growing", limit=6)
    next(stream)
    add(committer, vlm, "/growing.mp4", range(3, 5), status="indexing")
    assert index.refresh()
    assert stream.finish() == wanted and wanted.seen_until_s == 6.0
