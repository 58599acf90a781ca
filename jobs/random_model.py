"""`longtake random-model`: a tiny public model with random weights, to try things on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers

EXAMPLES = """\
examples:
  longtake random-model qwen3_5 tiny-qwen
  longtake random-model llava_onevision tiny-llava --side 216 --width 896    196 wide tokens a picture
  longtake index film.mp4 --into film.lt --model vlm:tiny-qwen
  longtake ask film.lt "what is shown?"                            the answer is nonsense, the way to it is real

The directory holds all that a published one does, and nothing is downloaded.
FAMILY is qwen3_5, qwen3_5_moe, llava_onevision, qwen2_5_omni or qwen2_5_vl.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `random-model` to the command line."""
    parser = subparsers.add_parser(
        "random-model",
        help="write a tiny public model with random weights, to try things on",
        description="Write a tiny vision-language model of a class that LongTake knows, with random weights.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("family", metavar="FAMILY", help="which class of models")
    parser.add_argument("directory", metavar="DIR", help="where to write; must not hold anything yet")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="another seed gives other weights (0)")
    parser.add_argument(
        "--side", metavar="P", type=int, default=40, help="of llava_onevision's pictures, in pixels (40)"
    )
    parser.add_argument("--width", metavar="D", type=int, default=32, help="of llava_onevision's tokens (32)")


def run(args: argparse.Namespace) -> int:
    """Write it."""
    from longtake.jobs.console import output
    from longtake.operators.hub.random_model import write_random_vlm

    folder = write_random_vlm(args.directory, args.family, seed=args.seed, side=args.side, width=args.width)
    output().print(f"{args.family} with random weights in {folder}; use it with --model vlm:{folder}")
    return 0
