"""Files, folders, globs and lists become one sorted list of paths; and what makes a video the same video."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longtake.errors import InputError, MediaError
from longtake.pipeline.indexing.find_videos import find_videos
from longtake.pipeline.table.identity import content_hash, file_state, video_id


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MKV", "sub/c.webm", "sub/deep/d.mov", "notes.doc", ".hidden.mp4", ".git/e.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def names(found: list[str], root: Path) -> list[str]:
    return [os.path.relpath(path, root) for path in found]


def test_folder_glob_file_and_list(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ["a.MKV", "b.mp4", "sub/c.webm", "sub/deep/d.mov"]
    assert names(find_videos([str(archive)]), archive) == everything
    assert names(find_videos([str(archive / "sub"), str(archive / "b.mp4"), str(archive)]), archive) == everything
    assert names(find_videos([str(archive / "*.mp4")]), archive) == ["b.mp4"]
    assert names(find_videos([str(archive / "**" / "*.mov")]), archive) == ["sub/deep/d.mov"]
    assert names(find_videos([str(archive / "notes.doc")]), archive) == ["notes.doc"], "a named file is taken as it is"
    listing = archive / "list.txt"
    listing.write_text("# my videos\n\nb.mp4\nsub   # a folder\nsub/*.webm\ngone.mp4\n")
    assert names(find_videos([str(listing)]), archive) == ["b.mp4", "gone.mp4", "sub/c.webm", "sub/deep/d.mov"]
    monkeypatch.chdir(archive)
    assert find_videos(["b.mp4", "./b.mp4"]) == [str(archive / "b.mp4")]


def test_brackets_in_a_real_name_are_no_glob(archive: Path) -> None:
    odd = archive / "film [1080p].mp4"
    odd.touch()
    assert find_videos([str(odd)]) == [str(odd)]


@pytest.mark.parametrize(
    ("path", "message"),
    [("gone.mp4", "no such file or folder"), ("*.avi", "no file matches"), (".git/objects", "no such file or folder")],
)
def test_a_name_that_finds_nothing_is_an_error(archive: Path, path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_videos([str(archive / path)])


def test_bad_lists_and_no_names(archive: Path) -> None:
    with pytest.raises(InputError, match="no video was named"):
        find_videos([])
    (archive / "empty").mkdir()
    with pytest.raises(InputError, match="no video in this folder"):
        find_videos([str(archive / "empty")])
    circle = archive / "circle.txt"
    circle.write_text("circle.txt\n")
    with pytest.raises(InputError, match="names itself"):
        find_videos([str(circle)])
    circle.write_text("# nothing\n")
    with pytest.raises(InputError, match="names no video"):
        find_videos([str(circle)])
    circle.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="not a readable text list"):
        find_videos([str(circle)])


def test_identity_is_content_sampling_and_model(archive: Path) -> None:
    first, copy = archive / "b.mp4", archive / "copy.mp4"
    copy.write_bytes(first.read_bytes())
    assert content_hash(str(first)) == content_hash(str(copy))
    one = video_id(content_hash(str(first)), "rate=8", "aa")
    assert one == video_id(content_hash(str(copy)), "rate=8", "aa")
    assert len({one, video_id("x", "rate=8", "aa"), video_id(content_hash(str(first)), "rate=4", "aa")}) == 3
    assert one != video_id(content_hash(str(first)), "rate=8", "bb")
    assert file_state(str(first)).size_bytes == 5
    with pytest.raises(MediaError, match="No such file"):
        file_state(str(archive / "gone"))
    with pytest.raises(MediaError, match="not a regular file"):
        content_hash(str(archive))
