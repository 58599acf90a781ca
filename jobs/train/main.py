"""`longtake train`: train a model on rows about one's own videos or on made worlds, on the CPU or a GPU."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtake.jobs.train import encoders, from_rows
from longtake.jobs.train.encoders import on_named_encoders

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers
    from longtake.operators.model.config import ModelConfig
    from longtake.operators.synthetic.training.task import Task
    from longtake.operators.synthetic.training.trainer import Plan, Trainer

EXAMPLES = """\
examples:
  longtake train --data rows.jsonl --preset small --out runs/mine     your videos: captions on short stretches first,
                                                                      then questions on whole videos
  longtake train --data rows.jsonl --from tiny --freeze video_encoder,audio_encoder,combiner --out runs/mine
  longtake train --preset tiny --out runs/tiny                        made videos: the shipped model's run
  longtake train --preset tiny --out runs/quick --snippet-steps 200 --long-steps 200 --polish-steps 0
  longtake train --preset small --out runs/small --pictures pictures --sounds sounds --hold-out-voice anna
                                                                      two worlds: the made one, and one of your material
  longtake train --out runs/siglip --video-encoder ~/siglip2-base-patch16-224 --audio-encoder ~/whisper-base

The same command goes on where a run was stopped. DIR gets state.* (to resume), curves.csv, curves.png, and at the end
model/, a checkpoint directory for `longtake index --model`.

A row of FILE is {"video": "a.mp4", "question": "...", "answer": "..."} or {"video": "a.mp4", "caption": "..."}; the
video's path is relative to FILE. "from_s" and "to_s" say which span it is about, "start_s" and "stop_s" where the
proof is; what `longtake world` writes will do. Rows that cannot be used are listed in DIR/skipped.jsonl.

