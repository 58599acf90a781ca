"""Whole jobs through real Ray actors, some of which are stopped or killed, against the tokens of a single process."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.pipeline.indexing.processes import wait_gone

from longtake.errors import IndexLockedError, IndexMismatchError
from longtake.pipeline.indexing import actors
from longtake.pipeline.indexing.actors import Session
from longtake.pipeline.indexing.index import IndexOptions, IndexSummary, Progress, index
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.table.lock import IndexLock
from longtake.pipeline.table.schema import IndexReader
from longtake.pipeline.table.writer import Committer, Written

RATE_HZ = 24.0
# What the stopped decoders cost these tests; far above what a segment takes one that works, on a busy machine too.
DECODE_DEADLINE_S = 10.0
Expect = Callable[..., dict[int, np.ndarray]]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[Session]:
    """One Ray for the whole module: jobs join the one that their process is already in."""
    session = Session()
    yield session
    session.close()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., Path]) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [make_clip(folder / f"clip{seed}.mp4", seconds, seed=seed) for seed, seconds in ((0, 20), (1, 12), (2, 5))]


def options(into: Path, model: str, **more: object) -> IndexOptions:
    values = {"sampling": Sampling(rate_hz=RATE_HZ), "decoders": 2, "commit_s": 0.3, **more}
    return IndexOptions(into=str(into), model=model, **values)  # type: ignore[arg-type]


def hosts(role: str) -> list[psutil.Process]:
    """The processes of a role, by their title, wherever they are in the tree below this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{role}"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def assert_tokens(into: Path, clip: Path, expected: dict[int, np.ndarray]) -> None:
    reader = IndexReader.open(str(into))
    [row] = [row for row in reader.videos() if row.uri == str(clip)]
    numbers = reader.numbers(row.video_id).tolist()
    assert numbers == list(expected)
    assert np.array_equal(reader.tokens(row.video_id)[0], np.stack(list(expected.values())))
    assert row.snippets == len(expected)


def stop_decoders(patch: pytest.MonkeyPatch, chosen: Callable[[int, int], bool]) -> list[psutil.Process]:
    """Stop decoders just before they are given a segment; the list that comes back fills with them.

    Args:
        chosen: by the segment's number, in the order in which they are decoded, and how often it was given out before.
    """
    stopped: list[psutil.Process] = []
    given: dict[Any, int] = {}
    call = actors.call

    def stop_and_call(worker: actors.Worker, method: str, *arguments: Any, **settings: Any) -> actors.Call:
        if method == "decode":
            segment = arguments[0]
            before = given.setdefault(segment, 0)
            given[segment] += 1
            if chosen(list(given).index(segment), before):
                stopped.append(psutil.Process(worker.pid))
                stopped[-1].suspend()
        return call(worker, method, *arguments, **settings)

    patch.setattr(actors, "call", stop_and_call)
    return stopped


def test_real_files_give_the_tokens_of_a_single_process(
    tmp_path: Path, media: Path, ttm_model: str, expected_tokens: Expect
) -> None:
    names = ["corrupted.mp4", "delayed_start.mp4", "pancake.mkv", "rotated_90.mov", "h265_10bit.mp4", "av1.mkv"]
    summary = index([str(media / name) for name in names], options(tmp_path, ttm_model))
    assert (summary.videos, summary.indexed, summary.skipped, summary.failed) == (6, 6, 0, 0)
    rows = {Path(row.uri).name: row for row in IndexReader.open(str(tmp_path)).videos()}
    for name in names:
        assert_tokens(tmp_path, media / name, expected_tokens(media / name, ttm_model, rate_hz=RATE_HZ))
        assert rows[name].status == ("partial" if name == "corrupted.mp4" else "done")
    assert summary.snippets == sum(row.snippets for row in rows.values())
    assert summary.frames == sum(row.frames for row in rows.values())
    assert summary.video_seconds == pytest.approx(sum(row.duration_s or 0 for row in rows.values()), abs=0.1)
    failures = IndexReader.open(str(tmp_path)).failures()
    assert failures and {Path(row.uri).name for row in failures} == {"corrupted.mp4"}
    again = index([str(media / name) for name in names], options(tmp_path, ttm_model))
    assert (again.indexed, again.skipped, again.snippets) == (0, 6, 0)


def test_lanes_do_not_change_the_tokens(
    tmp_path: Path, clips: list[Path], ttm_model: str, expected_tokens: Expect
) -> None:
    summary = index([str(clips[0].parent)], options(tmp_path, ttm_model, lanes=2))
    assert summary.indexed == 3
    for clip in clips:
        assert_tokens(tmp_path, clip, expected_tokens(clip, ttm_model, rate_hz=RATE_HZ, lanes=2))


