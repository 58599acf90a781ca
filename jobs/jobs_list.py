"""`longtake jobs`: the batch jobs of a Ray cluster."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from longtake.jobs.clock import format_moment
from longtake.jobs.submit import add_address

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers

EXAMPLES = """\
examples:
  longtake jobs
  longtake jobs --address http://head:8265 --json
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `jobs` to the command line."""
    parser = subparsers.add_parser(
        "jobs",
        help="list batch jobs",
        description="List the jobs that `longtake submit` started on a Ray cluster, newest first.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_address(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
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
