"""What the user names becomes a list of files: files, folders, globs and text lists of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from longtake.errors import InputError

# Names that a folder is searched for. A file that is named outright is taken whatever it is called: `probe` judges it.
VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv", ".wmv"),
        *(".asf", ".ogv", ".3gp", ".3g2", ".mxf", ".vob"),
    )
)
LIST_SUFFIXES = frozenset((".txt", ".lst", ".list"))


def find_videos(paths: Sequence[str]) -> list[str]:
    """The absolute paths that `paths` name, each once, sorted.

    A folder is searched with its subfolders for the usual video suffixes, hidden names left out; a text file
    (.txt, .lst, .list) names one path a line, relative to itself, `#` starts a comment; a name with * ? or [ that is no
    file is a glob (** goes into subfolders). Anything else is taken as a file, and need not be a good one.

    Raises:
        InputError: nothing was named, a name or a glob matches nothing, or a list cannot be read.
    """
    if not paths:
        raise InputError("no video was named")
    # Path.resolve would follow links, and a link's own name is what the user knows the video by.
    return sorted({os.path.abspath(found) for path in paths for found in _expand(str(path), ())})  # noqa: PTH100


def _expand(path: str, lists: tuple[Path, ...]) -> Iterator[str]:
    place = Path(path).expanduser()
    if place.is_dir():
        found = list(_in_folder(place))
        if not found:
            raise InputError(f"{path}: no video in this folder")
        yield from found
    elif place.is_file():
        if place.suffix.lower() in LIST_SUFFIXES:
            yield from _in_list(place, lists)
        else:
            yield str(place)
    elif glob.has_magic(path):
        matches = [match for match in glob.glob(str(place), recursive=True) if Path(match).is_file()]  # noqa: PTH207
        if not matches:
            raise InputError(f"{path}: no file matches")
        yield from matches
    else:
        raise InputError(f"{path}: no such file or folder")


def _in_folder(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                yield str(Path(parent) / name)


def _in_list(place: Path, lists: tuple[Path, ...]) -> Iterator[str]:
    if place.resolve() in lists:
        raise InputError(f"{place}: this list names itself")
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{place}: not a readable text list: {error}") from error
    names = list(_names(lines))
    if not names:
        raise InputError(f"{place}: this list names no video")
    for name in names:
        yield from _listed(place.parent / Path(name).expanduser(), (*lists, place.resolve()))


def _listed(path: Path, lists: tuple[Path, ...]) -> Iterator[str]:
    # A listed file that is missing is one bad video of an archive, recorded as a failure; it does not end the job.
    if path.exists() or glob.has_magic(str(path)):
        yield from _expand(str(path), lists)
    else:
        yield str(path)


def _names(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        name = line.split("#", 1)[0].strip() if line.lstrip().startswith("#") or " #" in line else line.strip()
        if name:
            yield name
