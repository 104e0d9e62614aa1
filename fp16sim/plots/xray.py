"""The figure of an X-ray: sizes of gradients, losses by layer and step, the scale over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fp16sim.formats import FP32, Format
from fp16sim.plots.parts import (
    BLUE,
    VERMILION,
    exponent_histogram,
    label_limits,
    new_figure,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fp16sim.xray import XRay

# Rows of the heat map; more could not be read.
MOST_LAYERS = 24


def xray_figure(xray: XRay) -> Figure:
    """Three views: histograms of activations and gradients, losses by layer and step, the scale."""
    fmt = _narrowest(xray)
    with style():
        figure = new_figure(11.5, 8.6)
        grid = figure.add_gridspec(3, 2, height_ratios=[1, 1.1, 0.6])
        for column, role in enumerate(("activation", "gradient")):
            axes = figure.add_subplot(grid[0, column])
            exponent_histogram(axes, xray.select(role=role, fmt=fmt), fmt)
            axes.set_title(f"{role.capitalize()}s before rounding to {fmt}")
            axes.set_xlabel("size of a value when it is stored")
            axes.set_ylabel("share of values, %")
            axes.set_ylim(top=1.2 * axes.get_ylim()[1])  # room for the names of limits
            label_limits(axes, fmt)
        heat = figure.add_subplot(grid[1, :])
        _draw_heat(heat, xray)
        _draw_scale(figure.add_subplot(grid[2, :], sharex=heat), xray)
        return figure


def _narrowest(xray: XRay) -> Format:
    """The format with the fewest bits that values were stored in."""
    return min({key.fmt for key in xray.counts}, key=lambda fmt: fmt.bits, default=FP32)


def _draw_heat(axes: Axes, xray: XRay) -> None:
    """The share of values other than zero that were lost, for every module and step."""
    layers: list[str] = []
    for key in xray.counts:
        if key.role.endswith("gradient") and key.scope and key.scope not in layers:
            layers.append(key.scope)
    layers = sorted(layers, key=lambda scope: -_lost_in(xray, scope))[:MOST_LAYERS]
    steps = xray.finished_steps
    lost = np.full((max(len(layers), 1), max(len(steps), 1)), np.nan)
    rows = {layer: row for row, layer in enumerate(layers)}
    for column, step in enumerate(steps):
        sums = np.zeros((len(lost), 2))
        for key, (total, zero, flushed, _, saturated, over, *nonfinite) in step.counts.items():
            if key.scope in rows and key.role.endswith("gradient"):
                sums[rows[key.scope]] += flushed + saturated + over + sum(nonfinite), total - zero
        with np.errstate(all="ignore"):
            lost[:, column] = 100 * sums[:, 0] / sums[:, 1]
    image = axes.imshow(
        lost, aspect="auto", cmap="cividis", vmin=0, vmax=100, interpolation="nearest"
    )
    axes.set_yticks(range(len(layers)), layers)
    axes.set_title("Gradients that are lost, by layer and step")
    axes.figure.colorbar(image, ax=axes, label="lost, % of those not zero", pad=0.01)


def _lost_in(xray: XRay, scope: str) -> float:
    return xray.select(scope=scope, role="gradient").lost


def _draw_scale(axes: Axes, xray: XRay) -> None:
    """The loss scale of every step; crosses where a step was skipped."""
    steps = xray.finished_steps
    scales = [step.scale for step in steps]
    axes.step(range(len(steps)), scales, where="mid", color=BLUE, lw=1.6)
    skipped = [step.index for step in steps if step.taken is False]
    marks = [scales[index] for index in skipped]
    axes.plot(skipped, marks, "x", color=VERMILION, ms=6, mew=1.6, label="step skipped")
    if all(scale > 0 for scale in scales):
        axes.set_yscale("log", base=2)
    axes.set_xlabel("step")
    axes.set_ylabel("loss scale")
    axes.set_title("The loss scale")
    if skipped:
        axes.legend(loc="upper right")
