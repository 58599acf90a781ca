"""`longtake train`: train a model on made worlds, on the CPU or a GPU."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longtake.jobs.main import Subparsers
    from longtake.operators.config import ModelConfig, PretrainedConfig
    from longtake.operators.training.course import Course
    from longtake.operators.training.trainer import Plan, Trainer

EXAMPLES = """\
examples:
  longtake train --preset tiny --out runs/tiny                  the shipped model's run, some 90 minutes on two cores
  longtake train --preset tiny --out runs/tiny                  again: goes on where it was stopped
  longtake train --preset tiny --out runs/quick --snippet-steps 200 --long-steps 200 --polish-steps 0
  longtake index world --into world.lt --model runs/tiny/model
  longtake train --preset small --out runs/small --pictures pictures --sounds sounds --hold-out-voice anna
                                                                two worlds: the made one, and one of your material
  longtake train --out runs/siglip --video-encoder ~/siglip2-base-patch16-224 --audio-encoder ~/whisper-base

DIR gets state.* (to resume), curves.csv, curves.png, and at the end model/, a checkpoint directory.

Public encoders (a directory or a hub name) stay as they are: their features of the pool's snippets are computed once,
kept in DIR/features, and read by all that learns. The model names their directories and holds no copy of them.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train a model on made worlds",
        description="Train on made videos rendered straight to tensors: single snippets first, then long videos.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", metavar="NAME", default="tiny", help="the model's size: tiny or small (tiny)")
    parser.add_argument("--out", metavar="DIR", required=True, help="the run's folder; a stopped run in it goes on")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="fixes weights and data (0)")
    parser.add_argument(
        "--snippet-steps", metavar="N", type=int, help="steps on single snippets, encoders and combiner"
    )
    parser.add_argument(
        "--long-steps", metavar="N", type=int, help="steps on long videos, latent model and text decoder"
    )
    parser.add_argument("--polish-steps", metavar="N", type=int, help="steps on the longest videos, at a lower rate")
    parser.add_argument(
        "--pool-videos", metavar="N", type=int, help="made videos whose snippets long videos are made of"
    )
    for part, what in (("video", "SigLIP, CLIP, DINOv3 or V-JEPA 2"), ("audio", "Whisper, CLAP or AST")):
        parser.add_argument(f"--{part}-encoder", metavar="PATH", help=f"a public encoder, frozen: {what}")
        parser.add_argument(
            f"--{part}-layer",
            metavar="N",
            type=int,
            help="which of its hidden states, -1 the one behind the last layer",
        )
    parser.add_argument("--pictures", metavar="DIR", help="learn from these pictures too (see `longtake world`)")
    parser.add_argument("--sounds", metavar="DIR", help="... and from these recorded words, but the tests' tenth")
    parser.add_argument("--hold-out-voice", metavar="NAME", help="a speaker whose recordings are not learned from")
    parser.add_argument(
        "--features", metavar="DIR", help="where stored beats and public encoders' features are kept (OUT/features)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (auto)")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="processes that render (1)")
    parser.add_argument("--stop-after", metavar="N", type=int, help="stop after so many steps; run again to go on")


