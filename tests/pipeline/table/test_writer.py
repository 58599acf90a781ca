"""Real Lance tables: what is committed is read back, whole, once, and by the right model only."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lance
import numpy as np
import pytest

from longtake.errors import IndexLockedError, IndexMismatchError, InputError, LongTakeError
from longtake.pipeline.table.lock import IndexLock, local_path
from longtake.pipeline.table.metadata import IndexMetadata
from longtake.pipeline.table.schema import FailureRow, IndexReader, VideoRow, table_uri
from longtake.pipeline.table.writer import Committer, SnippetRow, Written, write_snippets

METADATA = IndexMetadata(model="tiny", fingerprint="aa", tokens=2, width=3, rate_hz=8.0, token_store="float32")


def rows(video_id: str, first: int, stop: int, memory: bytes | None = b"memory") -> list[SnippetRow]:
    """Snippets whose tokens tell their video and number apart."""
    seed = sum(video_id.encode())
    return [
        SnippetRow(
            video_id=video_id,
            snippet=number,
            start_ns=number * 10,
            stop_ns=number * 10 + 10,
            pictures=4,
            tokens=np.random.default_rng((seed, number)).standard_normal((2, 3), dtype=np.float32),
            text=f"{video_id} {number}",
            memory=memory if number == stop - 1 else None,
        )
        for number in range(first, stop)
    ]


def written(committer: Committer, batch: list[SnippetRow]) -> Written:
    after = {
        row.video_id: committer.spans[row.video_id].last if row.video_id in committer.spans else -1 for row in batch
    }
    return write_snippets(committer.uri, committer.metadata, batch, after)


def commit(committer: Committer, *batches: list[SnippetRow]) -> None:
    committer.commit_snippets([written(committer, batch) for batch in batches])


def test_rows_come_back_in_order_and_bit_for_bit(tmp_path: Path) -> None:
    committer = Committer(str(tmp_path), METADATA)
    committer.put_videos([VideoRow(uri="/b.mp4", video_id="b"), VideoRow(uri="/a.mp4", video_id="a")])
    commit(committer, rows("a", 0, 3) + rows("b", 0, 2))
    commit(committer, rows("a", 3, 4), rows("b", 3, 6))
    reader = IndexReader.open(str(tmp_path))
    tokens, start_ns, stop_ns, text = reader.tokens("a")
    assert np.array_equal(tokens, np.stack([row.tokens for row in rows("a", 0, 4)]))
    assert (start_ns.tolist(), stop_ns.tolist()) == ([0, 10, 20, 30], [10, 20, 30, 40])
    assert text == ["a 0", "a 1", "a 2", "a 3"]
    assert reader.numbers("b").tolist() == [0, 1, 3, 4, 5], "a snippet lost to damage leaves a gap"
    assert reader.tokens("b", 1, 4)[3] == ["b 1", "b 3"]
    assert reader.tokens("unknown'")[0].shape == (0, 2, 3)
    assert [(row.uri, row.snippets, row.status) for row in reader.videos()] == [
        ("/a.mp4", 4, "indexing"),
        ("/b.mp4", 5, "indexing"),
    ]
    assert reader.memory("a") == (3, b"memory")
    again = Committer(str(tmp_path), METADATA)
    assert again.spans == committer.spans
    assert again.memory("b") == b"memory"


def test_a_batch_that_repeats_or_lacks_rows_is_refused(tmp_path: Path) -> None:
    committer = Committer(str(tmp_path), METADATA)
    commit(committer, rows("a", 0, 3))
    with pytest.raises(LongTakeError, match="up to 2; a batch brings 2 after 2"):
        commit(committer, rows("a", 2, 5))
    fresh = written(committer, rows("a", 3, 5))
    with pytest.raises(LongTakeError, match="up to 4; a batch brings 3 after 2"):
        committer.commit_snippets([fresh, fresh])
    missed = write_snippets(str(tmp_path), METADATA, rows("a", 6, 8), {"a": 5})
    with pytest.raises(LongTakeError, match="up to 2; a batch brings 6 after 5"):
        committer.commit_snippets([missed])
    with pytest.raises(LongTakeError, match="2 snippets was written as 0 rows"):
        committer.commit_snippets([Written(fragments=(), spans=fresh.spans, after=fresh.after)])
    committer.commit_snippets([fresh])
    assert IndexReader.open(str(tmp_path)).numbers("a").tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="has no memory"):
        written(committer, rows("a", 5, 7, memory=None))
    with pytest.raises(ValueError, match="snippet 5 follows 6"):
        written(committer, rows("a", 6, 7) + rows("a", 5, 6))


def test_written_rows_are_invisible_until_their_commit(tmp_path: Path) -> None:
    committer = Committer(str(tmp_path), METADATA)
    batch = written(committer, rows("a", 0, 3))
    assert len(IndexReader.open(str(tmp_path)).numbers("a")) == 0
    before = IndexReader.open(str(tmp_path))
    committer.commit_snippets([batch])
    assert len(before.numbers("a")) == 0, "a reader stays at the version that it opened"
    assert before.newest_version() > before.version
    assert len(IndexReader.open(str(tmp_path)).numbers("a")) == 3


def test_another_model_or_format_is_refused_and_rebuild_starts_anew(tmp_path: Path) -> None:
    uri = str(tmp_path)
    commit(Committer(uri, METADATA), rows("a", 0, 3))
    other = IndexMetadata(model="base", fingerprint="bb", tokens=4, width=5, frames=512)
    with pytest.raises(IndexMismatchError, match=r"model tiny \(aa\), not base \(bb\).*--rebuild"):
        Committer(uri, other)
    kept = IndexReader.open(uri)
    rebuilt = Committer(uri, other, rebuild=True)
    assert rebuilt.spans == {}
    assert IndexReader.open(uri).metadata == other
    assert len(kept.numbers("a")) == 3, "a reader keeps the version that it opened"
    with pytest.raises(InputError, match="there is no index here"):
        IndexReader.open(str(tmp_path / "nowhere"))
    lance.dataset(table_uri(uri, "videos")).update_schema_metadata({"longtake.format": "99"})
    with pytest.raises(IndexMismatchError, match="index format 99"):
        IndexReader.open(uri)


def test_the_sampling_of_the_index_stands(tmp_path: Path) -> None:
    Committer(str(tmp_path), METADATA)
    later = IndexMetadata(model="tiny", fingerprint="aa", tokens=2, width=3, frames=512)
    assert Committer(str(tmp_path), later).metadata == METADATA


def test_a_replaced_video_takes_its_snippets_along(tmp_path: Path) -> None:
    committer = Committer(str(tmp_path), METADATA)
    committer.put_videos([VideoRow(uri=uri, video_id="a") for uri in ("/one.mp4", "/copy.mp4")])
    commit(committer, rows("a", 0, 3))
    committer.put_videos([VideoRow(uri="/one.mp4", video_id="b")])
    assert "a" in committer.spans, "the copy still speaks of these snippets"
    commit(committer, rows("b", 0, 1))
    committer.put_videos([VideoRow(uri="/copy.mp4", video_id="b", status="done", snippets=1)])
    reader = IndexReader.open(str(tmp_path))
    assert (len(reader.numbers("a")), len(reader.numbers("b"))) == (0, 1)
    assert [row.video_id for row in reader.videos()] == ["b", "b"]
    commit(committer, rows("orphan", 0, 2))
    committer.delete_orphans()
    assert len(IndexReader.open(str(tmp_path)).numbers("orphan")) == 0


def test_the_same_failure_is_one_row(tmp_path: Path) -> None:
    committer = Committer(str(tmp_path), METADATA)
    failure = FailureRow(
        uri="/it's.mp4", video_id="a", stage="decode", error="Hang", message="m", start_ns=0, stop_ns=9
    )
    whole = FailureRow(uri="/other.mp4", video_id="", stage="probe", error="MediaError", message="empty")
    committer.put_failures([failure])
    committer.put_failures([FailureRow(**{**vars(failure), "attempts": 2}), whole])
    found = IndexReader.open(str(tmp_path)).failures()
    assert [(row.uri, row.attempts, row.start_ns) for row in found] == [("/it's.mp4", 2, 0), ("/other.mp4", 1, None)]
    committer.delete_failures("/it's.mp4")
    assert committer.failures_of("/it's.mp4") == []
    assert len(committer.failures_of("/other.mp4")) == 1


def test_merging_fragments_changes_no_row(tmp_path: Path) -> None:
    committer = Committer(str(tmp_path), METADATA)
    for number in range(40):
        commit(committer, rows("a", number, number + 1, memory=bytes([number]) * 100))
    committer.tidy()
    reader = IndexReader.open(str(tmp_path))
    assert len(lance.dataset(table_uri(str(tmp_path), "snippets")).get_fragments()) < 5
    assert np.array_equal(reader.tokens("a")[0], np.stack([row.tokens for row in rows("a", 0, 40)]))
    assert reader.memory("a") == (39, bytes([39]) * 100)
    again = Committer(str(tmp_path), METADATA)
    commit(again, rows("a", 40, 41))
    assert IndexReader.open(str(tmp_path)).numbers("a").tolist() == list(range(41))


def test_readers_see_whole_commits_while_a_writer_works(tmp_path: Path) -> None:
    committer = Committer(str(tmp_path), METADATA)
    committer.put_videos([VideoRow(uri="/a.mp4", video_id="a")])
    over = threading.Event()
    seen: list[int] = []

    def read() -> None:
        last_look = False
        while not last_look:
            # One look more after the end.
            last_look = over.is_set()
            reader = IndexReader.open(str(tmp_path))
            numbers = reader.numbers("a")
            assert numbers.tolist() == list(range(len(numbers)))
            last, memory = reader.memory("a")
            assert memory == (b"memory" if len(numbers) else None)
            [row] = reader.videos()
            assert row.snippets <= len(numbers) == last + 1
            seen.append(len(numbers))

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read)
        try:
            for batch in range(30):
                commit(committer, rows("a", batch * 7, batch * 7 + 7))
                committer.put_videos([VideoRow(uri="/a.mp4", video_id="a", snippets=batch * 7 + 7, status="partial")])
        finally:
            over.set()
        reading.result()
    assert seen[-1] == 210 and all(count % 7 == 0 for count in seen), seen


def test_one_writer_and_its_lock_dies_with_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from longtake.pipeline.table.lock import IndexLock\n"
        "lock = IndexLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(IndexLockedError, match=f"another process is writing to this index .process {holder.pid} on"):
        IndexLock(tmp_path)
    holder.kill()
    holder.communicate()
    with IndexLock(tmp_path), pytest.raises(IndexLockedError):
        IndexLock(tmp_path)
    IndexLock(tmp_path).release()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write an index here"):
        IndexLock(tmp_path / "file")


def test_which_places_are_local() -> None:
    assert local_path("a/b") == Path("a/b")
    assert local_path("file:///a%20b") == Path("/a b")
    assert local_path("s3://bucket/index") is None
