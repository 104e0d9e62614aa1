"""From records to figures. Takes plain data and computes nothing that a table would not show."""

from fp16sim.plots.accumulation import accumulation_figure
from fp16sim.plots.bench import bench_figure
from fp16sim.plots.parts import (
    ENDINGS,
    FATE_LABELS,
    FATES,
    exponent_histogram,
    fate_bars,
    image_rows,
    label_limits,
    new_figure,
    save,
    style,
)
from fp16sim.plots.rescue import rescue_figure
from fp16sim.plots.swamping import swamping_figure
from fp16sim.plots.underflow import underflow_figure
from fp16sim.plots.xray import xray_figure

__all__ = [
    "ENDINGS",
    "FATES",
    "FATE_LABELS",
    "accumulation_figure",
    "bench_figure",
    "exponent_histogram",
    "fate_bars",
    "image_rows",
    "label_limits",
    "new_figure",
    "rescue_figure",
    "save",
    "style",
    "swamping_figure",
    "underflow_figure",
    "xray_figure",
]
