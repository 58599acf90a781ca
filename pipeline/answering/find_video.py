"""From what a person types to one video of an index."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from longtake.errors import InputError
from longtake.pipeline.table.schema import VideoRow

SHORTEST_ID_PREFIX = 4


def find_video(rows: Sequence[VideoRow], name: str, path: str) -> VideoRow:
    """The one video that `name` names.

    Args:
        rows: all of the index at `path`.
        name: its uri or path, the end of its path (`season1/part2.mp4`), its base name with or without the extension,
            or at least four characters from the start of its id.
    Raises:
        InputError: no video has that name (similar names are suggested), or several have it.
    """
    given = name.strip()
    if not given:
        raise InputError("a video's name must not be empty")
    whole = os.path.normpath(Path(given).expanduser().absolute())
    ending = f"/{PurePath(given)}"
    candidates = (
        [row for row in rows if row.uri in (given, whole)],
        [row for row in rows if row.uri.endswith(ending)],
        [row for row in rows if PurePath(row.uri).stem == given],
        [row for row in rows if len(given) >= SHORTEST_ID_PREFIX and row.video_id.startswith(given)],
    )
    for found in candidates:
        # Copies of one file under several names are one video.
        if len({row.video_id or row.uri for row in found}) == 1:
            return found[0]
        if found:
            listed = ", ".join(f"{row.uri} ({row.video_id[:8] or 'no id'})" for row in found[:4])
            more = f" and {len(found) - 4} more" if len(found) > 4 else ""
            raise InputError(f"{given!r} names {len(found)} videos: {listed}{more}; give the path or the id")
    raise InputError(f"{path}: no video {given!r}{_suggest(rows, given)}")


def _suggest(rows: Sequence[VideoRow], name: str) -> str:
    names = sorted({PurePath(row.uri).name for row in rows})
    if not names:
        return "; the index holds no video yet"
    # People leave the extension away.
    by_spelling = {PurePath(full).stem.lower(): full for full in names} | {full.lower(): full for full in names}
    spelled = difflib.get_close_matches(PurePath(name).name.lower(), by_spelling, n=3, cutoff=0.5)
    close = dict.fromkeys(by_spelling[spelling] for spelling in spelled)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; it holds {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
