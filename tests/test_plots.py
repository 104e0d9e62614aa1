"""Figures: deterministic, complete, and drawn from the counts."""

import matplotlib as mpl
import numpy as np
import pytest

from fp16sim import plots
from fp16sim.counts import Counts
from fp16sim.events import Origin, Rounded
from fp16sim.experiments import rescue as experiment
from fp16sim.formats import FP16
from fp16sim.plots.dark import darkened
from fp16sim.rounding import round_to

LABELS = {name: variant.label for name, variant in experiment.VARIANTS.items()}


@pytest.fixture(scope="module")
def result():
    return experiment.rescue([0, 1], steps=3)


def test_same_data_same_bytes(result, tmp_path):
    for folder in ("a", "b"):
        plots.save(plots.rescue_figure(result, LABELS), tmp_path / folder, "rescue")
    names = ["rescue-dark.png", "rescue-dark.svg", "rescue.png", "rescue.svg"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def grounds(path):
    """The colours of the corner and of what differs most from it."""
    pixels = mpl.image.imread(path)[..., :3]
    away = abs(pixels - pixels[0, 0]).sum(axis=-1)
    return pixels[0, 0], pixels[np.unravel_index(away.argmax(), away.shape)]


def test_the_dark_version_has_its_greys_turned_round_and_its_colours_kept(tmp_path):
    with plots.style():
        figure = plots.new_figure(3, 2)
        axes = figure.add_subplot(title="title", xlabel="x")
        axes.bar([0, 1], [1, 2], color="#D55E00", edgecolor="white", hatch="//")
        axes.fill_between([0, 1], [0, 1], color="#DDDDDD", alpha=0.5)
        axes.annotate(
            "here", (0, 1), (1, 1), arrowprops={"arrowstyle": "->"}, bbox={"facecolor": "white"}
        )
        axes.plot([0, 1], [1, 2], "o", color="black", mfc="none")
    plots.save(figure, tmp_path, "x")
    paper, ink = grounds(tmp_path / "x.png")
    assert (paper == 1).all()
    assert ink == pytest.approx(0, abs=0.05)
    paper, ink = grounds(tmp_path / "x-dark.png")
    assert paper == pytest.approx(0.08, abs=0.01)
    assert ink == pytest.approx(0.92, abs=0.02)
    svg = (tmp_path / "x-dark.svg").read_text().lower()
    assert "#d55e00" in svg
    assert "#ffffff" not in svg
    assert "#000000" not in svg
    # The figure itself is as it was (the layout, made again, moves by a millionth of a point).
    plots.save(figure, tmp_path, "again")
    first, second = (mpl.image.imread(tmp_path / f"{name}.png") for name in ("x", "again"))
    assert abs(first - second).max() < 0.02


def test_ticks_that_come_back_are_turned_round_too():
    """Axes keep more ticks than they show, and a later drawing may show them again."""
    figure = plots.new_figure(3, 2)
    axes = figure.add_subplot(xticks=range(5))
    axes.xaxis.get_major_ticks()
    axes.set_xticks([0])
    with darkened(figure):
        axes.set_xticks(range(5))
        found = [(t.label1.get_color(), t.tick1line.get_color()) for t in axes.xaxis.majorTicks]
    assert len(found) == 5
    assert {round(mpl.colors.to_rgb(color)[0], 2) for pair in found for color in pair} == {0.92}
    for tick in axes.xaxis.majorTicks:
        assert mpl.colors.to_rgb(tick.label1.get_color()) == (0, 0, 0)


def test_a_failed_save_leaves_the_old_file(result, tmp_path, monkeypatch):
    figure = plots.rescue_figure(result, LABELS)
    (tmp_path / "rescue.svg").write_text("old")

    def fail(file, **_):
        file.write(b"half a figu")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, tmp_path, "rescue")
    assert [path.name for path in tmp_path.iterdir()] == ["rescue.svg"]
    assert (tmp_path / "rescue.svg").read_text() == "old"


def test_the_users_matplotlib_settings_are_left_alone(result, tmp_path):
    with mpl.rc_context({"font.size": 3.25, "svg.hashsalt": "mine", "axes.spines.top": True}):
        before = dict(mpl.rcParams)
        plots.save(plots.rescue_figure(result, LABELS), tmp_path, "rescue")
        assert dict(mpl.rcParams) == before


def test_histogram_bars_are_the_counts_and_fates():
    x = np.float32([0, 0, 2.0**-30, 1.5 * 2.0**-25, 2.0**-24, 2.0**-14, 1, 2.0**20])
    counts = Counts()
    counts.merge(Counts.of(Rounded(x, round_to(x, "fp16"), FP16, Origin("", "", "value"))))
    with plots.style():
        axes = plots.new_figure(4, 3).add_subplot()
        plots.exponent_histogram(axes, counts)
    bars = {
        round(bar.get_x() + bar.get_width() / 2 - 0.5, 1): bar
        for bar in axes.patches
        if bar.get_height()
    }
    heights = {at: bar.get_height() for at, bar in bars.items()}
    # 2^20 is beyond the axis and drawn in the last bar; zeros have a place of their own
    assert heights == {
        -49.5: 25.0, -30: 12.5, -25: 12.5, -24: 12.5, -14: 12.5, 0: 12.5, 18: 12.5,
    }  # fmt: skip

    def color(at):
        return mpl.colors.to_hex(bars[at].get_facecolor()).upper()

    fates = {-30: "flushed", -25: "subnormal", -24: "subnormal", -14: "normal", 18: "overflowed"}
    assert {at: color(at) for at in fates} == {
        at: plots.FATES[fate][0] for at, fate in fates.items()
    }


def test_fate_bars_fill_the_whole_width():
    counts = Counts()
    x = np.float32([0, 1e-9, 1e-7, 1, 1e9])
    counts.merge(Counts.of(Rounded(x, round_to(x, "fp16"), FP16, Origin("", "", "value"))))
    with plots.style():
        axes = plots.new_figure(4, 3).add_subplot()
        plots.fate_bars(axes, [("row", counts)])
    assert [bar.get_width() for bar in axes.patches if bar.get_width()] == [20.0] * 5
