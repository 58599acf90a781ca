"""What makes a video the same video: its content, the sampling and the model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from longtake.errors import MediaError


@dataclass(frozen=True, kw_only=True)
class FileState:
    """What the file system says of a file. While neither changes, the file is not read again to hash it."""

    size_bytes: int
    mtime_ns: int


def file_state(path: str) -> FileState:
    """Size and modification time.

    Raises:
        MediaError: the file is not there or may not be looked at.
    """
    try:
        found = Path(path).stat()
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}") from error
    return FileState(size_bytes=found.st_size, mtime_ns=found.st_mtime_ns)


def content_hash(path: str) -> str:
    """SHA-256 of the file's bytes, in hex, read in pieces.

    Raises:
        MediaError: the file cannot be read.
    """
    try:
        if not Path(path).is_file():
            # Opening a pipe would wait for a writer.
            raise MediaError(f"{path}: not a regular file")
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}") from error


def video_id(content: str, sampling: str, fingerprint: str) -> str:
    """Thirty-two hex digits for content seen with a sampling (its key) by a model (its fingerprint)."""
    return hashlib.sha256("\n".join((content, sampling, fingerprint)).encode()).hexdigest()[:32]
