"""Made videos as real files: the world's pictures and sound in an MP4 (H.264 and AAC), and questions as JSON lines."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import av
import numpy as np

from longtake.operators.errors import InputError
from longtake.operators.world.pictures import render_pictures
from longtake.operators.world.questions import KINDS, NOTHING, Question, ask, random_span, sentence
from longtake.operators.world.script import BEAT_S, Script, write_script
from longtake.operators.world.sounds import SAMPLE_RATE_HZ, render_sound
from longtake.pipeline import evaluation

Spoil = Literal["nothing", "sound_order", "pictures"]

PICTURES_PER_S = 8
# A part of a video is rendered at a time, so that memory does not grow with its length.
PART_BEATS = 16
BEAT_SAMPLES = round(BEAT_S * SAMPLE_RATE_HZ)


@dataclass(frozen=True, kw_only=True)
class WorldOptions:
    """What `longtake world` writes. `snippets` are beats of one second with 8 pictures each: 64 are 512 pictures."""

    out: Path
    videos: int
    snippets: int = 64
    seed: int = 0
    width: int = 192
    height: int = 144
    questions_per_kind: int = 2
    bitrate: int = 300_000
    # What is spoilt, to see that answers depend on it; scripts and questions stay the same.
    spoil: Spoil = "nothing"

    def __post_init__(self) -> None:
        if self.videos < 1 or self.snippets < 1:
            raise InputError(f"a world needs at least 1 video of 1 snippet, not {self.videos} of {self.snippets}")
        if self.width % 2 or self.height % 2 or min(self.width, self.height) < 48:
            raise InputError(f"pictures of {self.width} x {self.height}: even sides of at least 48 are wanted")
        if self.questions_per_kind < 0 or self.bitrate < 1:
            raise InputError(
                f"{self.questions_per_kind} questions a kind at {self.bitrate} bit/s: at least 0 and 1 are wanted"
            )
        if self.spoil not in get_args(Spoil):
            raise InputError(f"what is spoilt is one of {', '.join(get_args(Spoil))}, not {self.spoil!r}")


@dataclass(frozen=True, kw_only=True)
class WorldSummary:
    """What was written, and what a guesser would score on it."""

    videos: int
    questions: int
    by_kind: dict[str, int]
    # For each kind, the shares of right answers of the majority guess and of the question-only guess.
    guesses: dict[str, tuple[float, float]]


def write_world(options: WorldOptions, on_video: Callable[[int], None] | None = None) -> WorldSummary:
    """Write `vNNNN.mp4` files and `questions.jsonl` into `options.out`.

    The same options give the same videos and questions. Besides each kind over the whole video, half as many
    questions of every kind are about a span.

    Raises:
        InputError: the folder holds a world already, or cannot be made. The questions are written last: videos without
            them are what an interrupted run left, and are written over.
    """
    out = options.out
    path = out / "questions.jsonl"
    if path.exists():
        raise InputError(f"{path}: is there already; choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot make this folder: {error.strerror}") from error
    rng = random.Random(f"world {options.seed}")
    rows: list[dict[str, Any]] = []
    balance = Balance()
    for number in range(options.videos):
        script = write_script(rng.randrange(2**62), options.snippets)
        name = f"v{number:04d}.mp4"
        write_video(script, out / name, options)
        drawn = draw_balanced(rng, script, options.questions_per_kind, balance)
        rows += [question_row(name, question) for question in drawn]
        if on_video is not None:
            on_video(number + 1)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return WorldSummary(
        videos=options.videos,
        questions=len(rows),
        by_kind=dict(Counter(row["kind"] for row in rows)),
        guesses=_guess_scores(rows),
    )


def write_video(script: Script, path: Path, options: WorldOptions) -> None:
    """Write a script as an MP4 at 8 pictures a second with mono AAC sound at 16 kHz."""
    width, height = options.width, options.height
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=Fraction(PICTURES_PER_S))
        video.width, video.height, video.pix_fmt, video.bit_rate = width, height, "yuv420p", options.bitrate
        video.options = {"preset": "veryfast", "threads": "1"}
        audio = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        audio.bit_rate = 64_000
        wave = render_sound(script)
        if options.spoil == "sound_order":
            # Every beat's sound is kept whole, at another beat.
            order = random.Random(script.seed).sample(range(script.beats), script.beats)
            wave = np.concatenate([wave[beat * BEAT_SAMPLES : (beat + 1) * BEAT_SAMPLES] for beat in order])
        picture, sample = 0, 0
        for first in range(0, script.beats, PART_BEATS):
            last = min(script.beats, first + PART_BEATS)
            times = [(n + 0.5) / PICTURES_PER_S for n in range(first * PICTURES_PER_S, last * PICTURES_PER_S)]
            pictures = render_pictures(script, times, height, width).numpy()
            if options.spoil == "pictures":
                pictures[:] = 0
            for pixels in pictures:
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = picture, Fraction(1, PICTURES_PER_S)
                picture += 1
                container.mux(video.encode(frame))
            stop = last * SAMPLE_RATE_HZ
            block = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[None, sample:stop]), "fltp", "mono")
            block.sample_rate, block.pts, block.time_base = SAMPLE_RATE_HZ, sample, Fraction(1, SAMPLE_RATE_HZ)
            sample = stop
            container.mux(audio.encode(block))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


class Balance:
    """Keeps answers even over a whole set: of several drawn questions, the one whose answer was rarest so far."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str, str]] = Counter()

    def choose(self, drawn: Sequence[Question]) -> Question:
        """The question to keep; it is counted."""
        question = min(drawn, key=lambda q: self.seen[self._slot(q)])
        self.seen[self._slot(question)] += 1
        return question

    @staticmethod
    def _slot(question: Question) -> tuple[str, str, str]:
        # Questions of one form ("which colour ...") have one set of answers.
        form = " ".join(question.text.split()[:2])
        return (question.kind, form if question.kind != "count" else "", question.answer)


