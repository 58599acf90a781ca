"""Training curves: a run's `curves.csv` as a picture."""

from __future__ import annotations

import csv
from pathlib import Path

from longtake.errors import InputError


def draw_curves(run: Path) -> Path:
    """Draw losses and the share of exactly right answers over both stages of a run; returns the PNG's path.

    Raises:
        InputError: the run has no `curves.csv`.
    """
    source = run / "curves.csv"
    if not source.is_file():
        raise InputError(f"{source}: no such file; train first")
    # Drawing needs no screen.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 3.8), constrained_layout=True)
    offset = 0
    # Each stage has losses of its own; 0 of a loss has no place on a logarithmic axis.
    losses = ("features", "tokens", "text", "evidence", "next_tokens", "next_features")
    drawn: set[str] = set()
    for stage in dict.fromkeys(row["stage"] for row in rows):
        part = [row for row in rows if row["stage"] == stage]
        steps = [offset + int(row["step"]) for row in part]
        for axis, names in ((axes[0], losses), (axes[1], ("exact",))):
            for number, name in enumerate(names):
                values = [(x, float(row[name])) for x, row in zip(steps, part, strict=True) if row.get(name)]
                if axis is axes[0]:
                    values = [(x, y) for x, y in values if y > 0]
                if values:
                    axis.plot(
                        *zip(*values, strict=True),
                        color=f"C{number}",
                        linewidth=0.9,
                        label=name if name not in drawn else None,
                    )
                    drawn.add(name)
            if offset:
                axis.axvline(offset, color="0.6", linestyle=":", linewidth=1)
        # Names of short stages are wider than these: the layout must not make room for them.
        axes[1].text(offset, 1.02, f" {stage}", fontsize=9).set_in_layout(False)
        offset = steps[-1]
    axes[0].set(xlabel="step", ylabel="loss", yscale="log")
    if drawn:
        axes[0].legend(frameon=False, fontsize=8)
    axes[1].set(xlabel="step", ylabel="share of exactly right answers", ylim=(0, 1.08))
    path = run / "curves.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
