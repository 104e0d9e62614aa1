"""The memory account of a model on the GPU, and what CuPy's pool gives out for it."""

import numpy as np
import pytest

import fp16sim as fs
from fp16sim.backend import peak_memory
from fp16sim.xray.memory import POLICIES


def test_peak_memory():
    import cupy

    with peak_memory("cuda") as peak:
        first = cupy.zeros(10**6, np.float32)
        del first
        second = cupy.zeros(2 * 10**6, np.float32)
        del second
    assert 8 * 10**6 <= peak() < 8.1 * 10**6


@pytest.mark.parametrize("policy", POLICIES)
def test_the_account_is_that_of_the_host(policy):
    import cupy

    host = fs.models.task("autoencoder", "tiny")
    (images,) = host.batch(0)
    expected = fs.memory_report(host.model, (images,), policy)
    model = host.model.to("cuda")
    report = fs.memory_report(model, (cupy.asarray(images),), policy, measure=True)
    assert report.held == expected.held
    assert report.moments == expected.moments
    assert report.measured >= report.carrier_peak
