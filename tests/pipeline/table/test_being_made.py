"""Readers that open an index again and again while it is made and made anew: nothing, or a whole one, and never two."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from longtake.errors import IndexMismatchError, InputError
from longtake.pipeline.table import schema
from longtake.pipeline.table.metadata import IndexMetadata
from longtake.pipeline.table.schema import SCHEMAS, TABLES, IndexReader, VideoRow, table_uri
from longtake.pipeline.table.writer import Committer, SnippetRow, write_snippets

FIRST = IndexMetadata(model="first", fingerprint="aa", tokens=2, width=3, rate_hz=8.0, token_store="float32")
SECOND = IndexMetadata(model="second", fingerprint="bb", tokens=4, width=5, frames=16, token_store="float32")
ROUNDS = 20

# Opens each index without a pause from before there is one until its second model's video is there, and tells what it
# came by: that it is at it, the video of each model, and what it was refused before the first one.
READER = """
import itertools, sys
from longtake.errors import InputError
from longtake.pipeline.table.schema import IndexReader

def look(uri):
    try:
        reader = IndexReader.open(uri)
    except InputError as error:
        assert not opened, f"it was there before: {error}"
        return str(error).removeprefix(f"{uri}: ")
    model, videos = reader.metadata.model, reader.videos()
    opened.append(model)
    assert [row.model for row in videos] in ([], [model]), (model, videos)
    for row in videos:
        assert row.video_id == model and reader.numbers(model).tolist() == [0, 1, 2]
        assert reader.tokens(model)[0].shape == (3, reader.metadata.tokens, reader.metadata.width)
    assert sorted(opened, key=["first", "second"].index) == opened, "back to the old one"
    return f"video of {model}" if videos else f"{model}, empty"

for number in range(int(sys.argv[2])):
    opened, told = [], set()
    while "video of second" not in told:
        said = look(f"{sys.argv[1]}/{number}.lt")
        if said not in told and not said.endswith("empty"):
            print(said, flush=True)
        told.add(said)
"""


def fill(committer: Committer) -> None:
    """A video of three snippets, named as the model is."""
    name, metadata = committer.metadata.model, committer.metadata
    rows = [
        SnippetRow(
            video_id=name,
            snippet=number,
            start_ns=number * 10,
            stop_ns=number * 10 + 10,
            pictures=4,
            tokens=np.random.default_rng(number).standard_normal((metadata.tokens, metadata.width), dtype=np.float32),
            text="",
            memory=b"memory" if number == 2 else None,
        )
        for number in range(3)
    ]
    committer.commit_snippets([write_snippets(committer.uri, metadata, rows, {name: -1})])
    committer.put_videos([VideoRow(uri="/a.mp4", video_id=name, snippets=3, status="done", model=name)])


def write_table(uri: str, table: str, metadata: IndexMetadata, mode: str) -> None:
    """One of the steps in which an index is made."""
    empty = pa.Table.from_batches([], schema=SCHEMAS[table](metadata))
    lance.write_dataset(empty, table_uri(uri, table), mode=mode)


def test_a_reader_beside_its_making_sees_nothing_or_a_whole_index(tmp_path: Path) -> None:
    command = [sys.executable, "-c", READER, str(tmp_path), str(ROUNDS)]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert reader.stdout is not None and reader.stderr is not None
    lines = iter(reader.stdout.readline, "")

    def heard(wanted: str) -> set[str]:
        """What the reader says before `wanted`; it tells of everything once an index."""
        said: set[str] = set()
        for line in map(str.strip, lines):
            if line == wanted:
                return said
            said.add(line)
        raise AssertionError(f"the reader ended after {said}: {reader.communicate()[1]}")

    try:
        for number in range(ROUNDS):
            uri = str(tmp_path / f"{number}.lt")
            assert heard("there is no index here") == set()
            fill(Committer(uri, FIRST))
            assert heard("video of first") <= {"an index is being made here; nothing is in it yet"}
            fill(Committer(uri, SECOND, rebuild=True))
            assert heard("video of second") == set()
        _, errors = reader.communicate()
    finally:
        reader.kill()
    assert (reader.returncode, errors) == (0, "")


def test_an_index_without_all_its_tables_says_what_it_is(tmp_path: Path) -> None:
    uri = str(tmp_path)
    for table in TABLES[:-1]:
        write_table(uri, table, FIRST, "create")
        with pytest.raises(InputError, match="an index is being made here; nothing is in it yet"):
            IndexReader.open(uri)
    # A job that was killed here goes on by making what is missing.
    fill(Committer(uri, FIRST))
    assert [row.video_id for row in IndexReader.open(uri).videos()] == ["first"]


@pytest.mark.parametrize("done", [1, 2])
def test_a_reader_waits_for_the_last_table_of_a_rebuild(tmp_path: Path, done: int) -> None:
    uri = str(tmp_path)
    fill(Committer(uri, FIRST))
    for table in TABLES[:done]:
        write_table(uri, table, SECOND, "overwrite")
    with ThreadPoolExecutor() as pool:
        opened = pool.submit(IndexReader.open, uri)
        for table in TABLES[done:]:
            write_table(uri, table, SECOND, "overwrite")
        reader = opened.result()
    assert (reader.metadata, reader.videos()) == (SECOND, [])


def test_a_rebuild_that_was_cut_off_is_refused_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path)
    fill(Committer(uri, FIRST))
    write_table(uri, "videos", SECOND, "overwrite")
    monkeypatch.setattr(schema, "SETTLED_S", 0.05)
    with pytest.raises(IndexMismatchError, match="written by different models; --rebuild makes it anew"):
        IndexReader.open(uri)
    for model in (FIRST, SECOND):
        with pytest.raises(IndexMismatchError, match="--rebuild"):
            Committer(uri, model)
    fill(Committer(uri, SECOND, rebuild=True))
    assert [row.video_id for row in IndexReader.open(uri).videos()] == ["second"]
