"""Indexing an archive: the one call that the command line and the public face make.

It may be made again at any time, after any end of the call before, and goes on from what is committed.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from longtake.errors import IndexMismatchError, InputError
from longtake.pipeline.indexing.actors import Session
from longtake.pipeline.indexing.find_videos import find_videos
from longtake.pipeline.indexing.job import IndexJob, IndexSummary, Progress
from longtake.pipeline.indexing.model import Compression, IndexModel, index_model
from longtake.pipeline.indexing.recovery import EngineSettings
from longtake.pipeline.indexing.scheduler import Engine
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.table.lock import IndexLock, local_path
from longtake.pipeline.table.metadata import IndexMetadata
from longtake.pipeline.table.schema import open_table
from longtake.pipeline.table.token_columns import TokenStore
from longtake.pipeline.table.writer import Committer

__all__ = ["IndexOptions", "IndexSummary", "Progress", "index"]

NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """How to index.

    `into` is the index: a directory or any URI that Lance opens. `sampling` None means the index's own, or the
    model's rate for a new index; `token_store` None likewise, or int8. `model` is a checkpoint's directory, a
    shipped name, or "vlm:PATH", a public vision-language model, for which `compression` says what is kept of a
    snippet. `lanes` (videos at a time for each encoder), `decoders` and `device` ("cpu", "cuda") are chosen by the
    machine where they are None. `rebuild` throws away what the index holds; `retry_failures` takes up the failed
    and the partly indexed files again. `budget_bytes` bounds what is between the stages; a commit is made every
    `commit_s` seconds. A call that runs past its deadline costs its worker; see the engine.
    """

    into: str
    sampling: Sampling | None = None
    model: str = "tiny"
    reader: Literal["auto", "decord", "pyav"] = "auto"
    lanes: int | None = None
    decoders: int | None = None
    device: Literal["cpu", "cuda"] | None = None
    token_store: TokenStore | None = None
    compression: Compression = field(default_factory=Compression)
    ray_address: str | None = None
    rebuild: bool = False
    retry_failures: bool = False
    budget_bytes: int = 192 << 20
    commit_s: float = 5.0
    decode_deadline_s: float = 60.0
    demux_deadline_s: float = 600.0
    encode_deadline_s: float = 600.0


def index(
    paths: Sequence[str], options: IndexOptions, *, on_progress: Callable[[Progress], None] | None = None
) -> IndexSummary:
    """Index the videos that `paths` name (files, folders, globs, text lists) into `options.into`.

    Returns when every one of them is in the index, or on record as failed. May be called again at any time, after any
    end of the call before, and goes on from there.

    Args:
        on_progress: called in this thread, at most some times a second.
    Raises:
        InputError: a path names nothing, or the index or the Ray cluster cannot be used.
        CheckpointError: the model cannot be loaded.
        IndexMismatchError: another model, or one with other settings, wrote the index, and `options.rebuild` is off.
        IndexLockedError: another process is writing to the index.
        LongTakeError: the work cannot go on; what was committed stays.
        KeyboardInterrupt: interrupted; what was whole by then is committed.
    """
    began = time.monotonic()
    uris = find_videos(paths)
    place = local_path(options.into)
    if place is None:
        raise InputError(f"{options.into}: only an index on a file system can be written")
    with IndexLock(place):
        table = None if options.rebuild else open_table(options.into, "snippets")
        told = None if table is None else IndexMetadata.from_schema(table.schema.metadata, options.into)
        model = index_model(options.model, options.compression, options.sampling, options.token_store, told)
        committer = Committer(options.into, model.metadata, rebuild=options.rebuild)
        if options.token_store not in (None, committer.metadata.token_store):
            raise IndexMismatchError(
                f"{options.into}: stores tokens as {committer.metadata.token_store}, not {options.token_store}; "
                "use another index, or --rebuild to index everything again"
            )
        committer.delete_orphans()
        job = IndexJob(uris, committer, model.sampling, retry_failures=options.retry_failures, on_progress=on_progress)
        if job.has_work:
            with _no_interrupt_lost() as check:
                session = Session(address=options.ray_address, store_bytes=2 * options.budget_bytes)
                try:
                    settings = _settings(options, session, committer.metadata, model)
                    check()
                    Engine(job, settings).run()
                finally:
                    session.close()
            committer.tidy()
        return job.summary(time.monotonic() - began, began)


@contextmanager
def _no_interrupt_lost() -> Iterator[Callable[[], None]]:
    """Interrupts break off as ever, and the function given raises one that was lost on its way.

    While Ray starts, processes are forked, and Python drops an exception that a signal raises inside a fork's hooks.
    """
    seen = threading.Event()

    def note(number: int, frame: Any) -> None:
        seen.set()
        raise KeyboardInterrupt

    def check() -> None:
        if seen.is_set():
            raise KeyboardInterrupt

    def unraisable(hooked: Any) -> None:
        # One that came inside a fork's own hooks is printed and dropped by Python; here it is noted already.
        if not (seen.is_set() and hooked.exc_type is KeyboardInterrupt):
            hook(hooked)

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before, hook = signal.signal(signal.SIGINT, note), sys.unraisablehook
    sys.unraisablehook = unraisable
    try:
        yield check
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)


def _settings(options: IndexOptions, session: Session, metadata: IndexMetadata, model: IndexModel) -> EngineSettings:
    """The engine for this machine or cluster: one encoder a GPU, or else one a node; a decoder a core."""
    device = options.device or ("cuda" if session.gpus() else "cpu")
    encoders = max(1, session.gpus()) if device == "cuda" else session.nodes()
    cores = session.cores()
    return EngineSettings(
        index_uri=options.into,
        metadata=metadata,
        model=options.model,
        encode_stage=model.encode_stage,
        model_input=model.model_input,
        sampling=model.sampling,
        reader=options.reader,
        device=device,
        demuxers=encoders,
        decoders=options.decoders or cores,
        encoders=encoders,
        # A step costs the same for one video as for all lanes: on a CPU, padding would be paid for.
        lanes=options.lanes or (8 if device == "cuda" else 1),
        encoder_threads=max(1, cores // encoders // 2),
        budget_bytes=options.budget_bytes,
        commit_s=options.commit_s,
        commit_bytes=64 << 20,
        demux_deadline_s=options.demux_deadline_s,
        decode_deadline_s=options.decode_deadline_s,
        encode_deadline_s=options.encode_deadline_s,
        cpus_a_decoder=1.0 if session.shared else 0.0,
    )
