"""How `longtake ask` prints: answers whole or while they are decoded, and warnings about what they do not cover."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from longtake.jobs.clock import format_moment, format_span
from longtake.jobs.console import output

if TYPE_CHECKING:
    from longtake.pipeline.answering.index import Index
    from longtake.pipeline.answering.question import StreamedAnswer, VideoAnswer

NO_ANSWER = "(no answer)"


def show(answer: VideoAnswer) -> None:
    """Print one answer."""
    out = output()
    out.print(f"{Path(answer.video).name}: ", end="")
    out.print(answer.answer or NO_ANSWER, style="bold", end="")
    _show_rest(answer)


def show_pieces(stream: StreamedAnswer) -> VideoAnswer:
    """Print one answer while it is decoded, and return it."""
    out, said, shown = output(), "", ""
    # What is wrong with the question shows with the first piece, before anything is printed.
    for number, piece in enumerate(stream):
        if number == 0:
            out.print(f"{Path(stream.video).name}: ", end="")
        # The blanks around an answer are none of it.
        said += piece
        ready = said.strip()
        out.print(ready[len(shown) :], style="bold", end="")
        shown = ready
    answer = stream.answer
    if not said:
        out.print(f"{Path(stream.video).name}: ", end="")
    if not shown:
        out.print(NO_ANSWER, style="bold", end="")
    _show_rest(answer)
    return answer


def _show_rest(answer: VideoAnswer) -> None:
    out = output()
    out.print(f"  ({100 * answer.probability:.0f} %)")
    if answer.moments:
        out.print("  looked at " + ", ".join(
            f"{format_span(moment.start_s, moment.stop_s)} ({100 * moment.weight:.0f} %)" for moment in answer.moments
        ))  # fmt: skip
    else:
        out.print("  looked at no moment in particular")
    if answer.votes is not None:
        ranked = sorted(answer.votes.items(), key=lambda item: (-item[1], item[0]))
        out.print("  votes: " + ", ".join(f"{text or NO_ANSWER} {count}" for text, count in ranked))
    if answer.still_indexing:
        out.print(f"  seen up to {format_moment(answer.seen_until_s)}; the rest is not indexed yet")


def make_warnings(index: Index, answers: list[VideoAnswer], *, all_videos: bool) -> list[str]:
    """What a reader of these answers should know; with `all_videos`, which of the index's videos did not answer."""
    found = []
    unknown = sorted({word for answer in answers for word in answer.unknown_words})
    if unknown:
        found.append(f"the model does not know {', '.join(unknown)}; the answer may miss the question")
    for answer in answers:
        found += [f"{Path(answer.video).name}: {note}" for note in answer.notes]
    if all_videos:
        answered = {answer.video_id for answer in answers}
        empty = [row.uri for row in index.videos() if row.snippets == 0]
        short = [row.uri for row in index.videos() if row.snippets and row.video_id not in answered]
        for names, reason in ((empty, "nothing of them is indexed"), (short, "they end before the span")):
            if names:
                found.append(
                    f"{len(names)} not asked, since {reason}: {', '.join(names[:3])}" + ", ..." * (len(names) > 3)
                )
    return found
