"""The figure of the rescue: four views of one experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from fp16sim.plots.parts import (
    BLACK,
    FATE_LABELS,
    FATES,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    exponent_histogram,
    fate_bars,
    image_rows,
    label_limits,
    new_figure,
    power_of_two,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fp16sim.experiments.rescue import Rescue

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
    bottom.set_title(f"The same, loss × {power_of_two(scaled.final_scale)}")
    bottom.set_xlabel("size of a gradient value, |g|, when it is stored")
    for axes in (top, bottom):
        axes.set_ylabel("share of values, %")
    label_limits(top)


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
            rows.append((f"× {power_of_two(scaled.final_scale)}", scaled.layers[layer][role]))
        fate_bars(axes, rows)
        axes.set_title(f"{title}, from the loss down (seed {seed})")
    lower.set_xlabel("share of values, %")
    handles = [
        mpl.patches.Patch(facecolor=color, hatch=hatch, edgecolor=GREY, label=FATE_LABELS[fate])
        for fate, (color, hatch) in FATES.items()
        if fate in ("zero", "flushed", "subnormal", "normal")
    ]
    lower.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.45, -0.22), ncols=2, handleheight=1.2
    )
