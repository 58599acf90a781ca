"""`longtake submit`, `jobs`, `logs` and `stop`: batch jobs over an archive on a Ray cluster."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from longtake.jobs.clock import format_moment
from longtake.jobs.index.index import absolute_model, add_options

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers

EXAMPLES = """\
examples:
  ray start --head                                            on the first machine of a cluster, with LongTake's Python
  longtake submit /mnt/archive --into /mnt/archive.lt         prints the job's name and returns
  longtake submit list.txt --into /mnt/a.lt --rate 4 --address http://head:8265
  longtake jobs                                               what is running
  longtake logs longtake-3f2a9c1b --follow                    what a job prints
  longtake stop longtake-3f2a9c1b                             stop it; what is whole is kept

A cluster that was started with Ray's token wants RAY_AUTH_MODE=token in this command's environment too.
Paths are those of the cluster's machines, on storage that all of them share. A job that was stopped, or whose machine
was lost, goes on where it was when the same command is submitted again.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `submit`, `jobs`, `logs` and `stop` to the command line."""
    submit = subparsers.add_parser(
        "submit",
        help="index an archive as a batch job on a Ray cluster",
        description="Hand an indexing job to a Ray cluster and return; the job goes on without this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    submit.add_argument("paths", nargs="+", metavar="PATH", help="video, folder, text list of paths (.txt), or glob")
    add_options(submit, on_cluster=True)
    submit.add_argument("--strict", action="store_true", help="the job fails when any video does")
    submit.add_argument("--python", metavar="P", help="Python of the cluster's machines (default: this one's path)")
    submit.add_argument("--json", action="store_true", help="print one JSON object")
    jobs = subparsers.add_parser(
        "jobs",
        help="list batch jobs",
        description="List the jobs that `longtake submit` started on a Ray cluster, newest first.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    jobs.add_argument("--json", action="store_true", help="print one JSON object")
    logs = subparsers.add_parser(
        "logs",
        help="show what a batch job prints",
        description=(
            "Print what a batch job has printed so far, or follow it to its end; the exit code is then 1 when it "
            "failed."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    logs.add_argument("--follow", action="store_true", help="go on until the job is over")
    stop = subparsers.add_parser(
        "stop",
        help="stop a batch job",
        description="Stop a batch job and wait until it is over; what it has indexed whole is kept.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for parser in (logs, stop):
        parser.add_argument("job", metavar="JOB", help="the name that `longtake submit` printed")
    for parser in (submit, jobs, logs, stop):
        parser.add_argument(
            "--address",
            metavar="URL",
            help="the cluster's job server (default: $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS, else http://127.0.0.1:8265)",
        )


def run(args: argparse.Namespace) -> int:
    """Run the one of them that was named."""
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "submit": _submit,
        "jobs": _jobs,
        "logs": _logs,
        "stop": _stop,
    }
    return commands[args.command](args)


def _submit(args: argparse.Namespace) -> int:
    """Submit and print the job's name."""
    from longtake.jobs.console import print_json
    from longtake.pipeline.indexing.cluster import submit

    arguments = index_arguments(args)
    name = submit(arguments, address=args.address, python=args.python)
    if args.json:
        print_json({"job": name, "arguments": arguments})
    else:
        print(name)
    return 0


def index_arguments(args: argparse.Namespace) -> list[str]:
    """The `longtake index` command line of the job. The job runs in another directory: paths become absolute."""
    arguments = ["index", *map(_absolute, args.paths), "--into", _absolute(args.into)]
    if args.model is not None:
        arguments += ["--model", absolute_model(args.model)]
    for option in ("rate", "frames", "lanes", "decoders", "combiner", "tokens_per_snippet"):
        value = getattr(args, option)
        if value is not None:
            arguments += [f"--{option.replace('_', '-')}", str(value)]
    if args.reader != "auto":
        arguments += ["--reader", args.reader]
    if args.token_store is not None:
        arguments += ["--tokens", args.token_store]
    return [*arguments, *(f"--{flag}" for flag in ("rebuild", "strict") if getattr(args, flag))]


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.normpath(Path(path).expanduser().absolute())


def _jobs(args: argparse.Namespace) -> int:
    """List them."""
    import dataclasses
    import datetime
    import time

    from longtake.jobs.console import output, print_json, table
    from longtake.pipeline.indexing.cluster import list_jobs

    jobs = list_jobs(address=args.address)
    if args.json:
        print_json({"jobs": [dataclasses.asdict(job) for job in jobs]})
        return 0
    if not jobs:
        output().print("no jobs")
        return 0
    shown = table("job", "status", "started", "took", "command", right=("took",))
    for job in jobs:
        began = job.started_at
        started = datetime.datetime.fromtimestamp(began).strftime("%Y-%m-%d %H:%M:%S") if began else "-"
        took = format_moment((job.ended_at or time.time()) - began) if began else "-"
        shown.add_row(job.name, job.status.lower(), started, took, job.command)
    output().print(shown)
    return 0


def _logs(args: argparse.Namespace) -> int:
    """Print them; with --follow the exit code tells how the job ended."""
    from longtake.pipeline.indexing.cluster import follow_logs, read_logs

    if not args.follow:
        print(read_logs(args.job, address=args.address), end="")
        return 0

    def write(text: str) -> None:
        print(text, end="", flush=True)

    job = follow_logs(args.job, write, address=args.address)
    print(f"longtake: {job.name} {job.status.lower()}", file=sys.stderr)
    return 0 if job.status == "SUCCEEDED" else 1


def _stop(args: argparse.Namespace) -> int:
    """Stop it, and say how it ended."""
    from longtake.pipeline.indexing.cluster import stop

    job = stop(args.job, address=args.address)
    print(f"{job.name} {job.status.lower()}")
    return 0
