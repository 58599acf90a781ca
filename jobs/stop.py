"""`longtake stop`: stop a batch job."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from longtake.jobs.submit import add_address

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers

EXAMPLES = """\
examples:
  longtake stop longtake-3f2a9c1b

What the job has indexed whole is kept; the same `longtake submit` goes on from there.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `stop` to the command line."""
    parser = subparsers.add_parser(
        "stop",
        help="stop a batch job",
        description="Stop a batch job and wait until it is over.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", metavar="JOB", help="the name that `longtake submit` printed")
    add_address(parser)


def run(args: argparse.Namespace) -> int:
    """Stop it, and say how it ended."""
    from longtake.pipeline.indexing.cluster import stop

    job = stop(args.job, address=args.address)
    print(f"{job.name} {job.status.lower()}")
    return 0
