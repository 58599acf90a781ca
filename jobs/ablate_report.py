"""What `longtake ablate` says at its end: tables, and what they show and do not show."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from longtake.jobs.console import output
from longtake.jobs.text_table import text_table
from longtake.operators.ablation.results import RunResult, Summary
from longtake.pipeline.evaluation import wilson_interval

ABOUT = {
    "coverage": (
        "Every variant saw the same batches in the same order. Its combiner learned to describe single snippets and was"
        " then frozen; the encoders are those of the shipped tiny, frozen, and were trained together with a transformer"
        " combiner of 4 tokens, which may favour it.",
        "64 snippets are whole videos of the world from a seed that no training saw; 128 and 256 are arrangements of"
        " their beats, lengths that no variant was trained on.",
        "Pictures and sound are rendered straight to tensors with the wear of files; no MP4 was written. Questions of"
        " one video share that video, so intervals over questions are a little too narrow.",
        "The decoder attends to every snippet's tokens in coverage: these questions need no memory.",
    ),
}


def figures(
    track: str,
    quick: bool,
    variants: Mapping[str, str],
    results: Sequence[RunResult],
    summaries: Sequence[Summary],
) -> dict[str, Any]:
    """The record of a track: every run's rows, and the summaries over seeds, with their intervals."""
    return {
        "track": track,
        "quick": quick,
        "about": [*ABOUT[track], *readings(track, summaries)],
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
            for summary in summaries
        ],
    }


def print_report(
    track: str, variants: Mapping[str, str], results: Sequence[RunResult], summaries: Sequence[Summary]
) -> None:
    """Print a table for each test, the sweeps, and the text."""
    console = output()
    for test, snippets in dict.fromkeys((s.test, s.snippets) for s in summaries if s.at is None):
        part = [s for s in summaries if s.at is None and (s.test, s.snippets) == (test, snippets)]
        console.print(f"\n{test}, {snippets} snippets: percent right [95 % interval over questions]")
        console.print(_table(part))
    for test, at in (("depth", "needles found, by where they are (0 first snippet, 1 last)"),
                     ("delay", "sound delayed by so many snippets")):  # fmt: skip
        part = [s for s in summaries if s.test == test]
        if part:
            console.print(f"\n{part[0].variant}: {at}, percent right")
            console.print(_sweep(part, by_length=test == "depth"))
    if any(s.over_seeds for s in summaries):
        console.print("\nover seeds: mean of the kinds above [95 %, Student's t]; each kind's is in the JSON")
        console.print(_over_seeds(summaries))
    console.print("\nvariants")
    names = list(dict.fromkeys(result.variant for result in results))
    for name in names:
        console.print(f"  {name}: {variants[name]}")
    console.print("\nwhat this shows, and what it does not")
    for line in [*ABOUT[track], *readings(track, summaries)]:
        console.print(f"  - {line}")
    minutes = sum(result.seconds for result in results) / 60
    console.print(f"  - {len(results)} runs, {minutes:.0f} minutes of training and testing in all.")
    console.print("")


def readings(track: str, summaries: Sequence[Summary]) -> list[str]:
    """Sentences about the figures, made of them."""
    found = []
    base = {(s.test, s.snippets, s.kind): s for s in summaries if s.variant == "full" and s.at is None}
    for variant, part in (("no_latent", "the latent model"), ("average_pool", "a combiner that attends")):
        gains = [
            base[key].mean - s.mean
            for s in summaries
            if s.variant == variant and s.at is None and (key := (s.test, s.snippets, s.kind)) in base
        ]
        if gains:
            mean = 100 * sum(gains) / len(gains)
            most = 100 * max(gains)
            found.append(f"With {part} (full against {variant}): {mean:+.1f} points on average, at most {most:+.1f}.")
    return found


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


def _sweep(summaries: Sequence[Summary], by_length: bool) -> str:
    places = sorted({s.at for s in summaries if s.at is not None})
    rows = []
    for name in dict.fromkeys(str(s.snippets) if by_length else s.kind for s in summaries):
        of_row = {s.at: s for s in summaries if (str(s.snippets) if by_length else s.kind) == name}
        rows.append([name, *(f"{100 * of_row[at].mean:.0f}" if at in of_row else "" for at in places)])
    return text_table(["snippets" if by_length else "kind", *(f"{at:g}" for at in places)], rows)


def _over_seeds(summaries: Sequence[Summary]) -> str:
    rows = []
    for summary in summaries:
        if summary.at is None and summary.over_seeds is not None:
            low, high = summary.over_seeds
            rows.append(
                [
                    summary.variant,
                    f"{summary.test} {summary.snippets}",
                    summary.kind,
                    f"{100 * summary.mean:.1f} [{100 * low:.1f}-{100 * high:.1f}]",
                ]
            )
    return text_table(["variant", "test", "kind", "mean"], rows, left=3)


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(end, 4) for end in interval]
