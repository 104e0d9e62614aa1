"""The experiment on accumulators: what it measures is what can be computed by hand."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fp16sim import plots
from fp16sim.experiments import accumulation as experiment


@pytest.fixture(scope="module")
def result():
    return experiment.accumulation(longest=12, trials=2)


def test_lengths_and_completeness(result):
    assert result.lengths == [16, 64, 256, 1024, 4096]
    for rows in result.errors.values():
        assert list(rows) == list(experiment.ACCUMULATORS)
        assert all(len(row) == 5 for row in rows.values())
    assert set(result.errors) == set(result.unit_errors) == set(experiment.KINDS)


def test_ones_stall_in_fp16_only(result):
    # 4096 - 2048 in units of 2^(12 - 10)
    assert result.errors["ones"]["fp16"] == [0, 0, 0, 0, 512]
    for name in ("fp16, pairwise", "fp16, Kahan", "fp16 in blocks of 16", "V100", "H100", "fp32"):
        assert result.errors["ones"][name] == [0] * 5


def test_errors_against_float64(result):
    x, y, rows = experiment.factors(256, 2, 0)
    total = np.zeros(len(x), np.float32)
    for k in range(256):
        total += x[:, k] * y[:, k]
    exact = (x.astype(np.float64) * y).sum(axis=1)
    ulp = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 10)
    expected = np.median((np.abs(total - exact) / ulp)[rows["positive"]])
    assert result.errors["positive"]["fp32"][2] == pytest.approx(expected, rel=1e-6)
    size = np.median((np.abs(x * y).sum(axis=1) / ulp)[rows["positive"]])
    assert result.unit_errors["positive"]["fp16"][2] == pytest.approx(size * 2.0**-11, rel=1e-5)


def test_errors_stay_below_the_bound(result):
    for kind, rows in result.errors.items():
        for fmt, name in (("fp16", "fp16"), ("fp32", "fp32")):
            bound = np.array(result.lengths) * result.unit_errors[kind][fmt]
            assert (np.array(rows[name]) <= 1.5 * bound + 0.5 * (fmt == "fp16")).all()


def test_side_by_side_is_the_same(result):
    done = []
    with ThreadPoolExecutor(2) as executor:
        again = experiment.accumulation(12, 2, executor=executor, on_result=done.append)
    assert again == result
    assert sorted(done) == sorted(experiment.ACCUMULATORS)


def test_overflow_is_infinite_and_none_in_json():
    x, y, _ = experiment.factors(2**16, 1, 0)
    assert np.isinf(experiment._dots(x, y, "fp16-pairwise")[-1])
    result = experiment.Accumulation([16], 1, 0, {"ones": {"a": [np.inf]}}, {})
    assert json.loads(json.dumps(result.to_dict()))["errors"] == {"ones": {"a": [None]}}


def test_the_figure_has_a_line_for_every_accumulator(result):
    figure = plots.accumulation_figure(result, experiment.KINDS)
    assert len(figure.axes) == 3
    for axes in figure.axes:
        labels = {line.get_label() for line in axes.lines}
        assert set(experiment.ACCUMULATORS) <= labels
        assert axes.get_xlabel()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"longest": 3}, "longest=3"), ({"longest": 25}, "longest=25"), ({"trials": 0}, "trials=0")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        experiment.accumulation(**arguments)
