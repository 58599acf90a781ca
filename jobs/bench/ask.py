"""`longtake bench ask`: the time to answer from an index, beside indexing again and answering."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from longtake.errors import LongTakeError

if TYPE_CHECKING:
    from longtake.operators.model.answering import Answer, Answerer
    from longtake.pipeline.answering.question import VideoAnswer
    from longtake.pipeline.media.probe import MediaInfo

TARGET = 50.0
FRAMES = 512
REPEATS = 3


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench ask`."""
    parser = subparsers.add_parser(
        "ask",
        help="answering from the index beside indexing again",
        description=(
            "Index one video with 512 frames, then answer questions from the index, and by reading, encoding and "
            "answering again. Both ways must give the same answers before they are timed. With a public model (--model "
            "vlm:PATH) answering from the index stands beside the plain call of transformers on the same frames."
        ),
    )
    parser.add_argument("video", nargs="?", metavar="VIDEO", help="which (default: a made one)")
    parser.add_argument(
        "--frames", default="64,256,1024", metavar="N,N", help="public models: how many frames (64,256,1024)"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="public models: threads of each way (1)")


def run(args: argparse.Namespace) -> int:
    """Measure, print, keep."""
    from longtake.jobs.bench import ask_vlm
    from longtake.pipeline.table.metadata import is_vlm

    if is_vlm(args.model):
        return ask_vlm.run(args)
    import torch

    import longtake
    from longtake.jobs.bench.index import make_clips
    from longtake.jobs.bench.record import write_record
    from longtake.jobs.console import messages, output
    from longtake.jobs.demo.questions import GENERAL
    from longtake.operators.model.answering import Answerer
    from longtake.operators.model.checkpoint import load_model
    from longtake.pipeline.indexing.index import IndexOptions, index
    from longtake.pipeline.media.plan import Sampling
    from longtake.pipeline.media.probe import probe

    # A model of this size gains nothing from threads, and two ways that wait for each other's threads tell nothing.
    torch.set_num_threads(1)
    say = messages()
    model = str(Path(args.model).absolute()) if Path(args.model).is_dir() else args.model
    with tempfile.TemporaryDirectory(prefix="longtake-bench-") as name:
        folder = Path(name)
        video = Path(args.video) if args.video else make_clips(folder, 1)[0]
        info = probe(video)
        say.print(f"indexing {video.name}")
        options = IndexOptions(into=str(folder / "index.lt"), sampling=Sampling(frames=FRAMES), model=model)
        began = time.perf_counter()
        summary = index([str(video)], options)
        job_s = time.perf_counter() - began
        if summary.failed or summary.frames != FRAMES:
            raise LongTakeError(f"{video}: {summary.frames} frames were indexed, and {FRAMES} are wanted")
        answerer = Answerer(load_model(model))
        say.print("checking that both ways give the same")
        opened = longtake.open_index(options.into)
        require_same(
            [opened.ask(question)[0] for question in GENERAL],
            _again(answerer, info, GENERAL),
        )
        say.print("timing")
        again_s = [_timed(lambda: _again(answerer, info, GENERAL[:1])) for _ in range(REPEATS)]
        first_s = [_timed(lambda: longtake.open_index(options.into).ask(GENERAL[0])) for _ in range(REPEATS)]
        kept_s = [_timed(partial(opened.ask, question)) for _ in range(REPEATS) for question in GENERAL]
    figures = make_figures(job_s, summary.startup_s, median(again_s), median(first_s), median(kept_s))
    figures = {"input": {"video": video.name, "frames": FRAMES, "snippets": summary.snippets, "threads": 1}, **figures}
    write_record(args.out, "ask", figures)
    output().print(summarise(figures))
    return 0


def _timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _again(answerer: Answerer, info: MediaInfo, questions: Sequence[str]) -> list[Answer]:
    """Read, encode and answer, in this process and with its weights: what an answer costs without an index."""
    import torch

    from longtake.kernels.token_codec.op import decode, encode
    from longtake.operators.model.snippet_encoder import SnippetEncoder
    from longtake.pipeline.bench.bare_stages import encode_snippet
    from longtake.pipeline.media.plan import Sampling
    from longtake.pipeline.media.snippet import Snippet
    from longtake.pipeline.media.snippets import read_snippets

    encoder = SnippetEncoder(answerer.loaded.model, lanes=1)
    memory = encoder.initial_memory()[None]
    rows = []
    for item in read_snippets(info, answerer.loaded.config, Sampling(frames=FRAMES)):
        if isinstance(item, Snippet):
            tokens_mD, memory = encode_snippet(encoder, item, memory)
            rows.append(tokens_mD)
    # Rounded as in an index, since both ways have to give the same.
    latents_TmD = answerer.latents(decode(*encode(torch.stack(rows))))
    return [answerer.answer(latents_TmD, question) for question in questions]


def require_same(kept: Sequence[VideoAnswer], again: Sequence[Answer]) -> None:
    """Refuse to time two ways that answer differently.

    Raises:
        LongTakeError: an answer differs, or its probability by more than 1e-4.
    """
    for one, other in zip(kept, again, strict=True):
        if one.answer != other.text or abs(one.probability - other.probability) > 1e-4:
            raise LongTakeError(
                f"{one.question!r}: {one.answer!r} ({one.probability:.6f}) from the index, and {other.text!r} "
                f"({other.probability:.6f}) by indexing again: nothing to compare"
            )


def make_figures(job_s: float, startup_s: float, again_s: float, first_s: float, kept_s: float) -> dict[str, Any]:
    """The times and their ratios.

    Args:
        job_s: a whole indexing job, Ray's start of `startup_s` included.
        again_s: reading, encoding and answering in one warm process, the least that no index can undercut.
        first_s: a first question to an index: opening it, loading weights, computing the video's latents, answering.
        kept_s: a further question, with the latents kept.
    """
    return {
        "index_job_s": round(job_s, 3),
        "index_job_startup_s": round(startup_s, 3),
        "again_and_answer_s": round(again_s, 4),
        "first_answer_s": round(first_s, 4),
        "further_answer_s": round(kept_s, 5),
        "ratio": round(again_s / kept_s, 1),
        "ratio_first_answer": round(again_s / first_s, 1),
        "ratio_job_first_answer": round((job_s + first_s) / first_s, 1),
        "target_ratio": TARGET,
    }


def summarise(figures: dict[str, Any]) -> str:
    """The figures for a person."""
    verdict = "met" if figures["ratio"] >= figures["target_ratio"] else "missed"
    return "\n".join(
        (
            f"input                     {figures['input']['video']}: {figures['input']['frames']} frames in "
            f"{figures['input']['snippets']} snippets",
            f"read, encode and answer   {1000 * figures['again_and_answer_s']:.0f} ms in a warm process; as a job "
            f"{figures['index_job_s']:.1f} s, of which {figures['index_job_startup_s']:.1f} s start up",
            f"first answer from index   {1000 * figures['first_answer_s']:.1f} ms (with weights and latents): "
            f"{figures['ratio_first_answer']:.0f} x faster, {figures['ratio_job_first_answer']:.0f} x faster than the"
            " job",
            f"further answers           {1000 * figures['further_answer_s']:.1f} ms: {figures['ratio']:.0f} x faster "
            f"(at least {figures['target_ratio']:.0f} wanted: {verdict})",
        )
    )
