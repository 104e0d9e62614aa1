"""The style of all figures, and parts that lessons use, too.

Okabe-Ito colours, told apart in grey by line style or hatching; at least 9 pt; exponents as powers
of two; a format's limits always drawn alike. Same data, same bytes, on one machine.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fp16sim.counts import LOWEST_EXPONENT, Counts
from fp16sim.files import write_whole
from fp16sim.formats import FP16, Format
from fp16sim.plots.dark import darkened

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    "created": (BLACK, "++"),
    "propagated": (GREY, "++"),
}
FATE_LABELS = {
    "zero": "exactly zero before rounding",
    "flushed": "flushed to zero by rounding",
    "subnormal": "subnormal: few bits left",
    "normal": "normal: full precision",
    "saturated": "cut to the largest number",
    "overflowed": "overflowed",
    "created": "made infinite or NaN",
    "propagated": "infinite or NaN already",
}

#: what the files of a figure are called after its name: light and dark
ENDINGS = (".svg", ".png", "-dark.svg", "-dark.png")

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
    """Write ``name`` and ``name``-dark, each as SVG and PNG (160 dpi), whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / (name + ending) for ending in ENDINGS]
    written = [_write(figure, path) for path in paths[:2]]
    with darkened(figure):
        return written + [_write(figure, path) for path in paths[2:]]


def _write(figure: Figure, path: Path) -> Path:
    # Nothing that differs from one time to the next.
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    file = io.BytesIO()
    with style():
        figure.savefig(file, format=path.suffix[1:], dpi=160, metadata=metadata)
    write_whole(path, file.getvalue())
    return path


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
        exact = f"{value:.0f}" if value > 1 else power_of_two(value)
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
            if not width > 0:
                continue
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


def power_of_two(scale: float) -> str:
    """A scale as a power of two if it is one."""
    fraction, exponent = np.frexp(scale)
    return f"$2^{{{exponent - 1}}}$" if fraction == 0.5 else f"{scale:g}"
