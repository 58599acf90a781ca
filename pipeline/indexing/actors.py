"""Ray, all of it: a session (embedded or a cluster's), actors that host plain-Python stages, and calls with deadlines.

What runs inside an actor is a stage: an ordinary class that knows nothing of Ray (`stages/`). What decides who does
what is `scheduler.py`, which sees `Worker`, `Call` and `Outcome` and nothing of Ray either.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

# Ray reads these when it is imported or started.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from longtake.errors import InputError, LongTakeError
from longtake.pipeline.indexing import watchdog

# A handle on a value that stays where it was made; it travels as an argument of a later call.
Payload: TypeAlias = Any
Kind: TypeAlias = Literal["done", "error", "died", "lost", "hung"]

# Ray's smallest object store; what is in flight is bounded by the engine, in bytes, well below the store's size.
LEAST_STORE_BYTES = 80 << 20
# What an embedded Ray need not keep account of: nobody will ask it.
QUIET_RAY = {"task_events_report_interval_ms": 0, "enable_metrics_collection": False, "enable_timeline": False}
# Starting a process and importing torch takes seconds, on a busy machine many.
START_DEADLINE_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a call ended.

    done: `value` is what the stage returned, and `payload` holds handles on its bulk. error: the stage raised; `error`
    and `message` say what. died: the actor is gone. lost: an argument is gone with the node that held it. hung: the
    deadline passed, and the actor was killed.
    """

    kind: Kind
    value: Any = None
    payload: tuple[Payload, ...] = ()
    error: str = ""
    message: str = ""


@dataclass(eq=False, kw_only=True)
class Worker:
    """An actor: its role, the process that it is, and the one stage that it hosts."""

    role: str
    handle: Any
    pid: int = 0
    node: str = ""


@dataclass(eq=False, kw_only=True)
class Call:
    """A call under way. `about` is the caller's own note of what it is for."""

    worker: Worker
    about: Any
    deadline: float
    reply: Any
    payload: tuple[Payload, ...] = ()
    outcome: Outcome | None = field(default=None)


class _Host:
    """The actor around a stage. A call gives a small value, and its bulk as results that stay in their place."""

    def __init__(self, threads: int, stage: str, arguments: tuple[Any, ...]) -> None:
        # Before the stage's imports: numerical libraries size their pools when they are loaded.
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(threads)
        self._failed: Outcome | None = None
        try:
            module, name = stage.split(":")
            self._stage = getattr(importlib.import_module(module), name)(*arguments)
        except Exception as error:
            self._failed = _error(error)

    def ready(self) -> Outcome:
        """Where the actor runs, or why its stage could not be made."""
        return self._failed or Outcome(kind="done", value=(os.getpid(), ray.get_runtime_context().get_node_id()))

    def call(self, method: str, payloads: int, *arguments: Any) -> Any:
        """Call the stage; with the value come `payloads` results more."""
        # The one broad catch, at the actor's edge: a stage's exception becomes a result with its reason, and need not
        # be picklable.
        try:
            result = getattr(self._stage, method)(*arguments)
            value, *bulk = result if payloads else [result]
            outcome = Outcome(kind="done", value=value)
        except Exception as error:
            outcome, bulk = _error(error), [None] * payloads
        return (outcome, *bulk) if payloads else outcome


class Demuxer(_Host):
    """So named for whoever looks at the processes."""


class Decoder(_Host):
    """So named for whoever looks at the processes."""


class Encoder(_Host):
    """So named for whoever looks at the processes."""


HOSTS: dict[str, type[_Host]] = {"demux": Demuxer, "decode": Decoder, "encode": Encoder}


def _error(error: Exception) -> Outcome:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = (
        f" ({Path(last[0].filename).name}:{last[0].lineno})" if last and not isinstance(error, LongTakeError) else ""
    )
    return Outcome(kind="error", error=type(error).__name__, message=(str(error) or type(error).__name__) + place)


