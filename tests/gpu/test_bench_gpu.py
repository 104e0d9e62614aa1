"""What the bench measures, on a GPU: that it runs and is plausible. No time is asserted."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

import fp16sim as fs
from fp16sim.bench import clock, device, energy, fidelity, peers, sweeps, zoo
from fp16sim.bench.plan import PRECISIONS, Plan
from fp16sim.bench.record import Record
from fp16sim.cli import main

PLAN = Plan(
    size="tiny", device="cuda", steps=2, repeats=7, seconds=0.1, energy_seconds=0.5, turns=1,
    turn_steps=1, fast=True,
)  # fmt: skip


@pytest.mark.hardware("nothing is asynchronous")
def test_events_see_what_the_host_does_not_wait_for():
    import cupy

    x = cupy.ones(2**20, np.float32)
    timing = clock.time_call(lambda: cupy.tanh(x), "cuda", repeats=10, seconds=0.5)
    assert 0 < timing.lower <= timing.median <= timing.upper < 1
    assert timing.calls > 1  # a pass over 4 MB takes no millisecond


def test_energy_is_counted_or_it_is_said_why_not():
    import cupy

    a = cupy.ones((2048, 2048), np.float32)
    found = energy.energy_of(lambda: a @ a, "cuda", seconds=2.0, calls=10)
    if found.reason:
        assert found.joules is found.watts is None
    else:
        assert 10 < found.watts < 3000
        assert found.joules == pytest.approx(found.watts * found.seconds / found.calls)
        assert found.seconds >= 2


def test_the_device_is_described():
    found = device.describe("cuda")
    assert device.missing("cuda") == ""
    assert found.kind == "cuda"
    assert found.name
    assert found.memory > 2**30
    assert "driver" in found.cuda
    assert device.cache_bytes("cuda") > 2**18


@pytest.mark.parametrize("dtype", sweeps.DTYPES["cuda"])
def test_sweeps(dtype):
    rows, left_out = sweeps.sweep("cuda", PLAN, dtype)
    assert bool(rows) != bool(left_out)
    if dtype in ("fp16", "fp32", "fp64"):
        assert {row.operation for row in rows} == {"gemm", "copy", "add", "tanh"}
    for one in left_out:
        print(one)


def test_products_are_products():
    import cupy

    ((a, b, out), *_) = sweeps._operands("cuda", "fp32", (64, 64), 3, 2**16)
    sweeps._product("cuda", "fp32")(a, b, out)
    np.testing.assert_allclose(out.get(), a.get() @ b.get(), rtol=1e-4, atol=1e-4)
    assert isinstance(out, cupy.ndarray)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", fs.models.TASKS)
def test_steps(name, precision):
    found = zoo.measure_step(name, PLAN, precision, memory=2**33)
    assert found.storage == "native"
    assert found.peak > 0
    assert found.largest_batch > 0
    host = zoo.measure_step(name, Plan(size="tiny", steps=2, repeats=1, seconds=0.01), "fp32")
    assert found.loss == pytest.approx(host.loss, rel=0.05)
    if name in zoo.IN_USE:
        assert math.isfinite(zoo.measure_inference(name, PLAN, precision).per_second)


def test_fidelity_says_where_they_part():
    found = fidelity.fidelity("mlp", PLAN, "fp16")
    assert found.second == "native, CuPy"
    assert found.agreements
    share = sum(one.equal for one in found.agreements) / sum(one.values for one in found.agreements)
    assert share > 0.9
    assert found.second_losses[0] == pytest.approx(found.first_losses[0], rel=1e-2)


def test_against_pytorch():
    torch = pytest.importorskip("torch")
    rows, left_out = peers.compare("mlp", PLAN, "fp16")
    if torch.cuda.is_available():
        assert rows[1].engine == peers.EAGER
        assert rows[1].peak > 0
    else:
        assert "without CUDA" in left_out[0].why


def test_the_command(tmp_path):
    settings = ["mlp", "--fast", "--device", "cuda", "--precision", "fp32", "--precision", "fp16"]
    done = CliRunner().invoke(
        main, ["bench", *settings, "--fidelity", "--json", "--out", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    record = Record.from_dict(json.loads(done.stdout))
    assert record.device.kind == "cuda"
    assert [row.precision for row in record.steps] == ["fp32", "fp16"]
    assert (tmp_path / "bench.svg").exists()
