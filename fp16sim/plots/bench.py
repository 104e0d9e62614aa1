"""The figure of a record of measurements: step times, memory, energy, and a roofline."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from fp16sim.plots.parts import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    new_figure,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fp16sim.bench.record import Record
    from fp16sim.bench.sweeps import SweepRow
    from fp16sim.bench.zoo import StepRow

#: of precisions: colour, and hatching that tells them apart in grey
_PRECISIONS = {
    "fp32": (GREY, ""),
    "tf32": (SKY, ".."),
    "bf16": (ORANGE, "\\\\\\"),
    "fp16": (BLUE, "///"),
}
#: of those that took turns: marker and label; ours again, since its conditions were others than
#: those of the bar
_PEERS = {
    "fp16sim": ("x", "fp16sim, in turns with"),
    "PyTorch, eager": ("o", "PyTorch, eager"),
    "PyTorch, compiled": ("D", "PyTorch, compiled"),
}
#: of dtypes in sweeps: colour and marker
_DTYPES = {
    "fp16": (BLUE, "o"),
    "bf16": (ORANGE, "s"),
    "tf32": (SKY, "^"),
    "fp32": (BLACK, "v"),
    "fp64": (PURPLE, "D"),
    "fp16, emulated": (VERMILION, "x"),
}
_MIB = 2**20


def bench_figure(record: Record) -> Figure:
    """Four views of a record: time, memory and energy of training steps, and the roofline.

    What was not measured is an empty view that says why.
    """
    with style():
        figure = new_figure(11.5, 8.8)
        grid = figure.add_gridspec(2, 2)
        size = f"size {record.plan.size}"
        _draw_bars(
            figure.add_subplot(grid[0, 0]),
            record.steps,
            f"A training step, {size}",
            "milliseconds (median, quartiles)",
            lambda row: 1e3 * row.timing.median,
            spread=lambda row: (1e3 * row.timing.lower, 1e3 * row.timing.upper),
            marks=_peer_times(record),
        )
        _draw_bars(
            figure.add_subplot(grid[0, 1]),
            record.steps,
            f"Memory of a training step, {size}",
            "most bytes allocated at a time, MiB",
            lambda row: None if row.peak is None else row.peak / _MIB,
        )
        _draw_bars(
            figure.add_subplot(grid[1, 0]),
            record.steps,
            f"Energy of a training step, {size}",
            "joules a step, whole board",
            lambda row: row.energy.joules,
            missing=next((row.energy.reason for row in record.steps if row.energy.reason), ""),
        )
        _draw_roofline(figure.add_subplot(grid[1, 1]), record)
        _label(figure, record)
        return figure


def _label(figure: Figure, record: Record) -> None:
    """On what this was measured, and what the bars are."""
    device, made = record.device, {(row.precision, row.storage) for row in record.steps}
    names = ("cupy", "numpy", "torch") if record.peers else ("cupy", "numpy")
    versions = [f"{name} {device.versions[name]}" for name in names if name in device.versions]
    cores = f" ({device.cores} cores)" if device.kind == "cpu" else f", driver {device.driver}"
    figure.suptitle(f"{device.name}{cores}, {record.date}, {', '.join(versions)}", fontsize=10)
    handles: list[Patch] = [
        Patch(label=_name_of(precision, storage), **_look(precision, storage))
        for precision in _PRECISIONS
        for storage in ("native", "emulated")
        if (precision, storage) in made
    ]
    if handles:
        title = None
        if any(storage == "emulated" for _, storage in made):
            title = "Outlined: emulated. Its time is that of the emulation, and no hardware's."
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title=title)


def _name_of(precision: str, storage: str) -> str:
    return precision if storage == "native" else f"{precision}, emulated"


def _look(precision: str, storage: str) -> dict[str, Any]:
    """Filled if native, outlined if emulated."""
    color, hatch = _PRECISIONS[precision]
    if storage == "native":
        return {"facecolor": color, "edgecolor": "white", "hatch": hatch}
    return {"facecolor": "white", "edgecolor": color, "hatch": hatch}


def _draw_bars(
    axes: Axes,
    rows: Sequence[StepRow],
    title: str,
    label: str,
    value_of: Callable[[StepRow], float | None],
    *,
    spread: Callable[[StepRow], tuple[float, float]] | None = None,
    marks: dict[str, dict[tuple[str, str], float]] | None = None,
    missing: str = "",
) -> None:
    """A group of bars for each network, a bar for each precision; ``marks`` are points on them."""
    axes.set_title(title)
    drawn = [(row, value) for row in rows if (value := value_of(row)) is not None]
    if not drawn:
        _say(axes, f"not measured: {missing}" if missing else "not measured in this run")
        return
    networks = list(dict.fromkeys(row.network for row, _ in drawn))
    shown = [p for p in _PRECISIONS if any(row.precision == p for row, _ in drawn)]
    width = 0.8 / len(shown)
    places = {}
    for row, value in drawn:
        offset = (shown.index(row.precision) - (len(shown) - 1) / 2) * width
        at = networks.index(row.network) + offset
        places[row.network, row.precision] = at
        axes.bar(at, value, 0.92 * width, lw=1.2, **_look(row.precision, row.storage))
        if spread is not None:
            lower, upper = spread(row)
            axes.plot([at, at], [lower, upper], color=BLACK, lw=1.4)
    for name, found in (marks or {}).items():
        ats = [places[key] for key in found if key in places]
        values = [value for key, value in found.items() if key in places]
        marker, label_of = _PEERS[name]
        axes.plot(ats, values, marker, color=VERMILION, mfc="white", mew=1.6, label=label_of)
    if marks:
        axes.legend(loc="upper left")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    values = [value for _, value in drawn]
    values += [value for found in (marks or {}).values() for value in found.values()]
    room = 10 if marks else 2  # for the legend
    axes.set_ylim(10 ** math.floor(math.log10(min(values)) - 0.1), room * max(values))
    axes.set_xticks(range(len(networks)), networks)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(label)


def _peer_times(record: Record) -> dict[str, dict[tuple[str, str], float]]:
    """Milliseconds a step of those that took turns, by network and precision."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for row in record.peers:
        if row.engine in _PEERS:
            times = found.setdefault(row.engine, {})
            times[row.network, row.precision] = 1e3 * row.timing.median
    return found


