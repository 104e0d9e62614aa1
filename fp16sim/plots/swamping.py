"""The figure of swamping: accuracy while learning, and the updates that were lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fp16sim.plots.parts import BLACK, BLUE, GREY, ORANGE, SKY, VERMILION, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fp16sim.experiments.swamping import Swamping

#: fp16 in blues, bf16 in oranges; how updates are added by dashes, marker and hatching
_LOOKS: dict[str, tuple[str, Any, str, str]] = {
    "fp32": (BLACK, "-", "", ""),
    "fp16_master": (SKY, (0, (1, 1)), "o", ".."),
    "fp16": (BLUE, "-", "s", ""),
    "fp16_stochastic": (BLUE, (0, (5, 2)), "^", "///"),
    "bf16_master": (ORANGE, (0, (1, 1)), "o", ".."),
    "bf16": (VERMILION, "-", "D", ""),
    "bf16_stochastic": (VERMILION, (0, (5, 2)), "v", "///"),
}


def swamping_figure(result: Swamping, labels: dict[str, str]) -> Figure:
    """A column for every learning rate: accuracy by epoch, and the share of updates lost."""
    rates = list(result.runs["fp32"])
    with style():
        figure = new_figure(11.5, 7.2)
        grid = figure.subplots(2, len(rates), sharey="row", height_ratios=[1.35, 1])
        for column, rate in enumerate(rates):
            _draw_accuracy(grid[0, column], result, rate, labels)
            _draw_lost(grid[1, column], result, rate, labels)
        seeds = len(result.runs["fp32"][rates[0]])
        grid[0, 0].set_ylabel(f"test accuracy\n(median of {seeds} seed{'s' * (seeds != 1)})")
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4)
        return figure


def _draw_accuracy(axes: Axes, result: Swamping, rate: float, labels: dict[str, str]) -> None:
    for place, (name, (color, dashes, marker, _)) in enumerate(_LOOKS.items()):
        curves = np.array([run.accuracies for run in result.runs[name][rate]])
        axes.plot(
            result.epochs,
            np.median(curves, axis=0),
            color=color,
            ls=dashes,
            marker=marker or None,
            # Lines that lie upon each other have their markers side by side.
            markevery=(place % 3, 3),
            ms=5,
            lw=3.5 if name == "fp32" else 1.5,
            alpha=0.45 if name == "fp32" else 1,
            label=labels[name],
        )
    axes.set_title(f"Learning rate {rate:g}")
    axes.set_xlabel("epoch")
    axes.set_ylim(0, 1)
    axes.set_xlim(0, result.epochs[-1])


def _draw_lost(axes: Axes, result: Swamping, rate: float, labels: dict[str, str]) -> None:
    for place, (name, (color, _, _, hatch)) in enumerate(_LOOKS.items()):
        shares = 100 * np.array([run.swamped for run in result.runs[name][rate]])
        middle = float(np.median(shares))
        axes.barh(place, middle, 0.75, color=color, hatch=hatch, edgecolor="white", lw=0.3)
        axes.plot([shares.min(), shares.max()], [place, place], color=GREY, lw=1.5)
        axes.annotate(
            f"{middle:.0f} %" if middle >= 0.95 else f"{middle:.1f} %",
            (shares.max(), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(_LOOKS)), [labels[name] for name in _LOOKS])
    axes.set_ylim(len(_LOOKS) - 0.5, -0.5)
    axes.set_xlim(0, 118)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("updates that left the weight as it was, %")