class Session:
    """A connection to Ray for one job: the cluster at `address`, the one this process is already in, or its own.

    An embedded Ray belongs to this process: a watchdog ends all of it when the process is gone, even by SIGKILL.

    Raises:
        InputError: nothing answers at `address`.
    """

    def __init__(self, *, address: str | None = None, store_bytes: int = LEAST_STORE_BYTES) -> None:
        self._owner = False
        self._watchdog: subprocess.Popen[bytes] | None = None
        address = address or os.environ.get("RAY_ADDRESS") or None
        # Whether others may use it too, so that workers have to ask for the cores that they keep busy.
        self.shared = address is not None
        if ray.is_initialized():
            return
        self._owner = True
        _silence_errors()
        quiet = {"log_to_driver": False, "configure_logging": True, "logging_level": "CRITICAL"}
        if address is not None:
            _require_answer(address)
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InputError(f"{address}: no Ray cluster answers there ({str(error).splitlines()[0]})") from error
            return
        # Ray's servers are started by a fork that becomes another program at once, which harms no one.
        warnings.filterwarnings("ignore", message="lance is not fork-safe")
        try:
            self._embed(store_bytes, quiet)
        except Exception:
            # On a machine that is busy enough, Ray gives up waiting for its own servers.
            self.close()
            try:
                self._embed(store_bytes, quiet)
            except Exception as error:
                self.close()
                raise LongTakeError(f"Ray cannot be started here: {_first_line(error)}") from error
        except BaseException:
            self.close()
            raise

    def _embed(self, store_bytes: int, quiet: dict[str, Any]) -> None:
        mark = uuid.uuid4().hex
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog.__file__, mark], stdin=subprocess.PIPE, start_new_session=True
        )
        os.environ[watchdog.VARIABLE] = mark
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=max(store_bytes, LEAST_STORE_BYTES),
                # Nobody outside this machine has business with an embedded Ray.
                _node_ip_address="127.0.0.1",
                _system_config=QUIET_RAY,
                **quiet,
            )
        finally:
            # Ray's servers hand the mark on to every worker; programs that the user starts later must not carry it.
            del os.environ[watchdog.VARIABLE]
        self._note_processes()

    def _note_processes(self) -> None:
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.write(b"\n")
            self._watchdog.stdin.flush()

    def cores(self) -> int:
        """CPU cores of all nodes."""
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def gpus(self) -> int:
        """GPUs of all nodes."""
        return int(ray.cluster_resources().get("GPU", 0))

    def nodes(self) -> int:
        """Nodes that are alive."""
        return max(1, sum(1 for node in ray.nodes() if node["Alive"]))

    def close(self) -> None:
        """Leave the cluster; end an embedded Ray and wait until nothing of it is left."""
        if self._owner:
            ray.shutdown()
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._watchdog.wait(timeout=30)
            self._watchdog = None


def start_worker(
    role: str, number: int, stage: str, arguments: tuple[Any, ...], *, threads: int, cpus: float, gpus: float
) -> Call:
    """Start an actor, spread over the nodes. The call ends when it is ready for work; `admit` then takes its value.

    Args:
        number: which of its role it is; those for which Ray sets nothing aside go to the nodes in turn.
        stage: "module:Class", imported inside the actor with `threads` threads for numerical libraries.
        cpus, gpus: what Ray is to set aside for it.
    """
    actor = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)(HOSTS[role])
    handle = actor.options(scheduling_strategy=_place(number, cpus + gpus > 0)).remote(threads, stage, arguments)
    return Call(
        worker=Worker(role=role, handle=handle),
        about=None,
        deadline=time.monotonic() + START_DEADLINE_S,
        reply=handle.ready.remote(),
    )