def test_killed_actors_are_replaced_and_the_video_goes_on(
    tmp_path: Path, clips: list[Path], ttm_model: str, expected_tokens: Expect
) -> None:
    victims: list[tuple[str, int]] = []

    def kill_in_turn(progress: Progress) -> None:
        for role, snippets in (("Encoder", 12), ("Demuxer", 24), ("Decoder", 36)):
            if progress.snippets >= snippets and role not in dict(victims):
                victims.append((role, hosts(role)[0].pid))
                os.kill(victims[-1][1], signal.SIGKILL)
                return

    summary = index([str(clips[0])], options(tmp_path, ttm_model, commit_s=0.1), on_progress=kill_in_turn)
    assert [role for role, _ in victims] == ["Encoder", "Demuxer", "Decoder"]
    assert (summary.indexed, summary.failed) == (1, 0)
    assert_tokens(tmp_path, clips[0], expected_tokens(clips[0], ttm_model, rate_hz=RATE_HZ))
    [row] = IndexReader.open(str(tmp_path)).videos()
    assert row.status == "done"


def test_a_decoder_that_hangs_is_killed_at_its_deadline(
    tmp_path: Path, clips: list[Path], ttm_model: str, expected_tokens: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two at the same time, each with a segment of its own; those that take their places work.
    stopped = stop_decoders(monkeypatch, lambda number, before: number in (1, 2) and not before)
    summary = index([str(clips[0])], options(tmp_path, ttm_model, decode_deadline_s=DECODE_DEADLINE_S))
    assert len(stopped) == 2
    assert (summary.indexed, summary.failed) == (1, 0)
    assert_tokens(tmp_path, clips[0], expected_tokens(clips[0], ttm_model, rate_hz=RATE_HZ))
    assert IndexReader.open(str(tmp_path)).failures() == []
    wait_gone(stopped)


def test_a_segment_that_no_decoder_survives_becomes_a_failure(
    tmp_path: Path,
    make_clip: Callable[..., Path],
    ttm_model: str,
    expected_tokens: Expect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 13, seed=5)
    # The decoder, and the one that takes its place: a segment is tried once more, and given up.
    stopped = stop_decoders(monkeypatch, lambda number, before: number == 1)
    made = options(tmp_path / "index", ttm_model, decoders=1, decode_deadline_s=DECODE_DEADLINE_S)
    summary = index([str(clip)], made)
    assert len(stopped) == 2
    assert (summary.indexed, summary.failed) == (1, 0)
    reader = IndexReader.open(str(tmp_path / "index"))
    [row] = reader.videos()
    assert row.status == "partial"
    [failure] = [failure for failure in reader.failures() if failure.error == "DecoderLost"]
    assert failure.stage == "decode" and failure.start_ns is not None and failure.stop_ns is not None
    expected = expected_tokens(clip, ttm_model, rate_hz=RATE_HZ)
    snippet_ns = 8 * 10**9 / RATE_HZ
    lost = [n for n in expected if n * snippet_ns >= failure.start_ns and (n + 1) * snippet_ns <= failure.stop_ns]
    assert len(lost) >= 11, "a segment of four seconds holds twelve snippets"
    assert reader.numbers(row.video_id).tolist() == [n for n in expected if n not in lost], "only they are missing"


def test_readers_see_whole_versions_of_a_video_under_way(
    tmp_path: Path, clips: list[Path], ttm_model: str, expected_tokens: Expect, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = np.stack(list(expected_tokens(clips[0], ttm_model, rate_hz=RATE_HZ).values()))
    seen: list[tuple[str, int]] = []
    there, over = threading.Event(), threading.Event()
    commit = Committer.commit_snippets
    committed: list[int] = []

    def look() -> None:
        there.wait()
        last = False
        while not last:
            # One look more after the end.
            last = over.is_set()
            reader = IndexReader.open(str(tmp_path))
            for row in reader.videos():
                tokens, _, stop_ns, _ = reader.tokens(row.video_id)
                assert np.array_equal(tokens, expected[: len(tokens)])
                assert row.snippets == len(tokens)
                seen.append((row.status, len(stop_ns)))

    def commit_and_be_seen(self: Committer, batches: Sequence[Written]) -> None:
        there.set()
        commit(self, batches)
        committed.append(sum(span.rows for span in self.spans.values()))
        while not looking.done() and ("indexing", committed[-1]) not in seen:
            time.sleep(0.001)

    monkeypatch.setattr(Committer, "commit_snippets", commit_and_be_seen)
    with ThreadPoolExecutor() as pool:
        looking = pool.submit(look)
        try:
            # A budget of one byte: the lane's oldest parcel is admitted all the same, and nothing else, so commits are
            # many.
            index([str(clips[0])], options(tmp_path, ttm_model, commit_s=0.0, budget_bytes=1))
        finally:
            there.set()
            over.set()
        looking.result()
    assert len(set(committed)) >= 2 and committed[-1] == len(expected)
    assert seen[-1] == ("done", len(expected))


def test_files_that_change_copies_and_models(
    tmp_path: Path, clips: list[Path], ttm_model: str, other_model: str, expected_tokens: Expect
) -> None:
    folder, into = tmp_path / "archive", tmp_path / "index"
    folder.mkdir()
    one, copy, bad = folder / "one.mp4", folder / "copy.mp4", folder / "bad.mp4"
    shutil.copy(clips[2], one)
    shutil.copy(clips[2], copy)
    bad.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    first = index([str(folder)], options(into, ttm_model))
    expected = expected_tokens(clips[2], ttm_model, rate_hz=RATE_HZ)
    assert (first.videos, first.indexed, first.failed, first.snippets) == (3, 2, 1, len(expected))
    assert [Path(row.uri).name for row in first.failures] == ["bad.mp4"]
    assert_tokens(into, copy, expected)

    # Known failures are not tried again, and still counted; a touched file is the same file.
    os.utime(one)
    again = index([str(folder)], options(into, ttm_model))
    assert (again.indexed, again.skipped, again.failed, again.snippets) == (0, 2, 1, 0)
    # The index's own sampling stands where none is named.
    implied = index([str(folder)], options(into, ttm_model, sampling=None))
    assert (implied.indexed, implied.skipped, implied.failed) == (0, 2, 1)

    shutil.copy(clips[1], one)
    shutil.copy(clips[2], bad)
    changed = index([str(folder)], options(into, ttm_model))
    assert (changed.indexed, changed.skipped, changed.failed) == (2, 1, 0)
    assert_tokens(into, one, expected_tokens(clips[1], ttm_model, rate_hz=RATE_HZ))
    reader = IndexReader.open(str(into))
    assert reader.failures() == []
    assert len(reader.videos()) == 3
    held = {row.video_id: row.snippets for row in reader.videos()}
    assert sum(held.values()) == reader._snippets.count_rows(), "rows of the old content are gone"

    with pytest.raises(IndexMismatchError, match="--rebuild"):
        index([str(folder)], options(into, other_model))
    assert_tokens(into, copy, expected)
    rebuilt = index([str(copy)], options(into, other_model, rebuild=True))
    assert rebuilt.indexed == 1
    assert_tokens(into, copy, expected_tokens(copy, other_model, rate_hz=RATE_HZ))


def test_a_file_that_is_away_keeps_its_rows(tmp_path: Path, clips: list[Path], ttm_model: str) -> None:
    clip, listing, into = tmp_path / "a.mp4", tmp_path / "list.txt", tmp_path / "index"
    shutil.copy(clips[2], clip)
    listing.write_text("a.mp4\n")
    assert index([str(listing)], options(into, ttm_model)).indexed == 1
    clip.rename(tmp_path / "away.mp4")
    away = index([str(listing)], options(into, ttm_model))
    assert (away.failed, away.failures[0].stage) == (1, "probe")
    [row] = IndexReader.open(str(into)).videos()
    assert row.status == "done" and len(IndexReader.open(str(into)).numbers(row.video_id)) == row.snippets > 0
    (tmp_path / "away.mp4").rename(clip)
    back = index([str(listing)], options(into, ttm_model))
    assert (back.skipped, back.failed) == (1, 0)


def test_the_second_writer_is_refused(tmp_path: Path, clips: list[Path], ttm_model: str) -> None:
    with IndexLock(tmp_path), pytest.raises(IndexLockedError, match="another process is writing"):
        index([str(clips[2])], options(tmp_path, ttm_model))
    summaries: list[IndexSummary] = []
    refused: list[str] = []

    def write_too(progress: Progress) -> None:
        try:
            summaries.append(index([str(clips[2])], options(tmp_path, ttm_model)))
        except IndexLockedError as error:
            refused.append(str(error))

    assert index([str(clips[2])], options(tmp_path, ttm_model), on_progress=write_too).indexed == 1
    assert refused and not summaries
