"""`longtake world`: made videos whose truth is known, with questions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers

EXAMPLES = """\
examples:
  longtake world --out world --videos 20                        20 videos of 512 pictures each, with sound
  longtake world --out world --videos 2 --snippets 256 --seed 7 longer ones: 2,048 pictures each
  longtake world --out deaf --videos 20 --spoil sound_order     the same, each beat's sound at another beat
  longtake world --out real --pictures pictures --sounds sounds your own pictures and recordings
  longtake world --out test --pictures pictures --sounds sounds --split test --hold-out-voice anna --seed 1
                                                                of them, what no training with this voice out uses

A folder of pictures holds a folder for each label with PNG or JPEG files; a folder of sounds likewise, with short WAV,
FLAC or OGG files named speaker_take. DIR gets v0000.mp4, v0001.mp4, ... (H.264 and AAC) and questions.jsonl; index DIR,
then `longtake evaluate` it.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `world` to the command line."""
    parser = subparsers.add_parser(
        "world",
        help="write made videos whose truth is known, and questions about them",
        description="Write MP4 files of a made world (shapes and sounds, or your pictures and words) and questions.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="where to write; must not hold a world yet")
    parser.add_argument("--videos", metavar="N", type=int, default=20, help="how many videos (20)")
    parser.add_argument(
        "--snippets", metavar="N", type=int, default=64, help="length of each, in snippets of 1 s and 8 pictures (64)"
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="another seed gives other videos (0)")
    drawn = "(192 x 144; drawn for each video with --pictures)"
    parser.add_argument("--width", metavar="W", type=int, help=f"picture width {drawn}")
    parser.add_argument("--height", metavar="H", type=int, help=f"picture height {drawn}")
    parser.add_argument("--bitrate", metavar="B", type=int, help="bit/s of the pictures (300,000; likewise)")
    parser.add_argument("--pictures", metavar="DIR", help="a folder of labelled folders of pictures to show")
    parser.add_argument("--sounds", metavar="DIR", help="a folder of labelled folders of recorded words to say")
    parser.add_argument(
        "--split",
        choices=("train", "test", "all"),
        default="all",
        help="which recordings: the first tenth of each voice's takes of a word is for tests only (all)",
    )
    parser.add_argument("--hold-out-voice", metavar="NAME", help="a speaker whose recordings are for tests only")
    parser.add_argument(
        "--questions",
        metavar="N",
        type=int,
        default=2,
        help="questions of each kind a video (2), and half as many on spans",
    )
    parser.add_argument(
        "--spoil",
        choices=("nothing", "sound_order", "pictures"),
        default="nothing",
        help="shuffle the sound between snippets, or blank the pictures, and leave all else as it is",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")


def run(args: argparse.Namespace) -> int:
    """Write the world, then say what a guesser would score on it."""
    import dataclasses

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from longtake.jobs.console import messages, output, percent, print_json, table, warn
    from longtake.pipeline.synthetic.write_videos import WorldOptions, write_world

    options = WorldOptions(
        out=Path(args.out),
        videos=args.videos,
        snippets=args.snippets,
        seed=args.seed,
        width=args.width,
        height=args.height,
        questions_per_kind=args.questions,
        bitrate=args.bitrate,
        spoil=args.spoil,
        pictures=Path(args.pictures) if args.pictures is not None else None,
        sounds=Path(args.sounds) if args.sounds is not None else None,
        split=args.split,
        hold_out_voice=args.hold_out_voice,
    )
    columns = (TextColumn("videos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    say = messages()
    # Where nobody looks, a bar is only empty lines around the messages.
    with Progress(*columns, console=say, transient=True, disable=not say.is_terminal) as progress:
        task = progress.add_task("videos", total=options.videos)
        summary = write_world(options, on_video=lambda done: progress.update(task, completed=done), on_warning=warn)
    if args.json:
        print_json(dataclasses.asdict(summary))
        return 0
    shown = table("kind", "questions", "majority", "question only", right=("questions", "majority", "question only"))
    for kind, count in summary.by_kind.items():
        majority, question_only = summary.guesses[kind]
        shown.add_row(kind, str(count), percent(majority), percent(question_only))
    console = output()
    console.print(shown)
    console.print(f"{summary.videos} videos and {summary.questions} questions in {options.out}")
    return 0