Public encoders (a directory or a hub name) stay as they are. On made worlds their features of the pool's snippets are
computed once, kept in DIR/features, and read by all that learns; with --data they run until the encoders are frozen.
The model names their directories and holds no copy of them.
"""

# Options that mean nothing beside --data.
WORLD_ONLY = (
    *("snippet_steps", "long_steps", "polish_steps", "pool_videos", "features", "pictures", "sounds"),
    *("hold_out_voice", "encoders_from"),
)


def add_parser(subparsers: Subparsers) -> None:
    """Add `train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train a model on your own videos, or on made worlds",
        description="Train on rows about your videos, or on made ones: snippets first, then whole videos.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", metavar="FILE", help="learn from the rows of this JSONL, about your videos, not from made worlds"
    )
    parser.add_argument("--preset", metavar="NAME", help="the model's size: tiny or small (tiny)")
    parser.add_argument("--out", metavar="DIR", required=True, help="the run's folder; a stopped run in it goes on")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="fixes weights and data (0)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (auto)")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="processes that render or decode (1)")
    parser.add_argument("--stop-after", metavar="N", type=int, help="stop after so many steps; run again to go on")
    encoders.add_options(parser)
    from_rows.add_options(parser)
    _add_world_options(parser)


def _add_world_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("without --data")
    group.add_argument("--snippet-steps", metavar="N", type=int, help="steps on single snippets, encoders and combiner")
    group.add_argument(
        "--long-steps", metavar="N", type=int, help="steps on long videos, latent model and text decoder"
    )
    group.add_argument("--polish-steps", metavar="N", type=int, help="steps on the longest videos, at a lower rate")
    group.add_argument(
        "--pool-videos", metavar="N", type=int, help="made videos whose snippets long videos are made of"
    )
    group.add_argument(
        "--encoders-from", metavar="MODEL", help="take encoders and combiner of this model; train what reads them"
    )
    group.add_argument("--pictures", metavar="DIR", help="learn from these pictures too (see `longtake world`)")
    group.add_argument("--sounds", metavar="DIR", help="... and from these recorded words, but the tests' tenth")
    group.add_argument("--hold-out-voice", metavar="NAME", help="a speaker whose recordings are not learned from")
    group.add_argument(
        "--features", metavar="DIR", help="where stored beats and public encoders' features are kept (OUT/features)"
    )


def run(args: argparse.Namespace) -> int:
    """Train, with a progress bar; draw the curves at the end."""
    if args.data is not None:
        _refuse(args, WORLD_ONLY, "without --data")
        return from_rows.run(args)
    _refuse(args, from_rows.OPTIONS, "with --data")
    from longtake.errors import InputError
    from longtake.jobs.train.progress import choose_device, train_with_progress
    from longtake.operators.model import presets
    from longtake.operators.synthetic.training.plans import TURNS, small_plan
    from longtake.operators.synthetic.training.trainer import Plan

    try:
        config = presets.by_name(args.preset or "tiny")
    except ValueError as error:
        raise InputError(str(error)) from error
    for option in ("snippet_steps", "long_steps", "polish_steps", "workers"):
        value = getattr(args, option)
        if value is not None and value < 0:
            raise InputError(f"--{option.replace('_', '-')} must be at least 0, not {value}")
    for option in ("pool_videos", "stop_after"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise InputError(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    tasks = _tasks(args)
    plan = small_plan(args.seed, len(tasks)) if args.preset == "small" else Plan(seed=args.seed)
    if len(tasks) > 1:
        plan = dataclasses.replace(plan, turns=TURNS)
    for name in ("snippet_steps", "long_steps", "polish_steps"):
        if getattr(args, name) is not None:
            plan = dataclasses.replace(plan, **{name: getattr(args, name)})
    if args.pool_videos is not None:
        plan = dataclasses.replace(plan, pool=dataclasses.replace(plan.pool, videos=args.pool_videos))
        if plan.stored is not None:
            plan = dataclasses.replace(plan, stored=dataclasses.replace(plan.stored, videos=args.pool_videos))
    out = Path(args.out)
    trainer = _trainer(args, config, plan, tasks, out, choose_device(args.device))
    train_with_progress(trainer, out, args.stop_after)
    return 0


def _refuse(args: argparse.Namespace, options: Sequence[str], where: str) -> None:
    from longtake.errors import InputError

    for name in options:
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is for training {where}")


def _tasks(args: argparse.Namespace) -> list[Task[Any]]:
    """The worlds to learn from: the built-in one, and one of the material that the options name."""
    from longtake.errors import InputError
    from longtake.jobs.console import warn
    from longtake.operators.synthetic.training.recorded_task import RecordedTask, many_voices
    from longtake.operators.synthetic.training.shapes_task import BUILT_IN_COURSE

    if (args.pictures is None) != (args.sounds is None):
        raise InputError("a world of real material needs both --pictures and --sounds")
    if args.pictures is None:
        if args.hold_out_voice is not None:
            raise InputError("--hold-out-voice is of recordings; name them with --pictures and --sounds")
        return [BUILT_IN_COURSE]
    # Decodes sound: the built-in world trains where no decoder is installed.
    from longtake.pipeline.synthetic.read_material import read_material

    material = read_material(Path(args.pictures), Path(args.sounds), warn).split("train", args.hold_out_voice)
    return [BUILT_IN_COURSE, RecordedTask(many_voices(material))]


def _trainer(
    args: argparse.Namespace, config: ModelConfig, plan: Plan, tasks: list[Task[Any]], out: Path, device: str
) -> Trainer:
    """The run that the options ask for: on the preset's own encoders, or on public ones."""
    from longtake.errors import InputError
    from longtake.operators.model.checkpoint import load_model
    from longtake.operators.synthetic.training.cached_trainer import StoredTrainer
    from longtake.operators.synthetic.training.trainer import Trainer

    named = on_named_encoders(config, args)
    own = named is config
    settings: dict[str, Any] = {"tasks": tasks, "device": device, "workers": args.workers}
    if args.encoders_from is not None:
        if args.snippet_steps is not None or args.video_encoder is not None or args.audio_encoder is not None:
            raise InputError("--encoders-from takes encoders that have learned; nothing else can be said of them")
        settings["encoders"] = load_model(args.encoders_from)
    if own and plan.stored is None:
        if args.features is not None:
            raise InputError("--features keeps what public encoders see; name one with --video-encoder")
        return Trainer(config, plan, out, **settings)
    if not own:
        plan = dataclasses.replace(plan, stored=None, varied=False)
    features = None if args.features is None else Path(args.features)
    return StoredTrainer(named, plan, out, features=features, **settings)
