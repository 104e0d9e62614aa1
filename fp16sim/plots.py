"""From records to figures. Takes plain data and computes nothing that a table would not show.

Style: Okabe-Ito colours, told apart in grey by line style or hatching; at least 9 pt; exponents as
powers of two; a format's limits always drawn alike. Same data, same bytes, on one machine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fp16sim.events import LOWEST_EXPONENT, Counts
from fp16sim.formats import FP16, Format

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fp16sim.experiments.accumulation import Accumulation
    from fp16sim.experiments.rescue import Rescue

# Okabe and Ito, "Color Universal Design", 2008.
BLACK, ORANGE, SKY = "#000000", "#E69F00", "#56B4E9"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY, PALE = "#888888", "#DDDDDD"

#: what a value became: colour and hatching
FATES: dict[str, tuple[str, str]] = {
    "zero": (PALE, ""),
    "flushed": (VERMILION, "///"),
    "subnormal": (ORANGE, ".."),
    "normal": (BLUE, ""),
    "saturated": (PURPLE, "xx"),
    "overflowed": (BLACK, ""),
}
FATE_LABELS = {
    "zero": "exactly zero before rounding",
    "flushed": "flushed to zero by rounding",
    "subnormal": "subnormal: few bits left",
    "normal": "normal: full precision",
    "saturated": "cut to the largest number",
    "overflowed": "overflowed",
}

_STYLE: dict[str, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "fp16sim",
    "svg.fonttype": "path",
}


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's defaults with this project's changes; yours are back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]  # a Literal of all names
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, directory: Path, name: str) -> list[Path]:
    """Write ``name``.svg and ``name``.png (160 dpi), each whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, metadata in (("svg", {"Date": None}), ("png", {})):
        path = directory / f"{name}.{suffix}"
        handle, temporary = tempfile.mkstemp(dir=directory, suffix=f".{suffix}")
        try:
            with style(), os.fdopen(handle, "wb") as file:
                figure.savefig(file, format=suffix, dpi=160, metadata=metadata)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        written.append(path)
    return written


# --- parts that lessons use, too ---------------------------------------------------------------


def exponent_histogram(
    axes: Axes, counts: Counts, fmt: Format = FP16, *, lowest: int = -46, highest: int = 18
) -> None:
    """Draw where values lay before rounding: share by floor(log2|x|), and a bar for exact zeros.

    Bars are coloured by what the format can do with such values, and its limits are lines: the
    smallest subnormal number, the smallest normal one, and the largest. Values outside of
    ``lowest``..``highest`` are added to the outermost bars.
    """
    inside = np.zeros(highest - lowest + 1)
    for e in np.flatnonzero(counts.exponents) + LOWEST_EXPONENT:
        inside[np.clip(e, lowest, highest) - lowest] += counts.exponents[e - LOWEST_EXPONENT]
    exponents = np.arange(lowest, highest + 1)
    smallest = fmt.emin - fmt.precision + 1
    fates = np.select(
        # In the bin below the smallest number values are past the middle, and round up to it.
        [exponents < smallest - 1, exponents < fmt.emin, exponents <= fmt.emax],
        ["flushed", "subnormal", "normal"],
        "overflowed",
    )
    for fate in dict.fromkeys(fates):
        color, hatch = FATES[fate]
        here = fates == fate
        height = 100 * inside[here] / max(counts.total, 1)
        axes.bar(
            exponents[here] + 0.5, height, 1.0, color=color, hatch=hatch, edgecolor="white", lw=0.3
        )
    zero_at = lowest - 3
    axes.bar(zero_at, 100 * counts.share("zero"), 2.0, color=PALE, edgecolor=GREY, lw=0.8)
    for at in (smallest, fmt.emin, fmt.emax + 1):
        axes.axvline(at, color=BLACK, lw=1.0, ls=(0, (4, 2)))
    ticks = [e for e in range(lowest, highest + 1) if e % 8 == 0]
    axes.set_xticks([zero_at, *ticks], ["0", *(f"$2^{{{e}}}$" for e in ticks)])
    axes.set_xlim(zero_at - 2, highest + 1)


def label_limits(axes: Axes, fmt: Format = FP16) -> None:
    """Write beside the lines of an exponent histogram what they are."""
    for value, text, side in (
        (fmt.smallest_subnormal, "smallest\n", "right"),
        (fmt.smallest_normal, "smallest\nnormal ", "left"),
        (fmt.max, "largest\n", "right"),
    ):
        exact = f"{value:.0f}" if value > 1 else _power(value)
        axes.annotate(
            text + exact,
            (np.log2(value), axes.get_ylim()[1]),
            xytext=(-4 if side == "right" else 4, -2),
            textcoords="offset points",
            ha=side,
            va="top",
            fontsize=9,
        )


def fate_bars(axes: Axes, rows: list[tuple[str, Counts]]) -> None:
    """Draw a horizontal bar of 100 % for every row, divided by what its values became."""
    for position, (_, counts) in enumerate(rows):
        left = 0.0
        for fate, (color, hatch) in FATES.items():
            width = 100 * counts.share(fate)
            axes.barh(
                position,
                width,
                0.78,
                left=left,
                color=color,
                hatch=hatch,
                edgecolor="white",
                lw=0.3,
            )
            left += width
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)


