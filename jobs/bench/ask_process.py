"""One way to answer, in a process of its own: `python -m longtake.jobs.bench.ask_process WORK.json` prints JSON.

`longtake bench ask --model vlm:...` starts it, so that each way's memory is its own and none finds what another has
warmed up. Imports are not timed.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

# Questions asked of one video. What the 10th takes is the median of the last three: a single one is a matter of chance.
QUESTIONS = tuple(f"which colour was on the screen at number {number}?" for number in range(1, 11))


def check(work: dict[str, Any]) -> dict[str, Any]:
    """How far the logits from the index are from those of the plain call, over the whole question."""
    from longtake.operators.bench.plain_vlm import PlainCall
    from longtake.operators.vlm import VLMAnswerer, read_video
    from longtake.pipeline.table.schema import IndexReader

    plain = PlainCall(work["model"])
    reader = IndexReader.open(work["index"])
    (row,) = [row for row in reader.videos() if row.uri == work["video"]]
    video, *_ = reader.video_tokens(row.video_id)
    # The library's own positions, where they differ from those that the model was trained with.
    own = VLMAnswerer(plain.vlm).question_logits(read_video(plain.vlm, video, positions="hf"), QUESTIONS[0])
    wanted = plain.logits(_frames(work), work["times_s"], QUESTIONS[0], len(own))
    return {"difference": float((own - wanted).abs().max()), "largest": float(wanted.abs().max())}


def plain(work: dict[str, Any]) -> dict[str, Any]:
    """The plain call: processor and generate on pixels, for the first question and for later ones."""
    from longtake.operators.bench.plain_vlm import PlainCall

    made, load_s = _timed(lambda: PlainCall(work["model"]))
    loaded_bytes = memory_bytes("VmRSS")
    frames, times_s = _frames(work), work["times_s"]
    _, first_s = _timed(lambda: made.first_token(frames, times_s, QUESTIONS[0]))
    # Nothing is kept from call to call, so that any later call is the 10th.
    later_s = [_timed(partial(made.first_token, frames, times_s, question))[1] for question in QUESTIONS[-3:]]
    tokens = int(made.inputs(frames, times_s, QUESTIONS[0])["input_ids"].shape[1])
    return {
        "tokens": tokens,
        "load_s": load_s,
        "first_s": first_s,
        "tenth_s": median(later_s),
        "loaded_bytes": loaded_bytes,
        "peak_bytes": memory_bytes("VmHWM"),
    }


def stored(work: dict[str, Any]) -> dict[str, Any]:
    """From the index: opening it, reading the tokens, the video's prefix and the first token; then nine questions."""
    import longtake
    from longtake.pipeline.answering.index import Index  # noqa: F401  imports are not timed

    index, open_s = _timed(lambda: longtake.open_index(work["index"]))
    _, load_s = _timed(index.load)
    loaded_bytes = memory_bytes("VmRSS")

    def ask(question: str) -> None:
        index.stream(question, work["video"], limit=1).finish()

    asked_s = [_timed(partial(ask, question))[1] for question in QUESTIONS]
    return {
        "load_s": load_s,
        "first_s": open_s + asked_s[0],
        "tenth_s": median(asked_s[-3:]),
        "kept_bytes": index.cached_bytes,
        "loaded_bytes": loaded_bytes,
        "peak_bytes": memory_bytes("VmHWM"),
    }


WAYS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"check": check, "plain": plain, "stored": stored}


def memory_bytes(name: str) -> int:
    """A line of this process's status: VmRSS is its memory now, VmHWM the most that it ever was."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _frames(work: dict[str, Any]) -> Any:
    import numpy as np
    import torch

    return torch.from_numpy(np.load(work["frames"]))


def _timed(act: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    made = act()
    return made, time.perf_counter() - began


def main() -> None:
    """Do the work that the file asks for."""
    import torch

    work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    # A tiny model gains nothing from more, and threads that wait for each other on a busy machine tell nothing.
    torch.set_num_threads(work["threads"])
    print(json.dumps(WAYS[work["way"]](work)))


if __name__ == "__main__":
    main()
