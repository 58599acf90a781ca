"""`longtake status`: what an index holds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from longtake.jobs.clock import format_moment

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers

EXAMPLES = """\
examples:
  longtake status archive.lt
  longtake status archive.lt --json | python -m json.tool

indexing: being indexed, or its job was stopped (index again to go on); done: whole; partial: some of it was damaged
(see `longtake failures`); failed: nothing of it could be read.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `status` to the command line."""
    parser = subparsers.add_parser(
        "status",
        help="show what an index holds, and how far it is",
        description="Show the videos of an index, how far each is indexed, and what wrote it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("index", metavar="INDEX", help="what `longtake index --into` wrote")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Read the newest version and print it."""
    import dataclasses
    from collections import Counter

    from longtake.jobs.console import counted, output, print_json, table
    from longtake.pipeline.table.schema import IndexReader

    reader = IndexReader.open(args.index)
    videos, failures = reader.videos(), reader.failures()
    counts = Counter(row.status for row in videos)
    totals = {
        "videos": len(videos),
        **{status: counts[status] for status in ("done", "indexing", "partial", "failed")},
        "snippets": sum({row.video_id: row.snippets for row in videos}.values()),
        "frames": sum({row.video_id: row.frames for row in videos}.values()),
        "video_seconds": sum(row.duration_s or 0.0 for row in videos),
        "failures": len(failures),
    }
    if args.json:
        about = {"index": args.index, "version": reader.version, **reader.metadata.to_dict()}
        print_json({**about, **totals, "rows": [dataclasses.asdict(row) for row in videos]})
        return 0
    out = output()
    shown = table(
        "id", "status", "length", "snippets", "frames", "sound", "video", right=("length", "snippets", "frames")
    )
    for row in videos:
        length = format_moment(row.duration_s) if row.duration_s is not None else "?"
        sound = "yes" if row.has_audio else "no"
        shown.add_row(row.video_id[:8] or "-", row.status, length, str(row.snippets), str(row.frames), sound, row.uri)
    out.print(shown)
    states = ", ".join(
        f"{counts[status]} {status}" for status in ("done", "indexing", "partial", "failed") if counts[status]
    )
    out.print(
        f"\n{counted(len(videos), 'video')} ({states or 'none'}), "
        f"{counted(int(totals['snippets']), 'snippet')}, {counted(int(totals['frames']), 'frame')}"
    )
    metadata = reader.metadata
    sampling = f"{metadata.rate_hz:g} frames/s" if metadata.rate_hz is not None else f"{metadata.frames} frames a video"
    model = f"model {metadata.model} ({metadata.fingerprint})"
    out.print(f"{model}, {sampling}, {metadata.token_store} tokens, version {reader.version}")
    if metadata.kind == "vlm":
        out.print(metadata.describe_tokens())
    if failures:
        out.print(f"{counted(len(failures), 'failure')}: longtake failures {args.index}")
    return 0