def draw_balanced(rng: random.Random, script: Script, per_kind: int, balance: Balance) -> list[Question]:
    """`per_kind` questions of each kind about the whole video, and half as many (rounded up) about spans."""
    kept: list[Question] = []
    for kind in KINDS:
        for number in range(per_kind + (per_kind + 1) // 2):
            drawn = []
            for _ in range(60):
                span = random_span(rng, script) if number >= per_kind else None
                question = ask(rng, script, kind, span)
                if question is not None and question not in kept:
                    drawn.append(question)
                # "Nothing" keeps the share that drawing gives it: only the others compete for rarity.
                if drawn and (drawn[0].answer == NOTHING or len(drawn) == 4):
                    break
            candidates = [q for q in drawn if (q.answer == NOTHING) == (drawn[0].answer == NOTHING)]
            if candidates:
                kept.append(balance.choose(candidates))
    return kept


def question_row(video: str, question: Question) -> dict[str, Any]:
    """A question as a row of `questions.jsonl`; `moments` are all spans of seconds that prove the answer."""
    moments = question.moments
    return {
        "video": video,
        "question": sentence(question.text),
        "answer": question.answer,
        "kind": question.kind,
        "start_s": moments[0][0] if moments else None,
        "stop_s": moments[-1][1] if moments else None,
        "moments": [list(moment) for moment in moments],
        "from_s": question.from_s,
        "to_s": question.to_s,
    }


def _guess_scores(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """For each kind the shares that the majority guess and the question-only guess get right."""
    asked = [evaluation.Question(**{k: row[k] for k in ("video", "question", "answer", "kind")}) for row in rows]
    hits: dict[str, list[tuple[bool, bool]]] = {}
    for question, constant, blind in zip(
        asked, evaluation.majority_guesses(asked), evaluation.question_only_guesses(asked), strict=True
    ):
        truth = evaluation.normalise(question.answer)
        hits.setdefault(question.kind, []).append((constant == truth, blind == truth))
    return {
        kind: (sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs))
        for kind, pairs in hits.items()
    }
