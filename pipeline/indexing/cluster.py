"""Batch jobs: `longtake` commands that a Ray cluster runs by itself, through Ray's Jobs API.

A job is a command line on the cluster's head. It finds its cluster through the environment that Ray gives it, and is
stopped with SIGINT, so that what is whole is committed before it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# Ray reads this when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from longtake.errors import InputError, LongTakeError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
# Explicit addresses lose to these inside Ray; here they are only what is meant when none is given.
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_WANTS_A_TOKEN = (
    "the cluster wants Ray's token: set RAY_AUTH_MODE=token, and give its token as Ray documents, or start the cluster "
    "with RAY_AUTH_MODE=disabled where nobody else can reach it"
)
# Marks our jobs among a cluster's others.
MARK = "longtake"
# A stopped job commits what is whole and lets its workers go; then it is killed.
STOP_WAIT_S = 60
STOP_WITH_SIGINT = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
START_WAIT_S = 60
# Ray's client notes on standard error how a followed log was closed; what a command says there is its own.
logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)


class _NotReady(LongTakeError):
    """The job server could not take the request now; it may be able to later."""


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """A job as its cluster knows it. Times are seconds since 1970; `status` is Ray's: PENDING, RUNNING, STOPPED,
    SUCCEEDED or FAILED."""

    name: str
    status: str
    command: str
    message: str
    started_at: float | None
    ended_at: float | None

    @property
    def is_over(self) -> bool:
        """Whether it will not change any more."""
        return bool(JobStatus(self.status).is_terminal())


def submit(arguments: Sequence[str], *, address: str | None = None, python: str | None = None) -> str:
    """Start a job and return its name.

    Args:
        arguments: of the `longtake` command, such as ["index", "/mnt/archive", "--into", "/mnt/archive.lt"].
        address: the cluster's job server (http://head:8265) or Ray address; None looks in the environment, then here.
        python: the interpreter on the cluster's machines; None is the path of this one.
    Raises:
        InputError: no job server answers at the address.
        LongTakeError: it refused the job.
    """
    name = f"{MARK}-{uuid.uuid4().hex[:8]}"
    command = shlex.join([python or sys.executable, "-m", "longtake.jobs.main", *arguments])
    until = time.monotonic() + START_WAIT_S
    while True:
        try:
            with _errors_told(name):
                _client(address).submit_job(
                    entrypoint=command,
                    submission_id=name,
                    metadata={MARK: shlex.join(["longtake", *arguments])},
                    runtime_env={"env_vars": STOP_WITH_SIGINT},
                )
            return name
        except LongTakeError as error:
            # A cluster that has just been started answers before it can run anything, and drops what it cannot take.
            if not isinstance(error, _NotReady) or time.monotonic() > until:
                raise
            if _is_known(name, address):
                return name
        time.sleep(1)


def _is_known(name: str, address: str | None) -> bool:
    """Whether the job was taken, although the answer to its submission was lost."""
    with contextlib.suppress(LongTakeError):
        get_job(name, address=address)
        return True
    return False


def list_jobs(*, address: str | None = None) -> list[BatchJob]:
    """The cluster's jobs that `submit` started, newest first.

    Raises:
        InputError: no job server answers at the address.
    """
    with _errors_told(""):
        found = _client(address).list_jobs()
    jobs = [_job(details) for details in found if details.submission_id and MARK in (details.metadata or {})]
    return sorted(jobs, key=lambda job: -(job.started_at or 0.0))


def get_job(name: str, *, address: str | None = None) -> BatchJob:
    """One job.

    Raises:
        InputError: no job server answers at the address, or it knows no such job.
    """
    with _errors_told(name):
        return _job(_client(address).get_job_info(name))


def read_logs(name: str, *, address: str | None = None) -> str:
    """All that a job has printed so far.

    Raises:
        InputError: no job server answers at the address, or it knows no such job.
    """
    with _errors_told(name):
        return str(_client(address).get_job_logs(name))


def follow_logs(name: str, write: Callable[[str], object], *, address: str | None = None) -> BatchJob:
    """Hand what a job prints to `write`, from its start, as it comes; return the job when it is over.

    Raises:
        InputError: no job server answers at the address, or it knows no such job.
        LongTakeError: the connection broke.
    """

    async def follow(client: JobSubmissionClient) -> None:
        async for text in client.tail_job_logs(name):
            write(text)

    with _errors_told(name):
        client = _client(address)
        client.get_job_info(name)
        asyncio.run(follow(client))
    return _wait(name, address, STOP_WAIT_S)


def stop(name: str, *, address: str | None = None) -> BatchJob:
    """Stop a job and wait until it is over; what it has indexed whole is kept. A job that is over stays as it is.

    Raises:
        InputError: no job server answers at the address, or it knows no such job.
        LongTakeError: it is still running after all.
    """
    with _errors_told(name):
        client = _client(address)
        client.get_job_info(name)
        client.stop_job(name)
    job = _wait(name, address, STOP_WAIT_S + 30)
    if not job.is_over:
        raise LongTakeError(f"{name}: still {job.status.lower()}, {STOP_WAIT_S + 30} s after it was told to stop")
    return job


def _wait(name: str, address: str | None, seconds: float) -> BatchJob:
    until = time.monotonic() + seconds
    while True:
        job = get_job(name, address=address)
        if job.is_over or time.monotonic() > until:
            return job
        time.sleep(0.5)


def _job(details: Any) -> BatchJob:
    return BatchJob(
        name=details.submission_id,
        status=str(details.status.value),
        command=(details.metadata or {}).get(MARK, details.entrypoint),
        message=details.message or "",
        started_at=details.start_time / 1000 if details.start_time else None,
        ended_at=details.end_time / 1000 if details.end_time else None,
    )


def _client(address: str | None) -> JobSubmissionClient:
    found = [os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)]
    place = address or next(iter(found), DEFAULT_ADDRESS)
    hidden = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        return JobSubmissionClient(place)
    except AuthenticationError as error:
        raise InputError(f"{place}: {_WANTS_A_TOKEN}") from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{place}: no Ray job server answers there ({reason})") from error
    finally:
        os.environ.update(hidden)


@contextlib.contextmanager
def _errors_told(name: str) -> Iterator[None]:
    """Ray's errors of the job server as ours: mostly RuntimeError, with the server's text."""
    try:
        yield
    except AuthenticationError as error:
        raise InputError(f"{name or 'the job server'}: {_WANTS_A_TOKEN}") from error
    except RuntimeError as error:
        if "does not exist" in str(error) or "status code 404" in str(error):
            raise InputError(f"{name}: the cluster knows no such job") from error
        kind = _NotReady if "No available agent" in str(error) else LongTakeError
        raise kind(f"{name or 'the job server'}: {str(error).splitlines()[0]}") from error
    except OSError as error:
        # The HTTP client's errors are OSErrors of its own.
        raise _NotReady(f"{name or 'the job server'}: the connection broke ({str(error).splitlines()[0]})") from error