def image_rows(axes: Axes, rows: list[tuple[str, Any]]) -> None:
    """Draw rows of 8x8 images, values from 0 (white) to 1 (black), each row with its label."""
    gap = 1
    count = len(rows[0][1])
    canvas = np.zeros((len(rows) * (8 + gap) - gap, count * (8 + gap) - gap))
    for r, (_, images) in enumerate(rows):
        for c, image in enumerate(images):
            top, left = r * (8 + gap), c * (8 + gap)
            canvas[top : top + 8, left : left + 8] = np.asarray(image).reshape(8, 8)
    axes.imshow(canvas, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks([r * (8 + gap) + 3.5 for r in range(len(rows))], [label for label, _ in rows])
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


# --- whole figures -----------------------------------------------------------------------------

_RUN_LINES: dict[str, tuple[str, Any, float]] = {
    "fp32": (BLACK, "-", 3.5),
    "fp16": (VERMILION, (0, (1, 1)), 2.2),
    "fp16_master": (ORANGE, (0, (5, 2)), 1.4),
    "fp16_scaled": (SKY, "-", 1.4),
}


def rescue_figure(result: Rescue, labels: dict[str, str]) -> Figure:
    """Four views of the rescue: drawings, losses, where gradients lay and where they died.

    Everything but the loss curves is of the first seed.
    """
    with style():
        figure = new_figure(11.5, 9.8)
        grid = figure.add_gridspec(3, 2, height_ratios=[1, 0.8, 0.8], width_ratios=[1.12, 1])
        _draw_digits(figure.add_subplot(grid[0, 0]), result, labels)
        _draw_losses(figure.add_subplot(grid[0, 1]), result, labels)
        top = figure.add_subplot(grid[1, 0])
        bottom = figure.add_subplot(grid[2, 0], sharex=top, sharey=top)
        _draw_histograms(top, bottom, result)
        upper = figure.add_subplot(grid[1, 1])
        lower = figure.add_subplot(grid[2, 1], sharex=upper)
        _draw_layers(upper, lower, result)
        return figure


def _draw_digits(axes: Axes, result: Rescue, labels: dict[str, str]) -> None:
    rows = [("test images", result.originals)]
    rows += [
        (labels[name].replace(" + ", " +\n"), runs[0].reconstructions)
        for name, runs in result.runs.items()
    ]
    image_rows(axes, rows)
    axes.set_title(f"What each network draws (seed {result.runs['fp32'][0].seed})")


def _draw_losses(axes: Axes, result: Rescue, labels: dict[str, str]) -> None:
    for name, runs in result.runs.items():
        color, dashes, width = _RUN_LINES[name]
        for position, run in enumerate(runs):
            axes.plot(
                range(1, len(run.losses) + 1),
                run.losses,
                color=color,
                ls=dashes,
                lw=width,
                label=labels[name] if position == 0 else None,
            )
    axes.axhline(result.baseline_mse, color=GREY, lw=0.8)
    axes.annotate(
        "predicting the mean image",
        (result.steps, result.baseline_mse),
        xytext=(0, 5),
        textcoords="offset points",
        ha="right",
        color="#555555",
    )
    axes.set_ylim(0, 1.35 * result.baseline_mse)
    axes.set_xlim(0, result.steps)
    axes.set_xlabel("training step")
    axes.set_ylabel("training loss\n(mean squared error per pixel)")
    seeds = len(next(iter(result.runs.values())))
    axes.set_title(f"How they learn ({seeds} seed{'s' * (seeds != 1)} each)")
    axes.legend(loc="lower left")


def _draw_histograms(top: Axes, bottom: Axes, result: Rescue) -> None:
    plain, scaled = result.runs["fp16_master"][0], result.runs["fp16_scaled"][0]
    exponent_histogram(top, plain.gradients)
    exponent_histogram(bottom, scaled.gradients)
    top.set_title(f"All gradients before rounding to fp16 (seed {plain.seed}), loss × 1")
    bottom.set_title(f"The same, loss × {_power(scaled.final_scale)}")
    bottom.set_xlabel("size of a gradient value, |g|, when it is stored")
    for axes in (top, bottom):
        axes.set_ylabel("share of values, %")
    label_limits(top)


def _power(scale: float) -> str:
    """A scale as a power of two if it is one."""
    fraction, exponent = np.frexp(scale)
    return f"$2^{{{exponent - 1}}}$" if fraction == 0.5 else f"{scale:g}"


def _draw_layers(upper: Axes, lower: Axes, result: Rescue) -> None:
    for axes, role, title in (
        (upper, "activation gradient", "Activation gradients"),
        (lower, "weight gradient", "Weight gradients"),
    ):
        rows = []
        seed = result.runs["fp16_master"][0].seed
        plain, scaled = result.runs["fp16_master"][0], result.runs["fp16_scaled"][0]
        for layer in plain.layers:
            rows.append((f"{layer}  × 1", plain.layers[layer][role]))
            rows.append((f"× {_power(scaled.final_scale)}", scaled.layers[layer][role]))
        fate_bars(axes, rows)
        axes.set_title(f"{title}, from the loss down (seed {seed})")
    lower.set_xlabel("share of values, %")
    handles = [
        mpl.patches.Patch(facecolor=color, hatch=hatch, edgecolor=GREY, label=FATE_LABELS[fate])
        for fate, (color, hatch) in FATES.items()
        if fate not in ("saturated", "overflowed")
    ]
    lower.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.45, -0.22), ncols=2, handleheight=1.2
    )


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
