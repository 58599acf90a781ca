"""An ablation's figures as one picture: a panel of bars for each test, and the sweeps where there are some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longtake.operators.ablation.results import Summary

# Sweeps that are drawn as lines, with what they are over.
LINES = {
    "delay": "sound delayed by so many snippets, at test time",
    "swaps": "swaps before the question",
}


def draw(track: str, summaries: Sequence[Summary], path: Path) -> Path:
    """Write the PNG of a track's summaries; returns its path."""
    # Drawing needs no screen.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = sorted({(s.test, s.snippets) for s in summaries if s.at is None})
    grid = [s for s in summaries if s.test == "depth"]
    lines = {test: [s for s in summaries if s.test == test] for test in LINES}
    panels = [*bars, *(["grid"] if grid else []), *(test for test, part in lines.items() if part)]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(11, 3.3 * len(panels)), constrained_layout=True, squeeze=False
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        if panel == "grid":
            _heat_map(figure, axis, grid)
        elif isinstance(panel, str):
            _lines(axis, lines[panel], LINES[panel])
        else:
            test, snippets = panel
            part = [s for s in summaries if s.at is None and (s.test, s.snippets) == (test, snippets)]
            _bars(axis, part)
            axis.set_title(f"{track}: {test}, {snippets} snippets", loc="left", fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _bars(axis: Any, summaries: Sequence[Summary]) -> None:
    variants = list(dict.fromkeys(s.variant for s in summaries))
    kinds = list(dict.fromkeys(s.kind for s in summaries))
    wide = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        of_kind = {s.variant: s for s in summaries if s.kind == kind}
        places = [x for x, variant in enumerate(variants) if variant in of_kind]
        found = [of_kind[variants[x]] for x in places]
        errors = [
            [s.mean - (s.over_seeds or (s.mean, s.mean))[0] for s in found],
            [(s.over_seeds or (s.mean, s.mean))[1] - s.mean for s in found],
        ]
        axis.bar(
            [x + (number - (len(kinds) - 1) / 2) * wide for x in places],
            [s.mean for s in found],
            wide,
            yerr=errors if any(s.over_seeds for s in found) else None,
            error_kw={"linewidth": 0.8},
            color=f"C{number}",
            label=kind,
        )
    axis.set_xticks(range(len(variants)), variants, rotation=25, ha="right", fontsize=8)
    axis.set(ylabel="share right", ylim=(0, 1.04))
    axis.legend(frameon=False, fontsize=8, ncols=len(kinds), loc="lower left", bbox_to_anchor=(0.35, 1.0))


def _heat_map(figure: Any, axis: Any, summaries: Sequence[Summary]) -> None:
    lengths = sorted({s.snippets for s in summaries})
    depths = sorted({s.at for s in summaries if s.at is not None})
    share = {(s.snippets, s.at): s.mean for s in summaries}
    image = axis.imshow(
        [[share.get((length, depth), float("nan")) for depth in depths] for length in lengths],
        vmin=0,
        vmax=1,
        cmap="viridis",
        aspect="auto",
    )
    for row, length in enumerate(lengths):
        for column, depth in enumerate(depths):
            value = share.get((length, depth))
            if value is not None:
                colour = "white" if value < 0.6 else "black"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(depths)), [f"{depth:g}" for depth in depths])
    axis.set_yticks(range(len(lengths)), [str(length) for length in lengths])
    axis.set(xlabel="where the needle is (0 first snippet, 1 last)", ylabel="snippets")
    axis.set_title("full: share of needles found", loc="left", fontsize=10)
    figure.colorbar(image, ax=axis)


def _lines(axis: Any, summaries: Sequence[Summary], label: str) -> None:
    for number, (variant, kind) in enumerate(dict.fromkeys((s.variant, s.kind) for s in summaries)):
        line = sorted((s for s in summaries if (s.variant, s.kind) == (variant, kind)), key=lambda s: s.at or 0.0)
        axis.plot([s.at for s in line], [s.mean for s in line], "o-", color=f"C{number}", label=f"{variant}: {kind}")
    axis.set(xlabel=label, ylabel="share right", ylim=(0, 1.04))
    axis.legend(frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0.0, 1.0))
