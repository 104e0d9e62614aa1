"""The experiment: what the README claims, on one seed; its records; its errors."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fp16sim.experiments import rescue as experiment


@pytest.fixture(scope="module")
def result():
    return experiment.rescue([0], steps=400)


def error(result, name):
    return result.runs[name][0].test_mse


def test_unscaled_fp16_learns_nothing_and_scaling_rescues_it(result):
    fp32 = error(result, "fp32")
    assert fp32 < 0.8 * result.baseline_mse
    for name in ("fp16", "fp16_master"):
        assert error(result, name) > 1.2 * fp32
        assert error(result, name) == pytest.approx(result.baseline_mse, rel=0.01)
    assert error(result, "fp16_scaled") == pytest.approx(fp32, rel=0.02)


def test_the_baseline_is_the_mean_image(result, digits):
    mean = sum(digits.train_images.astype(np.float64)) / len(digits.train_images)
    errors = [
        (pixel - m) ** 2 for x in digits.test_images for pixel, m in zip(x, mean, strict=True)
    ]
    assert result.baseline_mse == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_the_signal_dies_in_activation_gradients(result):
    layers = result.runs["fp16_master"][0].layers
    assert layers["encoder.1"]["activation gradient"].share("flushed") > 0.3
    assert layers["encoder.0"]["weight gradient"].share("zero") > 0.99
    assert layers["encoder.0"]["weight gradient"].flushed == 0
    assert result.runs["fp16_master"][0].weight_gradients.share("flushed") < 0.03
    scaled = result.runs["fp16_scaled"][0]
    assert scaled.gradients.share("flushed") < 0.001


def test_fp32_flushes_nothing(result):
    counts = result.runs["fp32"][0].gradients
    assert counts.flushed == counts.overflowed == counts.saturated == 0
    assert counts.total == result.runs["fp16_scaled"][0].gradients.total


def test_the_explanation_quotes_the_numbers(result):
    text = experiment.explain(result)
    assert f"{error(result, 'fp32'):.4f}" in text
    assert f"{error(result, 'fp16_master'):.4f}" in text
    assert text.count(". ") == 1  # two sentences


def test_too_few_steps_are_not_explained_away():
    short = experiment.rescue([0], steps=3)
    assert "Train longer" in experiment.explain(short)


def test_runs_are_reproducible_on_any_executor():
    seen = []
    with ThreadPoolExecutor(3) as executor:
        spread = experiment.rescue(
            [4, 2], 3, executor=executor, on_run=lambda name, run: seen.append((name, run.seed))
        )
    alone = experiment.rescue([4, 2], 3)
    assert spread.to_dict() == alone.to_dict()
    assert [run.seed for run in alone.runs["fp16"]] == [4, 2]
    assert len(seen) == 8


@pytest.mark.parametrize(
    ("seeds", "steps", "message"),
    [
        ([], 1, "seeds="),
        ([0, 0], 1, "must be different"),
        ([-1], 1, "each >= 0"),
        ([0], 0, "steps=0"),
    ],
)
def test_bad_arguments(seeds, steps, message):
    with pytest.raises(ValueError, match=message):
        experiment.rescue(seeds, steps)


@pytest.mark.slow
def test_the_readmes_claim_over_five_seeds(tmp_path):
    """The README's main command: unscaled at least 40 % worse, scaled within 2 %, in every seed."""
    done = subprocess.run(
        [sys.executable, "-m", "fp16sim", "rescue", "--json", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    runs = json.loads(done.stdout)["runs"]
    assert [run["seed"] for run in runs["fp32"]] == [0, 1, 2, 3, 4]
    for fp32, plain, master, scaled in zip(*runs.values(), strict=True):
        assert min(plain["test_mse"], master["test_mse"]) > 1.4 * fp32["test_mse"]
        assert scaled["test_mse"] == pytest.approx(fp32["test_mse"], rel=0.02)
