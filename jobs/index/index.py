"""`longtake index`: from video files to an index, with live progress."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from longtake.errors import InputError

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers
    from longtake.pipeline.indexing.index import IndexOptions

EXAMPLES = """\
examples:
  longtake index ~/videos --into archive.lt                  every video of a folder and its subfolders
  longtake index a.mp4 b.mkv list.txt '/data/**/*.mp4' --into archive.lt
  longtake index lecture.mp4 --into archive.lt --frames 512  512 frames spread over each video
  longtake index ~/videos --into archive.lt --rate 4         4 frames a second
  longtake index ~/videos --into archive.lt --json > summary.json
  longtake index ~/videos --into archive.lt --model vlm:Qwen3.5-0.8B      with a public model, 16 tokens a picture
  longtake index ~/videos --into archive.lt --model vlm:Qwen3.5-0.8B --combiner merge --tokens-per-snippet 64
  longtake index /mnt/archive --into /mnt/archive.lt --ray-address auto   on the cluster that this machine is part of

What is indexed already is skipped, and a stopped job goes on where it was: give the same command again. Ctrl-C keeps
what is whole. A video that cannot be read is listed (see `longtake failures`) and does not stop the job; the exit code
is 0 all the same, and 1 with --strict.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `index` to the command line."""
    parser = subparsers.add_parser(
        "index",
        help="index videos, once",
        description="Decode videos with picture and sound, compress them to tokens and keep these in an index.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="video, folder, text list of paths (.txt), or glob")
    add_options(parser)
    parser.add_argument("--strict", action="store_true", help="exit with 1 when anything failed")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def add_options(parser: argparse.ArgumentParser, *, on_cluster: bool = False) -> None:
    """The options that say how to index; `submit` has them too, but for the address of its own cluster."""
    parser.add_argument("--into", required=True, metavar="INDEX", help="directory to write to")
    sampling = parser.add_mutually_exclusive_group()
    sampling.add_argument("--rate", type=float, metavar="R", help="frames a second (default: what the model is for)")
    sampling.add_argument("--frames", type=int, metavar="N", help="this many frames, spread over each video")
    parser.add_argument(
        "--model", metavar="M", help="shipped model, directory, or vlm:PATH (default: the index's own, or tiny)"
    )
    parser.add_argument(
        "--reader",
        choices=("auto", "decord", "pyav"),
        default="auto",
        help="what decodes: decord where it is exact and PyAV elsewhere (auto), or one of them",
    )
    if not on_cluster:
        parser.add_argument(
            "--ray-address", metavar="A", help="a Ray cluster's address, or auto (default: this machine)"
        )
    parser.add_argument("--lanes", type=int, metavar="N", help="videos encoded side by side")
    parser.add_argument("--decoders", type=int, metavar="N", help="decoding processes")
    parser.add_argument(
        "--tokens",
        dest="token_store",
        choices=("int8", "bfloat16", "float32"),
        help="how tokens are stored: in a quarter of the room, in half of it, or unrounded (default: the index's own, "
        "or int8)",
    )
    public = parser.add_argument_group("public models (--model vlm:PATH)")
    public.add_argument(
        "--combiner",
        choices=("pool", "merge", "drop", "none"),
        help="what compresses a snippet's tokens, without training (default: the index's own, or pool)",
    )
    public.add_argument(
        "--tokens-per-snippet",
        type=int,
        metavar="N",
        help="tokens that a snippet of 8 pictures keeps (default: the index's own, or 128: 16 a picture)",
    )
    parser.add_argument("--rebuild", action="store_true", help="throw away what the index holds and start anew")


def options_from(args: argparse.Namespace, *, retry_failures: bool = False) -> IndexOptions:
    """What the command line asks for.

    Raises:
        InputError: a number is out of range.
    """
    from longtake.pipeline.indexing.index import IndexOptions
    from longtake.pipeline.indexing.model import Compression
    from longtake.pipeline.media.plan import Sampling

    for name in ("lanes", "decoders"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, not {value}")
    try:
        given = args.rate is not None or args.frames is not None
        sampling = Sampling(rate_hz=args.rate, frames=args.frames) if given else None
    except ValueError as error:
        raise InputError(str(error)) from error
    return IndexOptions(
        into=args.into,
        sampling=sampling,
        model=_model(args),
        reader=args.reader,
        lanes=args.lanes,
        decoders=args.decoders,
        token_store=args.token_store,
        compression=Compression(combiner=args.combiner, tokens=args.tokens_per_snippet),
        ray_address=args.ray_address,
        rebuild=args.rebuild,
        retry_failures=retry_failures,
    )


def absolute_model(model: str) -> str:
    """A model's name, with its directory as an absolute path where it names one."""
    from longtake.pipeline.table.metadata import VLM_PREFIX, is_vlm, vlm_path

    folder = Path(vlm_path(model)).expanduser()
    return (VLM_PREFIX if is_vlm(model) else "") + str(folder.absolute()) if folder.is_dir() else model


def _model(args: argparse.Namespace) -> str:
    """The model that is asked for, else the one that wrote the index, else the shipped one."""
    from longtake.pipeline.table.metadata import IndexMetadata
    from longtake.pipeline.table.schema import open_table

    if args.model is not None:
        # The index keeps this name, and is asked from other places.
        return absolute_model(args.model)
    table = None if args.rebuild else open_table(args.into, "snippets")
    return "tiny" if table is None else IndexMetadata.from_schema(table.schema.metadata, args.into).model


def run(args: argparse.Namespace) -> int:
    """Index, show how it goes, sum up."""
    from longtake.jobs.index.progress import run_with_progress

    return run_with_progress(args.paths, options_from(args), strict=args.strict, as_json=args.json)