def _draw_roofline(axes: Axes, record: Record) -> None:
    """Achieved FLOP/s over operations a byte, under the ceilings that were measured."""
    axes.set_title("Roofline: what operations reach, and the best measured")
    rows = [row for row in record.sweeps if row.flop]
    if not rows:
        _say(axes, "not measured in this run (--sweeps)")
        return
    intensities = np.array([row.intensity for row in rows])
    left, right = intensities.min() / 2, intensities.max() * 2
    best = record.ceilings
    for dtype in dict.fromkeys(row.dtype for row in rows):
        color, marker = _DTYPES[dtype]
        mine = [row for row in rows if row.dtype == dtype]
        _draw_points(axes, [row for row in mine if row.operation == "gemm"], color, marker, dtype)
        _draw_points(axes, [row for row in mine if row.operation != "gemm"], color, marker)
        top = best.tflops.get(dtype)
        if top is None:
            continue
        bend = max(top * 1e3 / best.gbs, left) if best.gbs else left
        axes.plot([bend, right], [top, top], color=color, lw=1.0, ls=(0, (4, 2)))
    if best.gbs:
        bend = max(max(best.tflops.values(), default=0.0) * 1e3 / best.gbs, 2 * left)
        ends = np.array([left, bend])
        axes.plot(ends, ends * best.gbs / 1e3, color=GREY, lw=1.4, label=f"{best.gbs:.3g} GB/s")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_xlabel("operations a byte (products: filled; elementwise: open)")
    axes.set_ylabel("TFLOP/s")
    axes.set_ylim(top=4 * max(row.tflops for row in rows))  # room for the names
    axes.legend(loc="upper left", ncols=2)


def _draw_points(
    axes: Axes, rows: Sequence[SweepRow], color: str, marker: str, label: str | None = None
) -> None:
    fill = color if label else "none"
    x, y = [row.intensity for row in rows], [row.tflops for row in rows]
    axes.plot(x, y, marker, ls="", color=color, mfc=fill, ms=5, label=label if rows else None)


def _say(axes: Axes, text: str) -> None:
    """An empty view that says why it is."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    text = textwrap.fill(text, 44)
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=BLACK)
