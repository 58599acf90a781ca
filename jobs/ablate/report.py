"""What `longtake ablate` says at its end: tables, and what they show and do not show."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from longtake.jobs.bench.text_table import text_table
from longtake.jobs.console import output
from longtake.operators.ablation.results import MAJORITY, RunResult, Summary, fingerprint, students_interval
from longtake.pipeline.evaluation.evaluate import wilson_interval

ABOUT = {
    "coverage": (
        "Every variant saw the same batches in the same order. Its combiner learned to describe single snippets and was"
        " then frozen. The encoders are the shipped tiny's, frozen; they were trained together with a transformer"
        " combiner of 4 tokens, which may favour that one.",
        "64 snippets are whole videos of the world from a seed that no training saw; 128 and 256 are arrangements of"
        " their beats, lengths that no variant was trained on.",
        "Pictures and sound are rendered straight to tensors with the wear of files; no MP4 was written.",
        "Questions about one video share that video, so intervals over questions are a little too narrow.",
        "The decoder may attend to every snippet that a variant keeps: nothing here tests memory.",
        "Much of what the variants lack is what the questions are made of: that questions about sound need sound says"
        " that the questions are fair, not that the model is good.",
    ),
    "memory": (
        "All variants read the same tokens: one transformer combiner of 4 tokens a snippet, trained to describe single"
        " snippets and frozen. Each trained its own writer and text decoder at 1 to 64 snippets, and in training was"
        " told, at a video's end and at up to seven places before it, everything that could be asked about so far.",
        "128 to 512 snippets are lengths that none was trained on; the numbers of such snippets were met in training,"
        " in videos of at most 64.",
        "Videos are arrangements of beats from a seed that no training saw; however long, they hold at most 24"
        " soundings and one flash, so 16 tokens could hold what is asked about.",
        "Uniform and mean pooling must know the video's length beforehand; the others write as the video goes on.",
        "The latent model's last states have read all earlier tokens, which it must keep while it writes: only what is"
        " read afterwards is bounded. The Turing machine's memory is all that it keeps.",
    ),
    "tracking": (
        "All variants read the same tokens: one transformer combiner of 4 tokens a snippet, trained to describe single"
        " snippets (object, place, sound) and frozen. Each trained its own part and text decoder, with questions at the"
        " end and at two places before it, and in training each was told after every snippet what stands where.",
        "Videos have 32 snippets: three objects, then 0 to 16 swaps among other sounds and silence.",
        'Chance for "where" is 33 %. For "what" (a colour and a shape) it is 2 %, or 33 % for who knows which three'
        " objects there are.",
        "A variant at chance may still learn at another size, rate or number of steps: the table says what these did.",
    ),
}
# Which variants tell what a part is worth: with it, without it, and its name.
PAIRS = {
    "coverage": (
        ("full", "no_sound", "Sound"),
        ("full", "sound_shuffled", "Sound in step with its pictures"),
        ("full", "no_picture", "Pictures"),
        ("full", "average_pool", "A combiner that attends, not average pooling"),
        ("full", "no_latent", "The latent model"),
        ("full", "recent", "Every snippet, not the last quarter at as many tokens"),
        ("full", "uniform", "Every snippet, not every fourth at as many tokens"),
        ("full", "ttm", "The transformer combiner in the place of the Turing machine"),
        ("full", "attention_pool", "The transformer combiner in the place of attention pooling"),
        ("full", "c_abstractor", "The transformer combiner in the place of the C-Abstractor"),
        ("full", "tokens_1", "Four tokens a snippet, not one"),
        ("tokens_16", "full", "Sixteen tokens a snippet, not four"),
        ("full", "question_only", "The video"),
    ),
    "memory": (
        *(
            (f"ttm_{memory}", f"{other}_{memory}", "The Turing machine's memory")
            for memory in (16, 32, 64)
            for other in ("fifo", "uniform", "mean", "latent_last")
        ),
        ("ttm_32", "ttm_16", "A Turing machine's memory of 32 tokens, not 16"),
        ("ttm_64", "ttm_32", "A Turing machine's memory of 64 tokens, not 32"),
        ("all", "ttm_32", "Every latent, not a Turing machine's memory of 32 tokens"),
        ("ttm_32", "question_only", "The video, in a Turing machine's memory of 32 tokens"),
    ),
    "tracking": (
        ("full", "no_latent", "The latent model"),
        ("ttm_16", "no_latent", "The Turing machine's memory"),
        ("full", "question_only", "The video"),
    ),
}
# The tests that such differences are taken over.
WORTH = ("world", "swaps")
# Sweeps whose tables have a row a variant and kind, with what their columns are.
SWEEPS = {
    "depth": "needles found, by where they are (0 first snippet, 1 last)",
    "delay": "sound delayed by so many snippets",
    "swaps": "by how many swaps came before the question",
}


def figures(
    track: str,
    quick: bool,
    plan: str,
    variants: Mapping[str, str],
    results: Sequence[RunResult],
    summaries: Sequence[Summary],
    baseline: Sequence[Summary],
) -> dict[str, Any]:
    """The record of a track: every run's rows, and the summaries over seeds, with their intervals."""
    return {
        "track": track,
        "quick": quick,
        "plan": fingerprint(plan),
        "about": [*ABOUT[track], *readings(track, results)],
        "variants": {result.variant: variants[result.variant] for result in results},
        "runs": [
            {
                "variant": result.variant,
                "seed": result.seed,
                "seconds": round(result.seconds, 1),
                "cpu_seconds": round(result.cpu_seconds, 1),
                **{name: round(value, 4) for name, value in result.notes.items()},
            }
            for result in results
        ],
        "rows": [
            {**dataclasses.asdict(row), "interval": _rounded(wilson_interval(row.right, row.total))}
            for result in results
            for row in result.rows
        ],
        "summary": [
            {
                **dataclasses.asdict(summary),
                "mean": round(summary.mean, 4),
                "interval": _rounded(wilson_interval(summary.right, summary.total)),
                "over_seeds": _rounded(summary.over_seeds) if summary.over_seeds else None,
            }
            for summary in [*summaries, *baseline]
        ],
    }


