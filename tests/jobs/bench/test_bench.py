"""The benchmarks' measuring and arithmetic; the figures themselves are made by running them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from longtake.errors import LongTakeError
from longtake.jobs.bench import ask, index, memory, process_tree
from longtake.jobs.bench.process_tree import ProcessLook, descendants, measure, parse_stat, pss_bytes
from longtake.jobs.bench.record import write_record
from longtake.operators.model.answering import Answer
from longtake.pipeline.answering.question import VideoAnswer

ROOT = Path(__file__).resolve().parents[3]
# Burns about the given CPU seconds in a process; the second one first leaves its parent behind (a daemon's way).
BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"
DAEMON = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGCHLD, {{}})
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        {BURN.format(seconds=0.6).strip().replace(chr(10), chr(10) + "        ")}
    os._exit(0)
os._exit(0)
"""


@pytest.mark.parametrize("sigchld", ["signal.SIG_DFL", "signal.SIG_IGN"])
def test_cpu_seconds_of_processes_that_outlive_their_parents_count(sigchld: str) -> None:
    usage = measure([sys.executable, "-S", "-c", DAEMON.format(sigchld)], look_s=0.02)
    assert 0.55 <= usage.cpu_s < 1.5
    assert usage.most_processes >= 1


def test_a_childs_memory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, weighed = tmp_path / "held", tmp_path / "weighed"
    program = f"""
import os, time
held = os.urandom(1) * (96 << 20)
open({str(held)!r}, "w").close()
while not os.path.exists({str(weighed)!r}):
    time.sleep(0.01)
"""
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {program!r}])"
    heavy: list[int] = []

    def weigh(pid: int) -> int:
        """As ever; and the program ends when both processes have been weighed, twice, since it holds its memory."""
        if held.exists():
            heavy.append(pid)
        size_bytes = pss_bytes(pid)
        if len(heavy) >= 4:
            weighed.touch()
        return size_bytes

    monkeypatch.setattr(process_tree, "pss_bytes", weigh)
    usage = measure([sys.executable, "-S", "-c", nested], look_s=0.02, memory_s=0.02)
    assert 96 << 20 <= usage.peak_pss_bytes < 200 << 20
    assert usage.most_processes == 2


def test_a_command_that_fails_is_told_with_its_last_line() -> None:
    with pytest.raises(LongTakeError, match=r"ended with 3: out of luck"):
        measure([sys.executable, "-S", "-c", "import sys; print('out of luck', file=sys.stderr); sys.exit(3)"])


def test_output_is_kept() -> None:
    assert measure([sys.executable, "-S", "-c", "print('hello')"]).output == "hello\n"


def test_a_process_with_an_odd_name_is_read_right() -> None:
    text = "71 (ray::Enc (x) y) S 7 71 71 0 -1 4194560 100 200 0 0 31 12 500 600 20 0 3 0 4242 1000 50"
    assert parse_stat(71, text) == ProcessLook(pid=71, parent=7, started=4242, cpu_ticks=43)


def test_descendants_are_found_through_all_generations() -> None:
    looks = [ProcessLook(pid=p, parent=q, started=0, cpu_ticks=0) for p, q in ((2, 1), (3, 2), (4, 3), (5, 1), (9, 8))]
    assert sorted(look.pid for look in descendants(looks, 2)) == [3, 4]
    assert sorted(look.pid for look in descendants(looks, 1)) == [2, 3, 4, 5]


def test_the_ratio_leaves_starting_up_out() -> None:
    assert index.ratio(36.0, 10.0, 20.0) == pytest.approx(1.3)
    with pytest.raises(ValueError, match="bare work"):
        index.ratio(1.0, 0.0, 0.0)


def test_the_round_with_the_median_ratio_counts() -> None:
    rounds = [{"ratio": ratio, "round": number} for number, ratio in enumerate((1.4, 1.1, 1.2))]
    assert index.median_round(rounds)["round"] == 2
    assert index.median_round(rounds[:2])["round"] == 0


def test_ask_compares_a_further_answer_with_the_cheapest_way_to_index_again() -> None:
    figures = ask.make_figures(job_s=12.0, startup_s=7.0, again_s=1.5, first_s=0.25, kept_s=0.02)
    assert (figures["ratio"], figures["ratio_first_answer"], figures["ratio_job_first_answer"]) == (75.0, 6.0, 49.0)
    figures["input"] = {"video": "a.mp4", "frames": 512, "snippets": 64}
    assert "75 x faster (at least 50 wanted: met)" in ask.summarise(figures)
    assert "wanted: missed" in ask.summarise({**figures, "ratio": 49.9})


def answers(text: str, probability: float) -> tuple[VideoAnswer, Answer]:
    import torch

    kept = VideoAnswer(
        video="a.mp4", video_id="a", question="what?", answer="red", probability=0.5, moments=(), seen_until_s=1.0,
        still_indexing=False, from_s=None, to_s=None, votes=None, unknown_words=(),
    )  # fmt: skip
    return kept, Answer(text=text, probability=probability, weights_T=torch.zeros(1), votes=None, unknown_words=())


def test_ask_refuses_to_time_two_ways_that_differ() -> None:
    kept, same = answers("red", 0.50001)
    ask.require_same([kept], [same])
    for text, probability in (("blue", 0.5), ("red", 0.51)):
        kept, other = answers(text, probability)
        with pytest.raises(LongTakeError, match="nothing to compare"):
            ask.require_same([kept], [other])


def test_memory_says_whether_the_target_is_met() -> None:
    job = {"video_s": 300.0, "peak_pss_bytes": 1 << 30, "most_processes": 9, "cpu_s": 10.0, "wall_s": 8.0}
    figures = {
        "input": {"from": "a.webm", "width": 1280, "height": 720, "codec": "vp8"},
        "short": job,
        "long": {**job, "video_s": 3600.0, "peak_pss_bytes": 1_200_000_000},
        "ratio": 1.118,
        "target_ratio": memory.TARGET,
    }
    assert "ratio   1.12 (at most 1.2 wanted: met)" in memory.summarise(figures)
    assert "60.0 min: 1144 MiB" in memory.summarise(figures)


def test_bench_ask_end_to_end(tmp_path: Path, media: Path, index_writer) -> None:
    out = tmp_path / "ask.json"
    words = ["bench", "ask", str(media / "pancake.mkv"), "--model", str(index_writer.checkpoint), "--out", str(out)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "longtake.jobs.main", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = json.loads(out.read_text())
    assert kept["input"] == {"video": "pancake.mkv", "frames": 512, "snippets": 64, "threads": 1}
    assert kept["ratio"] == pytest.approx(kept["again_and_answer_s"] / kept["further_answer_s"], rel=0.02)
    assert done.stdout.splitlines() == ask.summarise(kept).splitlines()


def test_a_record_names_machine_versions_and_commit(tmp_path: Path) -> None:
    write_record(str(tmp_path / "deep" / "r.json"), "index", {"ratio": 1.1})
    kept = json.loads((tmp_path / "deep" / "r.json").read_text())
    assert kept["benchmark"] == "index" and kept["ratio"] == 1.1
    assert kept["machine"]["cores"] >= 1 and kept["versions"]["torch"] and kept["at"].endswith("+00:00")
    assert kept["commit"] is None or len(kept["commit"]) >= 12
