"""`longtake logs`: what a batch job printed, or prints."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from longtake.jobs.submit import add_address

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers

EXAMPLES = """\
examples:
  longtake logs longtake-3f2a9c1b
  longtake logs longtake-3f2a9c1b --follow      until the job is over; the exit code is 1 when it failed
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `logs` to the command line."""
    parser = subparsers.add_parser(
        "logs",
        help="show what a batch job prints",
        description="Print what a batch job has printed so far, or follow it to its end.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", metavar="JOB", help="the name that `longtake submit` printed")
    parser.add_argument("--follow", action="store_true", help="go on until the job is over")
    add_address(parser)


def run(args: argparse.Namespace) -> int:
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