def print_report(
    track: str,
    variants: Mapping[str, str],
    results: Sequence[RunResult],
    summaries: Sequence[Summary],
    baseline: Sequence[Summary],
) -> None:
    """Print a table for each test, the sweeps, and the text."""
    console = output()
    for test, snippets in dict.fromkeys((s.test, s.snippets) for s in summaries if s.at is None):
        part = [s for s in [*summaries, *baseline] if s.at is None and (s.test, s.snippets) == (test, snippets)]
        console.print(f"\n{test}, {snippets} snippets: percent right [95 % interval over questions]")
        console.print(_table(part))
    for test, says in SWEEPS.items():
        part = [s for s in [*summaries, *baseline] if s.test == test and s.at is not None]
        if part:
            console.print(f"\n{says}: percent right")
            console.print(_sweep(part))
    if any(s.over_seeds for s in summaries):
        console.print("\nover seeds: mean [95 % interval, Student's t]")
        console.print(_over_seeds(summaries))
    console.print("\nvariants")
    for name in dict.fromkeys(result.variant for result in results):
        console.print(f"  {name}: {variants[name]}")
    if baseline:
        console.print(f"  {MAJORITY}: the commonest answer of each kind, known from the test itself; not trained")
    console.print("\nwhat this shows, and what it does not")
    for line in [*ABOUT[track], *readings(track, results)]:
        console.print(f"  - {line}")
    minutes = sum(result.seconds for result in results) / 60
    console.print(f"  - {len(results)} runs, {minutes:.0f} minutes of training and testing in all.")
    console.print("")


