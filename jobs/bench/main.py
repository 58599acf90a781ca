"""`longtake bench`: measure what the design promises, and say by what it was measured."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Protocol

from longtake.jobs.bench import ask, binaries, compare, index, kernels, memory, model, step

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers

EXAMPLES = """\
examples:
  longtake bench index                        made videos: what a whole job costs beside decoding and encoding alone
  longtake bench index film.webm --out index.json
  longtake bench ask                          answering from an index beside indexing again
  longtake bench ask --model vlm:Qwen3.5-0.8B --frames 64,256     the same beside the plain call of transformers
  longtake bench memory film.webm             memory on an hour of video beside five minutes
  longtake bench kernels --op token_summary   a Triton program beside torch.compile and the GPU's own limits
  longtake bench model --preset base          encoding and combining, by the length of a video
  longtake bench step --lanes 16              a step of the Token Turing Machine
  longtake bench compare A.json B.json        two runs of that beside each other
  longtake bench binaries --target sm_90      registers, spills and shared memory, without a GPU

Each one checks that all ways give the same before it reads the clock, and prints what it measured; --out keeps it as
JSON with the machine, the versions and the commit.
"""


class Bench(Protocol):
    """What a module of a benchmark holds."""

    def add_parser(self, subparsers: Any) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


# The benchmarks of the shipped model: they take its name, and write one file.
MODEL_BENCHES: dict[str, Bench] = {"index": index, "ask": ask, "memory": memory}
KERNEL_BENCHES: dict[str, Bench] = {
    "kernels": kernels,
    "model": model,
    "step": step,
    "compare": compare,
    "binaries": binaries,
}
BENCHES = {**MODEL_BENCHES, **KERNEL_BENCHES}


def add_parser(subparsers: Subparsers) -> None:
    """Add `bench` to the command line."""
    parser = subparsers.add_parser(
        "bench",
        help="measure speed and memory",
        description="Measure what indexing, asking and the kernels cost on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benches = parser.add_subparsers(dest="bench", metavar="WHAT", required=True, title="benchmarks")
    for name, module in BENCHES.items():
        module.add_parser(benches)
        bench = benches.choices[name]
        if name in MODEL_BENCHES:
            bench.add_argument("--model", default="tiny", metavar="M", help="shipped model, directory, or vlm:PATH")
            bench.add_argument("--out", metavar="FILE", help="write the figures there, as JSON")
        bench.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )


def run(args: argparse.Namespace) -> int:
    """Run one of them."""
    return BENCHES[args.bench].run(args)
