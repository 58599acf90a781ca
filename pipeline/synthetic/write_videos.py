"""Made videos as real files: the world's pictures and sound in an MP4 (H.264 and AAC), and questions as JSON lines."""

from __future__ import annotations

import dataclasses
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

from longtake.errors import InputError
from longtake.operators.synthetic.questions import NOTHING, Question, Timeline, sentence
from longtake.operators.synthetic.recorded.material import Split
from longtake.operators.synthetic.script import BEAT_S
from longtake.operators.synthetic.sounds import SAMPLE_RATE_HZ
from longtake.operators.synthetic.worlds import BUILT_IN, RealWorld, World
from longtake.pipeline.evaluation import evaluate
from longtake.pipeline.synthetic.read_material import read_material

Spoil = Literal["nothing", "sound_order", "pictures"]

PICTURES_PER_S = 8
# A part of a video is rendered at a time, so that memory does not grow with its length.
PART_BEATS = 16
BEAT_SAMPLES = round(BEAT_S * SAMPLE_RATE_HZ)

WIDTH, HEIGHT, BITRATE = 192, 144, 300_000
# Frames and bitrates of a world of real material, where the options leave them open; square or wider.
REAL_FRAMES = ((96, 96), (128, 96), (128, 128), (160, 96), (160, 120), (176, 144), (192, 108), (224, 128), (224, 224))
REAL_BITRATES = (100_000, 200_000, 400_000, 800_000)
# With its macroblock tree, x264's AVX-512 code gives other files from run to run at some widths (224 is one).
REAL_ENCODER = {"x264-params": "mbtree=0"}


@dataclass(frozen=True, kw_only=True)
class WorldOptions:
    """What `longtake world` writes. `snippets` are beats of one second with 8 pictures each: 64 are 512 pictures.

    `pictures` and `sounds` are folders of material for a world of real material (see `read_material`), of which
    `split` and `hold_out_voice` say what may be used. Left open, frames are 192 x 144 at 300 kbit/s in the built-in
    world, and drawn for each video from `REAL_FRAMES` and `REAL_BITRATES` in one of real material.
    """

    out: Path
    videos: int
    snippets: int = 64
    seed: int = 0
    width: int | None = None
    height: int | None = None
    questions_per_kind: int = 2
    bitrate: int | None = None
    # What is spoilt, to see that answers depend on it; scripts and questions stay the same.
    spoil: Spoil = "nothing"
    pictures: Path | None = None
    sounds: Path | None = None
    split: Split = "all"
    hold_out_voice: str | None = None

    def __post_init__(self) -> None:
        if self.videos < 1 or self.snippets < 1:
            raise InputError(f"a world needs at least 1 video of 1 snippet, not {self.videos} of {self.snippets}")
        width, height, bitrate = self.form(None)
        if width % 2 or height % 2 or min(width, height) < 48:
            raise InputError(f"pictures of {width} x {height}: even sides of at least 48 are wanted")
        if self.questions_per_kind < 0 or bitrate < 1:
            raise InputError(
                f"{self.questions_per_kind} questions a kind at {bitrate} bit/s: at least 0 and 1 are wanted"
            )
        if self.spoil not in get_args(Spoil):
            raise InputError(f"what is spoilt is one of {', '.join(get_args(Spoil))}, not {self.spoil!r}")
        if (self.pictures is None) != (self.sounds is None):
            raise InputError("a world of real material needs both a folder of pictures and one of sounds")
        if self.pictures is None and (self.split != "all" or self.hold_out_voice is not None):
            raise InputError("the built-in world has no splits and no voices; give folders of pictures and sounds")
        if self.pictures is not None and (self.width is None) != (self.height is None):
            raise InputError("give both the width and the height of the frames, or neither")

    def form(self, rng: random.Random | None) -> tuple[int, int, int]:
        """Width, height and bitrate of a video; what is left open is drawn by `rng`, or is the usual without one."""
        width, height, bitrate = WIDTH, HEIGHT, BITRATE
        if rng is not None:
            (width, height), bitrate = rng.choice(REAL_FRAMES), rng.choice(REAL_BITRATES)
        return (
            width if self.width is None else self.width,
            height if self.height is None else self.height,
            bitrate if self.bitrate is None else self.bitrate,
        )


@dataclass(frozen=True, kw_only=True)
class WorldSummary:
    """What was written, and what a guesser would score on it."""

    videos: int
    questions: int
    by_kind: dict[str, int]
    # For each kind, the shares of right answers of the majority guess and of the question-only guess.
    guesses: dict[str, tuple[float, float]]