def readings(track: str, results: Sequence[RunResult]) -> list[str]:
    """Sentences about the figures, made of them: what each part was worth, run beside run of the same seed."""
    shares: dict[tuple[str, int], dict[tuple[str, int, str, float | None], float]] = {
        (result.variant, result.seed): {
            (row.test, row.snippets, row.kind, row.at): row.right / row.total
            for row in result.rows
            if row.test in WORTH
        }
        for result in results
    }
    found = []
    for whole, without, part in PAIRS[track]:
        gains = []
        for (variant, seed), of_whole in shares.items():
            other = shares.get((without, seed))
            if variant == whole and other is not None:
                gains.append({key: 100 * (share - other[key]) for key, share in of_whole.items() if key in other})
        gains = [gain for gain in gains if gain]
        if not gains:
            continue
        of_seeds = [sum(gain.values()) / len(gain) for gain in gains]
        of_tests = [sum(gain[key] for gain in gains) / len(gains) for key in gains[0]]
        mean, interval = sum(of_seeds) / len(of_seeds), students_interval(of_seeds)
        between = "" if interval is None else f" [{interval[0]:+.1f} to {interval[1]:+.1f} over {len(gains)} seeds]"
        found.append(
            f"{part} ({whole} less {without}): {mean:+.1f} points{between} over all kinds and tests, from"
            f" {min(of_tests):+.1f} to {max(of_tests):+.1f}{_by_length(gains)}.{_verdict(mean, interval)}"
        )
    return found


def _by_length(gains: Sequence[Mapping[tuple[str, int, str, float | None], float]]) -> str:
    of_lengths: dict[int, list[float]] = {}
    for gain in gains:
        for (_, snippets, _, _), points in gain.items():
            of_lengths.setdefault(snippets, []).append(points)
    if len(of_lengths) < 2:
        return ""
    means = [sum(points) / len(points) for points in of_lengths.values()]
    return f"; at {' / '.join(map(str, of_lengths))} snippets {' / '.join(f'{mean:+.1f}' for mean in means)}"


def _verdict(mean: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        # One seed tells nothing of how seeds differ, which is by two points and more.
        return "" if abs(mean) >= 2 else " It does not earn its place in this track."
    if interval[1] < 0:
        return " It harms in this track."
    return "" if interval[0] > 0 else " The seeds do not tell it from nothing."


def _table(summaries: Sequence[Summary]) -> str:
    kinds = list(dict.fromkeys(s.kind for s in summaries))
    cells = {(s.variant, s.kind): s for s in summaries}
    rows = []
    for variant in dict.fromkeys(s.variant for s in summaries):
        row = [variant]
        for kind in kinds:
            summary = cells.get((variant, kind))
            if summary is None:
                row.append("")
                continue
            low, high = wilson_interval(summary.right, summary.total)
            row.append(f"{100 * summary.right / summary.total:.1f} [{100 * low:.0f}-{100 * high:.0f}]")
        rows.append(row)
    return text_table(["variant", *kinds], rows)


def _sweep(summaries: Sequence[Summary]) -> str:
    places = sorted({s.at for s in summaries if s.at is not None})
    cells = {(s.variant, s.snippets, s.kind, s.at): s.mean for s in summaries}
    rows = []
    for variant, snippets, kind in dict.fromkeys((s.variant, s.snippets, s.kind) for s in summaries):
        shares = [cells.get((variant, snippets, kind, at)) for at in places]
        rows.append([variant, str(snippets), kind, *("" if x is None else f"{100 * x:.0f}" for x in shares)])
    return text_table(["variant", "snippets", "kind", *(f"{at:g}" for at in places)], rows, left=3)


def _over_seeds(summaries: Sequence[Summary]) -> str:
    rows = []
    for summary in summaries:
        if summary.over_seeds is not None and summary.test in WORTH:
            low, high = summary.over_seeds
            place = "" if summary.at is None else f" {summary.at:g}"
            rows.append(
                [
                    summary.variant,
                    f"{summary.test} {summary.snippets}{place}",
                    summary.kind,
                    f"{100 * summary.mean:.1f} [{100 * low:.1f}-{100 * high:.1f}]",
                ]
            )
    return text_table(["variant", "test", "kind", "mean"], rows, left=3)


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(end, 4) for end in interval]
