"""Swamping: the claims on one seed, its counts against a recount, the records."""

import json
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from fp16sim import data, events, plots
from fp16sim.experiments import swamping as experiment

LABELS = {name: variant.label for name, variant in experiment.VARIANTS.items()}


@pytest.fixture(scope="module")
def runs():
    """The variants that differ most, at 1e-4, for 20 epochs of seed 3."""
    names = ("fp32", "fp16", "bf16_master", "bf16", "bf16_stochastic")
    return {name: experiment.run_variant(name, 1e-4, 3, 20) for name in names}


@pytest.fixture(scope="module")
def result():
    return experiment.swamping([0], epochs=1)


def test_bf16_weights_do_not_learn_and_both_cures_do(runs):
    fp32 = runs["fp32"].accuracy
    assert fp32 > 0.4
    assert runs["bf16"].accuracy < 0.6 * fp32
    assert runs["bf16_master"].accuracy == pytest.approx(fp32, abs=0.05)
    assert runs["bf16_stochastic"].accuracy == pytest.approx(fp32, abs=0.05)


def test_the_narrower_the_more_is_swamped(runs):
    assert runs["bf16_master"].swamped < 0.05
    assert runs["fp32"].swamped < 0.05
    assert 0.15 < runs["fp16"].swamped < runs["bf16"].swamped
    assert runs["bf16"].swamped > 0.8


@pytest.mark.parametrize(("name", "dtype"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_swamped_is_a_recount_of_the_casts_of_others(monkeypatch, name, dtype):
    """Weight minus update, cast by NumPy or ml_dtypes, is the weight again."""
    seen = []
    announce = events.announce

    def keep(event):
        if isinstance(event, events.Updated):
            seen.append((event.before.copy(), event.update.copy()))
        announce(event)

    monkeypatch.setattr(events, "announce", keep)
    run = experiment.run_variant(name, 1e-3, 0, 1)
    weights, updates = (
        np.concatenate([x.ravel() for x in part]) for part in zip(*seen, strict=True)
    )
    moved = (weights - updates).astype(dtype).astype(np.float32)
    assert run.swamped == np.mean(moved[updates != 0] == weights[updates != 0])
    assert run.swamped > 0.01


def test_master_weights_and_rounding_are_the_only_differences():
    """Before the first update all runs of a format are one and the same."""
    for fmt in ("fp16", "bf16"):
        first = {experiment.run_variant(name, 1e-3, 0, 1).accuracies[0]
                 for name in (fmt, f"{fmt}_master", f"{fmt}_stochastic")}  # fmt: skip
        assert len(first) == 1


def test_accuracy_is_measured_before_the_first_epoch_and_after_the_last():
    assert experiment.measured(1) == [0, 1]
    assert experiment.measured(4) == [0, 4]
    assert experiment.measured(10) == [0, 4, 8, 10]
    run = experiment.run_variant("fp32", 1e-3, 0, 5)
    assert len(run.accuracies) == 3
    assert run.accuracies[0] < 0.25 < 0.5 < run.accuracy
    images = len(data.digits().test_images)
    assert run.accuracy * images == pytest.approx(round(run.accuracy * images))


def test_the_record_is_json(result):
    record = json.loads(json.dumps(result.to_dict()))
    assert set(record["runs"]) == set(experiment.VARIANTS)
    assert set(record["runs"]["bf16"]) == {"0.001", "0.0001", "3e-05"}
    (run,) = record["runs"]["bf16"]["3e-05"]
    assert run["seed"] == 0
    assert 0.9 < run["swamped"] < 1
    assert run["accuracy"] == run["accuracies"][-1]


def test_the_explanation_quotes_the_numbers():
    def made(accuracy, swamped):
        return [experiment.Run(seed, [0.1, accuracy], swamped) for seed in range(3)]

    numbers = dict.fromkeys(experiment.VARIANTS, (0.8, 0.01)) | {
        "fp16": (0.7, 0.5), "bf16": (0.2, 0.9), "bf16_stochastic": (0.81, 0.9),
    }  # fmt: skip
    runs = {
        name: {rate: made(*values) for rate in experiment.LEARNING_RATES}
        for name, values in numbers.items()
    }
    runs["bf16"][1e-4] = made(0.12, 0.97)
    runs["fp16"][3e-5] = made(0.65, 0.6)
    text = experiment.explain(experiment.Swamping([0, 60], runs))
    assert "60% of the updates of fp16 weights at a learning rate of 3e-05" in text
    assert "97% of the updates of bf16 weights at a learning rate of 0.0001" in text
    assert "(accuracy 0.120, fp32's 0.800)" in text
    assert "0.000 away" in text
    assert "in none more than 0.010" in text
    assert text.count(". ") == 1  # two sentences


def test_runs_are_the_same_on_any_executor(result):
    seen = []
    with ThreadPoolExecutor(2) as executor:
        spread = experiment.swamping(
            [0], 1, executor=executor, on_run=lambda name, rate, run: seen.append((name, rate))
        )
    assert spread == result
    assert sorted(seen) == sorted(
        (name, rate) for name in experiment.VARIANTS for rate in experiment.LEARNING_RATES
    )


@pytest.mark.parametrize(
    ("seeds", "epochs", "message"),
    [([], 1, "seeds="), ([0, 0], 1, "different"), ([-1], 1, ">= 0"), ([0], 0, "epochs=0")],
)
def test_bad_arguments(seeds, epochs, message):
    with pytest.raises(ValueError, match=message):
        experiment.swamping(seeds, epochs)


def test_the_figure_shows_every_run(result):
    figure = plots.swamping_figure(result, LABELS)
    assert len(figure.axes) == 6
    for axes, rate in zip(figure.axes[:3], experiment.LEARNING_RATES, strict=True):
        curves = {line.get_label(): line.get_ydata() for line in axes.lines}
        for name, label in LABELS.items():
            assert list(curves[label]) == result.runs[name][rate][0].accuracies
    for axes, rate in zip(figure.axes[3:], experiment.LEARNING_RATES, strict=True):
        widths = [bar.get_width() for bar in axes.patches]
        assert widths == [100 * result.runs[name][rate][0].swamped for name in LABELS]
