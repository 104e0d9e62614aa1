"""Underflow by loss scale: the claims on one seed, the prediction against recounts, the records."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fp16sim import FP16, FP32, plots, round_to, watch
from fp16sim.experiments import underflow as experiment
from fp16sim.models import unet
from fp16sim.xray import XRay


@pytest.fixture(scope="module")
def result():
    return experiment.underflow([1], steps=12)


def share(result, name, fate):
    return result.runs[name][0].gradients.share(fate)


def test_the_watched_fp32_trains_as_fp32_does_bit_for_bit():
    task = unet.phantoms_task("plain", {**experiment.SETTINGS, "steps": 12}, 1)
    losses = [task.train_step(step).loss for step in range(12)]
    assert experiment.run_variant("fp32", 1, 12).losses == losses


def test_the_same_values_are_counted_in_fp32_and_in_fp16(result):
    totals = {run.gradients.total for runs in result.runs.values() for run in runs}
    assert len(totals) == 1
    assert totals.pop() > 10**5
    assert share(result, "fp32", "flushed") == share(result, "fp32", "subnormal") == 0


def test_the_smaller_the_scale_the_more_is_zero(result):
    zeros = [result.runs[f"fp16_{e}"][0].zero_in_all for e in experiment.EXPONENTS]
    assert zeros == sorted(zeros, reverse=True)
    assert zeros[0] > 0.9
    assert zeros[-1] < 0.001


def test_fp32_predicts_what_fp16_flushes():
    """In the first step, before the runs part: then only what fp16 did upstream differs."""
    predicted = experiment.run_variant("fp32", 1, 1).predicted
    for e in (-8, -5, 0, 3):
        run = experiment.run_variant(f"fp16_{e}", 1, 1)
        expected = predicted[experiment.PREDICTED.index(e)]
        assert expected > 1e-4
        assert run.zero_in_all == pytest.approx(expected, rel=0.1)


def test_the_prediction_is_a_recount(monkeypatch):
    """Rounding fp32's own gradients, scaled, flushes just the share that was predicted."""
    kept = []
    see = XRay.__call__

    def keep(self, event):
        if (
            getattr(event, "fmt", None) == experiment.WATCHED_FP32
            and event.origin.role == "activation gradient"
        ):
            kept.append(event.before.ravel().copy())
        see(self, event)

    monkeypatch.setattr(XRay, "__call__", keep)
    run = experiment.run_variant("fp32", 2, 1)
    values = np.concatenate(kept)
    assert len(values) == run.gradients.total
    for e in (-12, -5, 0, 7):
        rounded = round_to(values * np.float32(2.0**e), FP16)
        flushed = np.count_nonzero((rounded == 0) & (values != 0)) / len(values)
        assert run.predicted[experiment.PREDICTED.index(e)] == pytest.approx(flushed, abs=1e-12)


def test_four_times_the_pixels_do_what_a_quarter_of_the_scale_does():
    task = unet.phantoms_task("plain", {**experiment.SETTINGS, "steps": 1}, 0)
    images, masks = task.batch(0)
    seen = []
    for repeats in (1, 4):
        with watch(task.model) as xray:
            loss = task.model.loss(images.repeat(repeats, axis=0), masks.repeat(repeats, axis=0))
            loss.backward()
        seen.append(xray)
    for e in (-8, -4, 0):
        small, large = (
            xray.what_if(FP16, 2.0**scale, scope="down", role="activation gradient").share(
                "flushed"
            )
            for xray, scale in zip(seen, (e - 2, e), strict=True)
        )
        assert large == pytest.approx(small, rel=0.02)
        assert large > 1e-4


def test_a_hopeless_scale_moves_nothing_and_a_good_one_learns(result):
    losses = {name: runs[0].losses for name, runs in result.runs.items()}
    assert losses["fp32"][-1] < 0.75 * losses["fp32"][0]
    for name in ("fp16_0", "fp16_15", "fp16_dynamic"):
        assert losses[name][-1] == pytest.approx(losses["fp32"][-1], rel=0.02)
    assert losses["fp16_-12"][-1] > 1.05 * losses["fp32"][-1]