def _place(number: int, reserves: bool) -> Any:
    """Where an actor goes: Ray's own spreading takes turns over all roles at once, and puts both encoders on one node.

    Nor does Ray hold to a soft wish where nothing is set aside. A node that has died since refuses, and the next start
    goes to those that are left.
    """
    nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
    if reserves or len(nodes) < 2:
        return "SPREAD"
    return NodeAffinitySchedulingStrategy(nodes[number % len(nodes)], soft=False)


def call(worker: Worker, method: str, *arguments: Any, about: Any, deadline_s: float, payloads: int = 0) -> Call:
    """Call a stage's method, which returns a value, or (value, *bulk) with as many as `payloads`.

    Calls of one worker run in the order they were made.

    A payload of an earlier call is passed as it is, and reaches the stage as the value itself.
    """
    results = worker.handle.call.options(num_returns=1 + payloads).remote(method, payloads, *arguments)
    reply, *payload = results if payloads else [results]
    return Call(worker=worker, about=about, deadline=time.monotonic() + deadline_s, reply=reply, payload=tuple(payload))


def wait(calls: Sequence[Call], timeout_s: float) -> list[Call]:
    """Wait until a call has ended, a deadline has passed, or the time is over; the calls that ended, with outcomes.

    It sleeps meanwhile. A worker whose call ran past its deadline is killed before this returns.
    """
    if not calls:
        time.sleep(timeout_s)
        return []
    now = time.monotonic()
    patience_s = max(0.0, min(timeout_s, min(one.deadline for one in calls) - now))
    by_reply = {one.reply: one for one in calls}
    replies = list(by_reply)
    ended, _ = ray.wait(replies, num_returns=1, timeout=patience_s)
    if ended and len(replies) > 1:
        ended, _ = ray.wait(replies, num_returns=len(replies), timeout=0)
    finished = [by_reply[reply] for reply in ended]
    for one in finished:
        one.outcome = _outcome(one)
    now = time.monotonic()
    for one in calls:
        if one.outcome is None and now >= one.deadline:
            kill(one.worker)
            one.outcome = Outcome(kind="hung", error="Hang", message="no answer before the deadline; killed")
            finished.append(one)
    return finished


def _outcome(ended: Call) -> Outcome:
    try:
        value: Outcome = ray.get(ended.reply)
    except ray.exceptions.RayActorError as error:
        return Outcome(kind="died", error="WorkerDied", message=_first_line(error))
    except (ray.exceptions.ObjectLostError, ray.exceptions.OwnerDiedError) as error:
        return Outcome(kind="lost", error="ObjectLost", message=_first_line(error))
    except ray.exceptions.RayTaskError as error:
        # Only what precedes the stage can raise: an argument that could not be fetched.
        return Outcome(kind="lost", error="ObjectLost", message=_first_line(error))
    except ray.exceptions.RayError as error:
        return Outcome(kind="died", error=type(error).__name__, message=_first_line(error))
    return dataclasses.replace(value, payload=ended.payload)


def admit(worker: Worker, outcome: Outcome) -> None:
    """Take note of a started worker's process, from the outcome of its first call."""
    worker.pid, worker.node = outcome.value


def kill(worker: Worker) -> None:
    """End an actor at once, whatever it is doing.

    Ray's own kill is a request that a stopped process never reads, so one on this machine gets SIGKILL besides.
    """
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        ray.kill(worker.handle, no_restart=True)
    if worker.pid and worker.node == ray.get_runtime_context().get_node_id():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(worker.pid, signal.SIGKILL)


def _require_answer(address: str) -> None:
    """Raise InputError at once where nothing listens: Ray itself keeps trying for half a minute."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise InputError(f"{address}: no Ray cluster answers there ({error.strerror or error})") from error


def _silence_errors() -> None:
    """Keep Ray from printing a page to the terminal whenever a worker dies: that is noticed, repaired and recorded."""
    from ray._private import worker as ray_worker

    if hasattr(ray_worker, "listen_error_messages"):
        ray_worker.listen_error_messages = lambda worker, threads_stopped: None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
