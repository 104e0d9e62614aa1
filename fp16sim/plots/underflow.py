"""The figure of underflow: where gradients lie, what each loss scale saves, and what it is for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fp16sim.plots.parts import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PALE,
    VERMILION,
    exponent_histogram,
    label_limits,
    new_figure,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from fp16sim.experiments.underflow import Run, Underflow

# Percent: what is less is drawn here.
_FLOOR = 1e-4

# The largest scale that is drawn.
_MOST = 2.0**18


def underflow_figure(result: Underflow) -> Figure:
    """Three views: the histogram of fp32's gradients, zeros by loss scale, Dice by loss scale."""
    with style():
        figure = new_figure(11.5, 8.2)
        grid = figure.add_gridspec(2, 2, height_ratios=[0.8, 1])
        _draw_histogram(figure.add_subplot(grid[0, :]), result)
        _draw_zeros(figure.add_subplot(grid[1, 0]), result)
        _draw_dice(figure.add_subplot(grid[1, 1]), result)
        return figure


def _draw_histogram(axes: Axes, result: Underflow) -> None:
    first = result.runs["fp32"][0]
    exponent_histogram(axes, first.gradients, lowest=-52, highest=16)
    label_limits(axes)
    axes.set_title(f"Activation gradients in fp32, and what fp16 can hold (seed {first.seed})")
    axes.set_xlabel("size of a gradient value, |g|, loss × 1")
    axes.set_ylabel("share of values, %")


def _static(result: Underflow) -> list[tuple[float, list[Run]]]:
    """The runs of every static scale."""
    names = [name for name in result.runs if name not in ("fp32", "fp16_dynamic")]
    return [(result.runs[name][0].final_scale, result.runs[name]) for name in names]


def _draw_zeros(axes: Axes, result: Underflow) -> None:
    scales = [scale for scale in result.predicted_scales if scale <= _MOST]
    predicted = [result.predicted_flushed(scale) for scale in scales]
    axes.plot(scales, _percent(predicted), color=BLACK, lw=1.8, label="predicted from fp32's run")
    for position, (scale, runs) in enumerate(_static(result)):
        flushed = np.array([run.gradients.share("flushed") for run in runs])
        zero = np.array([run.zero_in_all for run in runs])
        for values, color, marker, fill, label in (
            (zero, ORANGE, "^", "none", "fp16: zero after rounding"),
            (flushed, VERMILION, "o", VERMILION, "fp16: of these not zero before it"),
        ):
            axes.plot(
                np.full(len(runs), scale),
                _percent(values),
                marker,
                color=color,
                mfc=fill,
                ms=7 if marker == "^" else 3.5,
                label=label if position == 0 else None,
            )
    axes.set_title("Gradients that become zero, by loss scale")
    axes.set_ylabel("share of values, %")
    axes.set_yscale("log")
    axes.set_ylim(_FLOOR / 2, 200)
    axes.set_yticks(
        [_FLOOR, 1e-3, 1e-2, 0.1, 1, 10, 100], ["0", "0.001", "0.01", "0.1", "1", "10", "100"]
    )
    axes.minorticks_off()
    _scale_axis(axes)
    axes.legend(loc="upper right")


def _percent(shares: ArrayLike) -> NDArray[np.float64]:
    """In percent, and what is too little to be drawn at the place of zero."""
    percent: NDArray[np.float64] = np.clip(100 * np.asarray(shares), _FLOOR, None)
    return percent


def _draw_dice(axes: Axes, result: Underflow) -> None:
    static = _static(result)
    scales = [scale for scale, _ in static]
    for attribute, color, dashes, marker, label in (
        ("mean_dice", BLUE, "-", "o", "mean of the classes"),
        ("lesion_dice", VERMILION, (0, (4, 2)), "s", "lesions"),
    ):
        fp32 = [getattr(run, attribute) for run in result.runs["fp32"]]
        axes.axhspan(min(fp32), max(fp32), color=PALE, lw=0)
        values = np.array([[getattr(run, attribute) for run in runs] for _, runs in static])
        middle = np.median(values, axis=1)
        spread = [middle - values.min(axis=1), values.max(axis=1) - middle]
        axes.errorbar(
            scales, middle, spread, color=color, ls=dashes, marker=marker, ms=4.5, lw=1.5,
            capsize=3, label=f"{label}, static scale",
        )  # fmt: skip
        dynamic = result.runs["fp16_dynamic"]
        axes.plot(
            [run.final_scale for run in dynamic],
            [getattr(run, attribute) for run in dynamic],
            marker,
            color=color,
            mfc="white",
            ms=5.5,
            label=f"{label}, dynamic scale",
        )
    axes.plot([], [], color=PALE, lw=8, label="fp32, range of the seeds")
    if result.enough is not None:
        axes.axvline(result.enough, color=GREY, lw=1.0, ls=(0, (1, 1)))
    seeds = len(static[0][1])
    axes.set_title(f"How well it segments, by loss scale ({seeds} seed{'s' * (seeds != 1)})")
    axes.set_ylabel("Dice on test images")
    axes.set_ylim(-0.02, 1.02)
    _scale_axis(axes)
    axes.legend(loc="lower right")


def _scale_axis(axes: Axes) -> None:
    exponents = range(-16, 17, 4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(
        [2.0**e for e in exponents], ["1" if not e else f"$2^{{{e}}}$" for e in exponents]
    )
    axes.minorticks_off()
    axes.set_xlim(2.0**-14, 2.0**18)
    axes.set_xlabel(
        "loss scale (2$^{-k}$: as if the loss were a mean over 2$^{k}$ times the pixels)"
    )
