"""`longtake failures`: what went wrong while indexing, and trying it again."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from longtake.jobs.clock import format_span

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers

EXAMPLES = """\
examples:
  longtake failures archive.lt
  longtake failures archive.lt --json
  longtake failures archive.lt --retry          read the videos with failures again, from their start
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `failures` to the command line."""
    parser = subparsers.add_parser(
        "failures",
        help="list what could not be indexed, or try it again",
        description="List the videos, and the parts of videos, that could not be indexed, with the reasons.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("index", metavar="INDEX", help="what `longtake index --into` wrote")
    parser.add_argument("--retry", action="store_true", help="index the videos with failures again, with live progress")
    parser.add_argument(
        "--ray-address", metavar="A", help="with --retry: a Ray cluster's address (default: this machine)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """List, or index again what failed."""
    import dataclasses

    from longtake.jobs.console import counted, output, print_json, table, warn
    from longtake.pipeline.table.schema import IndexReader

    reader = IndexReader.open(args.index)
    failures = reader.failures()
    uris = sorted({row.uri for row in failures})
    if args.retry and failures:
        from longtake.jobs.index.progress import retry

        return retry(args.index, model=reader.model, uris=uris, ray_address=args.ray_address, as_json=args.json)
    if args.json:
        rows = [{"failure_id": row.failure_id, **dataclasses.asdict(row)} for row in failures]
        print_json({"index": args.index, "failures": rows})
        return 0
    if not failures:
        output().print(f"{args.index}: no failures")
        return 0
    shown = table("video", "where", "stage", "error", "attempts", "reason", right=("attempts",))
    for row in failures:
        known = row.start_ns is not None and row.stop_ns is not None
        where = format_span((row.start_ns or 0) / 1e9, (row.stop_ns or 0) / 1e9) if known else "whole file"
        shown.add_row(row.uri, where, row.stage, row.error, str(row.attempts), row.message)
    output().print(shown)
    warn(f"{counted(len(failures), 'failure')} in {counted(len(uris), 'video')}; --retry reads them again")
    return 0
