"""The figure of accumulators: what adding in which way costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from fp16sim.plots.parts import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILION,
    new_figure,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fp16sim.experiments.accumulation import Accumulation

_ACCUMULATOR_LINES: dict[str, tuple[str, Any, str]] = {
    "fp16": (VERMILION, "-", "o"),
    "fp16, fused": (ORANGE, (0, (1, 1)), "s"),
    "fp16, pairwise": (PURPLE, (0, (5, 2)), "D"),
    "fp16, Kahan": (PURPLE, (0, (1, 1)), "v"),
    "fp16 in blocks of 16": (ORANGE, (0, (5, 2)), "^"),
    "V100": (SKY, "-", "v"),
    "A100": (SKY, (0, (5, 2)), "D"),
    "H100": (BLUE, "-", "^"),
    "fp32": (BLACK, "-", "o"),
}


def accumulation_figure(result: Accumulation, titles: dict[str, str]) -> Figure:
    """Error in ulps of fp16 against length, a panel for each kind of factors, with the bounds."""
    floor, ceiling = 1e-6, 1e7
    with style():
        figure = new_figure(12, 5.6)
        panels = figure.subplots(1, len(titles), sharey=True)
        lengths = np.array(result.lengths)
        for axes, (kind, title) in zip(panels, titles.items(), strict=True):
            for name, unit_errors in result.unit_errors[kind].items():
                for growth, dashes in ((lengths, "-"), (np.sqrt(lengths), (0, (1, 2)))):
                    axes.plot(lengths, growth * unit_errors, color=PALE, ls=dashes, lw=2.5)
                bound = lengths * unit_errors
                last = np.flatnonzero(bound < ceiling / 10)[-1]
                axes.annotate(
                    rf"$n\,u$, {name}",
                    (lengths[last], bound[last]),
                    xytext=(-2, 3),
                    textcoords="offset points",
                    ha="right",
                    color="#666666",
                )
            for name, errors in result.errors[kind].items():
                color, dashes, marker = _ACCUMULATOR_LINES[name]
                axes.plot(
                    lengths,
                    np.clip(errors, floor, ceiling),
                    color=color,
                    ls=dashes,
                    marker=marker,
                    ms=3 if "fused" in name else 4.5,
                    lw=1.4,
                    label=name,
                )
            axes.axhline(0.5, color=GREY, lw=0.8)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_ylim(floor / 2, ceiling * 2)
            axes.set_title(title[0].upper() + title[1:])
            axes.set_xlabel("length $n$ of the dot product")
        ticks = [floor, *10.0 ** np.arange(-4, 6, 2), ceiling]
        names = ["0", *(f"$10^{{{e}}}$" for e in range(-4, 6, 2)), "over-\nflow"]
        panels[0].set_yticks(ticks, names)
        panels[0].minorticks_off()
        panels[0].set_ylabel("error of the accumulator, ulps of fp16")
        panels[-1].annotate(
            "rounding the exact\nsum to fp16: 0.5",
            (lengths[0], 0.5),
            xytext=(0, -3),
            textcoords="offset points",
            va="top",
            color="#666666",
        )
        handles, labels = panels[0].get_legend_handles_labels()
        handles += [
            mpl.lines.Line2D([], [], color=PALE, lw=2.5, ls=dashes) for dashes in ("-", (0, (1, 2)))
        ]
        labels += [r"$n\,u\,\sum|x_iy_i|$", r"$\sqrt{n}\,u\,\sum|x_iy_i|$"]
        figure.legend(handles, labels, loc="outside lower center", ncols=6)
        return figure