def write_world(
    options: WorldOptions,
    on_video: Callable[[int], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> WorldSummary:
    """Write `vNNNN.mp4` files and `questions.jsonl` into `options.out`.

    The same options (and the same material) give the same videos and questions. Besides each kind over the whole
    video, half as many questions of every kind are about a span. Files of the material that cannot be used are left
    out, each with a call of `on_warning`.

    Raises:
        InputError: the material cannot be used; or the folder holds a world already, or cannot be made. The questions
            are written last: videos without them are what an interrupted run left, and are written over.
    """
    out = options.out
    path = out / "questions.jsonl"
    if path.exists():
        raise InputError(f"{path}: is there already; choose another folder")
    world: World[Any] = BUILT_IN
    if options.pictures is not None and options.sounds is not None:
        material = read_material(options.pictures, options.sounds, on_warning)
        world = RealWorld(material.split(options.split, options.hold_out_voice))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot make this folder: {error.strerror}") from error
    rng = random.Random(f"world {options.seed}")
    rows: list[dict[str, Any]] = []
    balance = Balance(world)
    for number in range(options.videos):
        script = world.script(rng.randrange(2**62), options.snippets)
        name = f"v{number:04d}.mp4"
        width, height, bitrate = options.form(rng if world is not BUILT_IN else None)
        form = dataclasses.replace(options, width=width, height=height, bitrate=bitrate)
        write_video(script, out / name, form, world)
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


def write_video(script: Timeline, path: Path, options: WorldOptions, world: World[Any] = BUILT_IN) -> None:
    """Write a script of a world as an MP4 at 8 pictures a second with mono AAC sound at 16 kHz."""
    width, height, bitrate = options.form(None)
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=Fraction(PICTURES_PER_S))
        video.width, video.height, video.pix_fmt, video.bit_rate = width, height, "yuv420p", bitrate
        video.options = {"preset": "veryfast", "threads": "1", **({} if world is BUILT_IN else REAL_ENCODER)}
        audio = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        audio.bit_rate = 64_000
        wave = world.sound(script)
        if options.spoil == "sound_order":
            # Every beat's sound is kept whole, at another beat.
            order = random.Random(script.seed).sample(range(script.beats), script.beats)
            wave = np.concatenate([wave[beat * BEAT_SAMPLES : (beat + 1) * BEAT_SAMPLES] for beat in order])
        picture, sample = 0, 0
        for first in range(0, script.beats, PART_BEATS):
            last = min(script.beats, first + PART_BEATS)
            times = [(n + 0.5) / PICTURES_PER_S for n in range(first * PICTURES_PER_S, last * PICTURES_PER_S)]
            pictures = world.pictures(script, times, height, width).numpy()
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

    def __init__(self, world: World[Any] = BUILT_IN) -> None:
        self.world = world
        self.seen: Counter[tuple[str, str, str]] = Counter()

    def choose(self, drawn: Sequence[Question]) -> Question:
        """The question to keep; it is counted."""
        question = min(drawn, key=lambda q: self.seen[self._slot(q)])
        self.seen[self._slot(question)] += 1
        return question

    def _slot(self, question: Question) -> tuple[str, str, str]:
        return (question.kind, self.world.form(question), question.answer)


def draw_balanced(rng: random.Random, script: Timeline, per_kind: int, balance: Balance) -> list[Question]:
    """`per_kind` questions of each kind about the whole video, and half as many (rounded up) about spans."""
    world = balance.world
    kept: list[Question] = []
    meanings: list[Question] = []
    for kind in world.kinds:
        for number in range(per_kind + (per_kind + 1) // 2):
            drawn = []
            share = world.share_of_nothing(kind)
            aim = None if share is None else rng.random() < share
            for _ in range(60):
                span = world.span(rng, script) if number >= per_kind else None
                question = world.ask(rng, script, kind, span)
                if question is None or aim not in (None, question.answer == NOTHING):
                    continue
                if _meaning(question) not in meanings:
                    drawn.append(question)
                # "Nothing" keeps the share that it has: only the others compete for rarity.
                if drawn and (drawn[0].answer == NOTHING or len(drawn) == 4):
                    break
            candidates = [q for q in drawn if (q.answer == NOTHING) == (drawn[0].answer == NOTHING)]
            if candidates:
                kept.append(balance.choose(candidates))
                meanings.append(_meaning(kept[-1]))
    return kept


def _meaning(question: Question) -> Question:
    """The question without its wording, where what it is about is known without."""
    return question if question.about is None else dataclasses.replace(question, text="")


def question_row(video: str, question: Question) -> dict[str, Any]:
    """A question as a row of `questions.jsonl`; `moments` are all spans of seconds that prove the answer.

    What it is about, the voice and the tolerance are written where the question has them.
    """
    moments = question.moments
    more = {"about": question.about, "voice": question.voice, "tolerance_s": question.tolerance_s}
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
        **{name: value for name, value in more.items() if value is not None},
    }


def _guess_scores(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """For each kind the shares that the majority guess and the question-only guess get right."""
    wanted = ("video", "question", "answer", "kind", "about", "tolerance_s")
    asked = [evaluate.Question(**{name: row[name] for name in wanted if name in row}) for row in rows]
    hits: dict[str, list[tuple[bool, bool]]] = {}
    for question, constant, blind in zip(
        asked, evaluate.majority_guesses(asked), evaluate.question_only_guesses(asked), strict=True
    ):
        hits.setdefault(question.kind, []).append((question.is_right(constant), question.is_right(blind)))
    return {
        kind: (sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs))
        for kind, pairs in hits.items()
    }
