"""`longtake submit`: index an archive as a batch job on a Ray cluster."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

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


def add_address(parser: argparse.ArgumentParser) -> None:
    """The option that says which cluster; all commands about batch jobs have it."""
    parser.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's job server (default: $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS, else http://127.0.0.1:8265)",
    )


def add_parser(subparsers: Subparsers) -> None:
    """Add `submit` to the command line."""
    parser = subparsers.add_parser(
        "submit",
        help="index an archive as a batch job on a Ray cluster",
        description="Hand an indexing job to a Ray cluster and return; the job goes on without this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="video, folder, text list of paths (.txt), or glob")
    add_options(parser, on_cluster=True)
    parser.add_argument("--strict", action="store_true", help="the job fails when any video does")
    parser.add_argument("--python", metavar="P", help="Python of the cluster's machines (default: this one's path)")
    add_address(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
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
