"""From a file's rows to what a run learns from: words, videos decoded or encoded, rows over their snippets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.model import LongTakeModel
from longtake.operators.training.data_plan import DataPlan, TrainingData
from longtake.operators.training.data_trainer import write_encoders
from longtake.operators.training.rows import Row, text_length, unknown_words, word_tokenizer
from longtake.operators.training.snippet_store import StoredVideo
from longtake.pipeline.indexing.index import Progress
from longtake.pipeline.training.rows import BadRows, FileRow, place_row
from longtake.pipeline.training.tokens import TokenIndex, index_videos, indexed_as_stored
from longtake.pipeline.training.videos import Film, look_at_videos, store_for, store_videos

# Unknown words that are named.
MOST_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Telling:
    """Who is told how the work goes: a line of words, and while videos are decoded or indexed, how far that is."""

    say: Callable[[str], None]
    decoding: Callable[[int], AbstractContextManager[Callable[[int], None]]]
    indexing: Callable[[], AbstractContextManager[Callable[[Progress], None]]]


def prepare(
    rows: Sequence[FileRow],
    bad: BadRows,
    plan: DataPlan,
    model: LongTakeModel,
    tokenizer: ChatTokenizer | None,
    out: Path,
    *,
    device: str,
    workers: int,
    telling: Telling,
) -> tuple[TrainingData, ChatTokenizer]:
    """Everything that a run in `out` learns from, and the words that it learns in.

    Where nothing that makes tokens learns in any stage, videos are encoded with `model`; else they are decoded. What
    an earlier call left in `out` is used again.

    Args:
        tokenizer: the model's; None makes one of the rows' words.
        workers: processes that decode.
    Raises:
        InputError: too many rows cannot be used, or the disk has no room.
    """
    config = model.config
    rows, films = look_at_videos(rows, bad)
    # A file of which too little is there is told of before anything is decoded.
    bad.settle()
    texts = (text for row in rows for text in (row.question, row.answer))
    words = tokenizer or word_tokenizer(texts, config.text.vocabulary)
    rows = _fitting(rows, words, config.text.context, bad)

    def indexed(films: Sequence[Film], checkpoint: Path) -> TokenIndex:
        with telling.indexing() as update:
            return index_videos(films, out / "tokens.lt", checkpoint, device, update)

    store = None
    if all(plan.reads_tokens(stage) for stage in plan.stages()):
        source = indexed(films, write_encoders(out / "encoders", model, words))
        videos = [source.video(number) for number in range(len(films))]
    else:
        store = store_for(out / "snippets", config)
        with telling.decoding(len(films)) as update:
            videos = store_videos(films, store, config, workers, update)
    placed, films, videos = place_rows(rows, films, videos, plan.questions.most, bad)
    bad.settle()
    lengths = tuple(len(video.windows) for video in videos)
    touched, unknown = unknown_words(placed, words)
    if touched:
        lacking = "the model lacks" if tokenizer else f"a vocabulary of {config.text.vocabulary} leaves out"
        named = ", ".join(unknown[:MOST_NAMED]) + (", ..." if len(unknown) > MOST_NAMED else "")
        telling.say(
            f"{touched} of {len(placed)} rows hold words that {lacking}: {named}; they are read as unknown, and never"
            " answered"
        )
    data = TrainingData(
        lengths=lengths,
        snippet_s=config.video.frames / config.rate_hz,
        names=tuple(film.name for film in films),
        store=store,
        captions=_captions(placed, plan),
        rows=tuple(placed),
        encode=lambda checkpoint: indexed_as_stored(indexed(films, checkpoint), films, lengths),
    )
    return data, words


def _fitting(rows: Sequence[FileRow], words: ChatTokenizer, context: int, bad: BadRows) -> list[FileRow]:
    """The rows whose text the decoder can read; the others go to `bad`."""
    fitting = []
    for row in rows:
        length = text_length(row.question, row.answer, words)
        if length > context:
            bad.add(row.line, row.video, f"its text has {length} tokens; the model reads at most {context}")
        else:
            fitting.append(row)
    bad.settle()
    return fitting


def _captions(rows: Sequence[Row], plan: DataPlan) -> tuple[Row, ...]:
    """What short stretches learn text from: captions, else questions that a stretch can answer."""
    captions = tuple(row for row in rows if row.caption)
    return captions or tuple(row for row in rows if row.snippets <= plan.snippets.most)


def place_rows(
    rows: Sequence[FileRow], films: Sequence[Film], videos: Sequence[StoredVideo], most: int, bad: BadRows
) -> tuple[list[Row], list[Film], list[StoredVideo]]:
    """Rows over the snippets of the videos that could be read, and these videos; the other rows go to `bad`.

    Args:
        most: how many snippets a row may be about.
    """
    read = {film.path: (film, video) for film, video in zip(films, videos, strict=True)}
    placed: list[Row] = []
    numbers: dict[str, int] = {}
    for row in rows:
        _, video = read[row.path]
        if not video.windows:
            bad.add(row.line, row.video, video.error)
            continue
        try:
            made = place_row(row, numbers.get(row.path, len(numbers)), video.windows)
            if made.snippets > most:
                raise ValueError(f"it is about {made.snippets} snippets, more than {most}; give it a span")
        except ValueError as error:
            bad.add(row.line, row.video, str(error))
            continue
        numbers.setdefault(row.path, len(numbers))
        placed.append(made)
    used = [read[path] for path in numbers]
    return placed, [film for film, _ in used], [video for _, video in used]
