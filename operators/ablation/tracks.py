"""The tracks by name, and running their variants: side by side in processes, each variant and seed at most once."""

from __future__ import annotations

import multiprocessing
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from longtake.errors import LongTakeError
from longtake.operators.ablation.coverage_track import coverage_track
from longtake.operators.ablation.memory_track import memory_track
from longtake.operators.ablation.results import RunResult, read_result, result_path, write_result
from longtake.operators.ablation.track import Report, Step, Track
from longtake.operators.ablation.tracking_track import tracking_track

# Every track by its name.
TRACKS: dict[str, Callable[[Path, bool, str, int], Track]] = {
    "coverage": coverage_track,
    "memory": memory_track,
    "tracking": tracking_track,
}


def track_by_name(name: str, folder: Path, quick: bool, device: str, workers: int) -> Track:
    """The track of a name, which keeps its files in `folder`; `workers` processes render.

    Raises:
        ValueError: there is no such track.
    """
    if name not in TRACKS:
        raise ValueError(f"no track is named {name!r}; there are {', '.join(TRACKS)}")
    return TRACKS[name](folder, quick, device, workers)


def run_all(
    track: Track,
    folder: Path,
    variants: Sequence[str],
    seeds: Sequence[int],
    *,
    processes: int,
    report: Report,
    on_result: Callable[[RunResult, bool], None],
) -> list[RunResult]:
    """All runs of a track, those that `folder` holds already taken from there.

    Args:
        track: pickled to the processes, which prepare it themselves.
        on_result: told each run's result, and whether it was there already.
    Returns:
        the results, variants in the order given, and seeds within them.
    Raises:
        LongTakeError: a run failed; those that were done stay done.
    """
    wanted = [(variant, seed) for seed in seeds for variant in variants]
    found: dict[tuple[str, int], RunResult] = {}
    for variant, seed in wanted:
        result = read_result(result_path(folder, variant, seed), track.plan)
        if result is not None:
            found[variant, seed] = result
            on_result(result, True)
    missing = [one for one in wanted if one not in found]
    if missing:
        # What all share is computed here once, so that no two processes do.
        track.prepare(report)
    if processes == 1 or len(missing) == 1:
        for variant, seed in missing:
            found[variant, seed] = _train(track, folder, variant, seed, report)
            on_result(found[variant, seed], False)
    elif missing:
        for result in _side_by_side(track, folder, missing, min(processes, len(missing)), report):
            found[result.variant, result.seed] = result
            on_result(result, False)
    return [found[variant, seed] for variant in variants for seed in seeds]


def done_runs(track: Track, folder: Path, variants: Sequence[str], seeds: Sequence[int]) -> list[RunResult]:
    """The runs that `folder` holds, variants in the order given, and seeds within them."""
    found = (read_result(result_path(folder, variant, seed), track.plan) for variant in variants for seed in seeds)
    return [result for result in found if result is not None]


def _train(track: Track, folder: Path, variant: str, seed: int, report: Report) -> RunResult:
    try:
        result = track.run(variant, seed, report)
    except (ValueError, RuntimeError) as error:
        raise LongTakeError(f"{variant} with seed {seed}: {error}") from error
    write_result(result_path(folder, variant, seed), result, track.plan)
    return result


def _side_by_side(
    track: Track, folder: Path, missing: Sequence[tuple[str, int]], processes: int, report: Report
) -> Iterator[RunResult]:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        steps = manager.Queue()
        with _pool(processes, context, (track, folder, steps)) as pool:
            waiting = {pool.submit(_in_process, variant, seed) for variant, seed in missing}
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                _pass_on(steps, report)
                for future in done:
                    yield _result(future)


@contextmanager
def _pool(processes: int, context: Any, start: tuple[Track, Path, Any]) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(processes, context, _start, start)
    try:
        yield pool
    except BaseException:
        # Ctrl-C, or a run that failed: the others would go on for minutes for nothing.
        for process in list(pool._processes.values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _pass_on(steps: Any, report: Report) -> None:
    try:
        while True:
            report(steps.get_nowait())
    except queue.Empty:
        return


def _result(future: Future[RunResult]) -> RunResult:
    try:
        return future.result()
    except LongTakeError:
        raise
    except Exception as error:
        raise LongTakeError(f"a process of the ablation ended: {error}") from error


# What a process of the pool works with; set once when it starts.
_TRACK: Track | None = None
_FOLDER = Path()
_STEPS: Any = None


def _start(track: Track, folder: Path, steps: Any) -> None:
    global _TRACK, _FOLDER, _STEPS
    # As many processes as cores: one thread each.
    torch.set_num_threads(1)
    _TRACK, _FOLDER, _STEPS = track, folder, steps
    _TRACK.prepare(lambda step: None)


def _in_process(variant: str, seed: int) -> RunResult:
    assert _TRACK is not None
    last = 0.0

    def report(step: Step) -> None:
        nonlocal last
        # Some steps take milliseconds; nobody reads that fast.
        if time.monotonic() - last > 0.5 or step.step == step.steps:
            last = time.monotonic()
            _STEPS.put(step)

    return _train(_TRACK, _FOLDER, variant, seed, report)
