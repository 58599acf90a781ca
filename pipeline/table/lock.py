"""One writer an index: a lock that dies with its holder.

A local index is locked with `flock` on a file in it. The kernel gives the lock up when the holder's process ends,
however it ends, and Python opens files so that child processes do not inherit them.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlparse

from longtake.errors import IndexLockedError, InputError

LOCK_FILE = "writer.lock"


def local_path(uri: str) -> Path | None:
    """The directory that `uri` names on this machine's file system, or None for any other kind of place."""
    parsed = urlparse(uri)
    if parsed.scheme == "file" and parsed.netloc in ("", "localhost"):
        return Path(unquote(parsed.path))
    return Path(uri) if "://" not in uri else None


class IndexLock:
    """The right to write to a local index, from construction until `release` or the end of the process.

    Raises:
        IndexLockedError: another process (or another lock in this one) holds it; the message says who.
        InputError: the directory cannot be made or written to.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK_FILE
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{directory}: cannot write an index here: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = _describe(self._file.read())
            self._file.close()
            raise IndexLockedError(f"{directory}: another process is writing to this index ({holder})") from None
        self._file.truncate(0)
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self._file.write(json.dumps(me) + "\n")
        self._file.flush()

    def release(self) -> None:
        """Give the lock up. The file stays: removing it would let two writers lock two files of one name."""
        self._file.close()

    def __enter__(self) -> IndexLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _describe(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "unknown"