def run(args: argparse.Namespace) -> int:
    """Train, with a progress bar; draw the curves at the end."""
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from longtake.jobs.console import messages, output
    from longtake.operators import presets
    from longtake.operators.errors import InputError
    from longtake.operators.training.curves import draw_curves
    from longtake.operators.training.plans import TURNS, small_plan
    from longtake.operators.training.run import Report
    from longtake.operators.training.trainer import Plan

    try:
        config = presets.by_name(args.preset)
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
    courses = _courses(args)
    plan = small_plan(args.seed, len(courses)) if args.preset == "small" else Plan(seed=args.seed)
    if len(courses) > 1:
        plan = dataclasses.replace(plan, turns=TURNS)
    for name in ("snippet_steps", "long_steps", "polish_steps"):
        if getattr(args, name) is not None:
            plan = dataclasses.replace(plan, **{name: getattr(args, name)})
    if args.pool_videos is not None:
        plan = dataclasses.replace(plan, pool=dataclasses.replace(plan.pool, videos=args.pool_videos))
        if plan.stored is not None:
            plan = dataclasses.replace(plan, stored=dataclasses.replace(plan.stored, videos=args.pool_videos))
    cuda = torch.cuda.is_available()
    device = args.device if args.device != "auto" else "cuda" if cuda else "cpu"
    if device not in (("cpu", "cuda") if cuda else ("cpu",)):
        raise InputError(f"--device {device}: this machine can train on {'cpu or cuda' if cuda else 'cpu only'}")
    out = Path(args.out)
    trainer = _trainer(args, config, plan, courses, out, device)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    say = messages()
    # Where nobody looks, a bar is only empty lines around the messages; the curves tell.
    with Progress(*columns, console=say, disable=not say.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def show(report: Report) -> None:
            if report.stage not in tasks:
                tasks[report.stage] = progress.add_task(report.stage, total=report.steps, told="")
            told = "loss {loss:.3f}  right {exact:.0%}".format(**report.values) if report.values else "videos"
            progress.update(tasks[report.stage], completed=report.step, told=told)

        trainer.run(show, stop_after=args.stop_after)
    console = output()
    # A run that was stopped before its first row has none to draw.
    if (out / "curves.csv").is_file():
        console.print(f"curves: {draw_curves(out)}")
    if trainer.stage == "done":
        console.print(f"model: {out / 'model'} ({trainer.seconds / 60:.0f} minutes of training)")
    else:
        console.print(f"stopped in stage {trainer.stage} at step {trainer.step}; the same command goes on")
    return 0


def _courses(args: argparse.Namespace) -> list[Course[Any]]:
    """The worlds to learn from: the built-in one, and one of the material that the options name."""
    from longtake.jobs.console import warn
    from longtake.operators.errors import InputError
    from longtake.operators.training.built_in import BUILT_IN_COURSE
    from longtake.operators.training.real import RealCourse, many_voices

    if (args.pictures is None) != (args.sounds is None):
        raise InputError("a world of real material needs both --pictures and --sounds")
    if args.pictures is None:
        if args.hold_out_voice is not None:
            raise InputError("--hold-out-voice is of recordings; name them with --pictures and --sounds")
        return [BUILT_IN_COURSE]
    # Decodes sound: the built-in world trains where no decoder is installed.
    from longtake.pipeline.world_material import read_material

    material = read_material(Path(args.pictures), Path(args.sounds), warn).split("train", args.hold_out_voice)
    return [BUILT_IN_COURSE, RealCourse(many_voices(material))]


def _trainer(
    args: argparse.Namespace, config: ModelConfig, plan: Plan, courses: list[Course[Any]], out: Path, device: str
) -> Trainer:
    """The run that the options ask for: on the preset's own encoders, or on public ones."""
    from longtake.operators.errors import InputError
    from longtake.operators.training.stored_trainer import StoredTrainer
    from longtake.operators.training.trainer import Trainer

    video, audio = _public(args.video_encoder, args.video_layer), _public(args.audio_encoder, args.audio_layer)
    for part, public in (("video", video), ("audio", audio)):
        if public is None and getattr(args, f"{part}_layer") is not None:
            raise InputError(f"--{part}-layer is of a public encoder; name it with --{part}-encoder")
    settings: dict[str, Any] = {"courses": courses, "device": device, "workers": args.workers}
    own = video is None and audio is None
    if own and plan.stored is None:
        if args.features is not None:
            raise InputError("--features keeps what public encoders see; name one with --video-encoder")
        return Trainer(config, plan, out, **settings)
    if not own:
        from longtake.operators.pretrained.towers import on_public_encoders

        config = on_public_encoders(config, video=video, audio=audio)
        plan = dataclasses.replace(plan, stored=None, varied=False)
    features = None if args.features is None else Path(args.features)
    return StoredTrainer(config, plan, out, features=features, **settings)


def _public(source: str | None, layer: int | None) -> PretrainedConfig | None:
    from longtake.operators.config import PretrainedConfig

    if source is None:
        return None
    # The checkpoint may be used from anywhere: what lies on this machine is named by its full path.
    place = Path(source).expanduser()
    return PretrainedConfig(source=str(place.resolve()) if place.is_dir() else source, layer=layer)