def fake(result, dice):
    """The record with other Dice scores: ``dice`` by variant, 0.9 where it has none."""
    runs = {
        name: [
            experiment.Run(
                0, dice.get(name, 0.9), dice.get(name, 0.9) - 0.2, run.losses, 0, 1.0,
                run.gradients, run.predicted,
            )
            for run in runs
        ]
        for name, runs in result.runs.items()
    }  # fmt: skip
    return experiment.Underflow(result.steps, runs)


@pytest.mark.parametrize(
    ("dice", "enough", "words"),
    [
        ({"fp16_-12": 0.2, "fp16_-10": 0.87}, 2.0**-8, "times 2^-8 or more and not times 2^-10"),
        ({"fp16_0": 0.879, "fp16_-12": 0.9}, 2.0**3, "so it needs scaling"),
        ({"fp16_15": 0.5}, None, "with the loss times 2^10, and not with the largest scale"),
        (dict.fromkeys((f"fp16_{e}" for e in experiment.EXPONENTS), 0.5), None, "No scale"),
        ({}, 2.0**-12, "nothing smaller was tried"),
        ({"fp32": 0.4}, 2.0**-12, "Train longer"),
    ],
)
def test_the_scale_that_is_enough(result, dice, enough, words):
    record = fake(result, dice)
    assert record.enough == enough
    text = experiment.explain(record)
    assert words in text
    if "Train" not in text:
        assert text.count(". ") == 1  # two sentences


def test_the_record_is_json(result):
    record = json.loads(json.dumps(result.to_dict()))
    assert set(record["runs"]) == set(experiment.VARIANTS)
    assert record["pixels"] == 2 * 48 * 48
    run = record["runs"]["fp16_0"][0]
    assert sum(run["activation_gradients"].values()) == pytest.approx(1)
    assert run["predicted_flushed"] is None
    assert len(record["runs"]["fp32"][0]["predicted_flushed"]) == len(record["predicted_scales"])


def test_runs_are_the_same_on_any_executor(monkeypatch):
    few = {name: experiment.VARIANTS[name] for name in ("fp32", "fp16_0")}
    monkeypatch.setattr(experiment, "VARIANTS", few)
    seen = []
    with ThreadPoolExecutor(2) as executor:
        spread = experiment.underflow(
            [4, 2], 1, executor=executor, on_run=lambda name, run: seen.append((name, run.seed))
        )
    alone = experiment.underflow([4, 2], 1)
    for name in few:
        assert [run.seed for run in spread.runs[name]] == [4, 2]
        for one, other in zip(spread.runs[name], alone.runs[name], strict=True):
            assert one.to_dict() == other.to_dict()
    assert sorted(seen) == sorted((name, seed) for name in few for seed in (2, 4))


@pytest.mark.parametrize(
    ("seeds", "steps", "message"),
    [([], 1, "seeds="), ([0, 0], 1, "different"), ([-1], 1, ">= 0"), ([0], 0, "steps=0")],
)
def test_bad_arguments(seeds, steps, message):
    with pytest.raises(ValueError, match=message):
        experiment.underflow(seeds, steps)


def test_the_figure_shows_every_run(result):
    figure = plots.underflow_figure(result)
    histogram, zeros, dice = figure.axes
    assert sum(bar.get_height() for bar in histogram.patches) == pytest.approx(100)
    points = [line for line in zeros.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == [2.0**e for e in experiment.EXPONENTS]
    for e, line in zip(experiment.EXPONENTS, points, strict=True):
        assert line.get_ydata()[0] == max(100 * share(result, f"fp16_{e}", "flushed"), 1e-4)
    assert {"fp32, range of the seeds", "lesions, dynamic scale"} <= set(
        dice.get_legend_handles_labels()[1]
    )


def test_watch_sees_no_narrowing_in_plain_fp32():
    task = unet.phantoms_task("plain", {**experiment.SETTINGS, "steps": 1}, 0)
    with watch(task.model) as xray:
        task.train_step(0)
    assert {key.fmt for key in xray.counts} == {FP32}
