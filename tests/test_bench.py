"""Clocks, counters and sweeps, with pretended time, NVML and GPU."""

import itertools
import math
import sys
import types
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import strict_array
from strict_array import StrictArray, strict

import fp16sim as fs
from fp16sim import backend, events
from fp16sim.bench import clock, device, fidelity, run, sweeps, zoo
from fp16sim.bench.clock import Timing, rotated, time_call, time_in_turns
from fp16sim.bench.energy import energy_of
from fp16sim.bench.plan import LeftOut, Plan

strict_arrays = strict_array.strict_arrays  # a fixture

QUICK = Plan(size="tiny", names=("mlp",), steps=2, repeats=2, seconds=0.01, fast=True)


class FakeTime:
    """A clock that only moves when it is told to; ``time`` and CUDA's events in one."""

    def __init__(self):
        self.now, self.synchronized, self.waits = 100.0, 0, 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def taking(self, *seconds):
        """A function whose calls take so long, in turn."""
        turn = itertools.cycle(seconds)
        return lambda: self.sleep(next(turn))


@pytest.fixture
def fake_time(monkeypatch):
    made = FakeTime()
    for name in ("clock", "energy"):
        monkeypatch.setattr(f"fp16sim.bench.{name}.time", made)
    return made


@pytest.fixture
def fake_gpu(monkeypatch, strict_arrays, fake_time):
    """CuPy's stand-in with events, a device and a pool; events read the fake time."""

    class Event:
        at = None

        def record(self):
            self.at = fake_time.now

        def synchronize(self):
            assert self.at is not None

    class Device:
        id, pci_bus_id = 0, "0000:AB:00.0"

        def synchronize(self):
            fake_time.synchronized += 1
            fake_time.sleep(fake_time.waits)

    properties = {"name": b"Pretended GPU 1", "totalGlobalMem": 2**34, "l2CacheSize": 2**16}
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda number: properties,
        memGetInfo=lambda: (2**30, 2**34),
        driverGetVersion=lambda: 13010,
        runtimeGetVersion=lambda: 13000,
    )
    cuda = types.SimpleNamespace(
        runtime=runtime,
        Event=Event,
        Device=Device,
        get_elapsed_time=lambda start, end: 1e3 * (end.at - start.at),
    )
    monkeypatch.setattr(strict, "cuda", cuda)
    pool = types.SimpleNamespace(free_all_blocks=lambda: None)
    monkeypatch.setattr(strict, "get_default_memory_pool", lambda: pool, raising=False)
    return fake_time


class NVMLError(Exception):
    pass


def fake_nvml(monkeypatch, fake_time, watts=250.0, **replaced):
    """NVML whose counter follows the fake time."""
    module = types.ModuleType("pynvml")
    module.NVMLError = NVMLError
    module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM = 1, 2
    module.calls = []
    functions = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByPciBusId": lambda place: f"GPU at {place}",
        "nvmlDeviceGetTotalEnergyConsumption": lambda gpu: round(watts * fake_time.now * 1e3),
        "nvmlSystemGetDriverVersion": lambda: "580.00",
        "nvmlDeviceGetClockInfo": lambda gpu, which: 1000 * which,
        "nvmlDeviceGetMaxClockInfo": lambda gpu, which: 2000 * which,
        "nvmlDeviceGetPowerManagementLimit": lambda gpu: 700_000,
    } | replaced

    def recorded(name, function):
        def call(*arguments):
            module.calls.append((name, *arguments))
            return function(*arguments)

        return call

    for name, function in functions.items():
        setattr(module, name, recorded(name, function))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def refusing(*_):
    raise NVMLError("Not Supported")


class TestClock:
    def test_median_and_quartiles_of_laps(self, fake_time):
        call = fake_time.taking(9, 9, 9, 9, 1, 2, 3, 4, 50)  # three to warm up, one to be sized
        timing = time_call(call, "cpu", repeats=5, seconds=1e6)
        assert timing == Timing(median=3, lower=2, upper=4, laps=5, calls=1)

    def test_short_calls_are_timed_together(self, fake_time):
        calls = itertools.count()

        def call():
            next(calls)
            fake_time.sleep(1e-5)

        timing = time_call(call, "cpu", repeats=5, warmup=2)
        assert timing.calls == 100
        assert timing.laps == 5
        assert timing.median == pytest.approx(1e-5)
        assert next(calls) == 2 + 1 + 5 * 100

    def test_ends_when_the_time_is_up_but_not_before_seven_laps(self, fake_time):
        slow = time_call(fake_time.taking(10.0), "cpu", seconds=2)
        assert slow.laps == clock.FEWEST_LAPS == 7
        assert time_call(fake_time.taking(0.1), "cpu", seconds=2).laps == pytest.approx(20, abs=1)
        assert time_call(fake_time.taking(0.001), "cpu", seconds=2).laps == 50

    def test_a_call_that_takes_no_time_is_refused_and_not_divided_by(self, fake_time):
        with pytest.raises(ValueError, match=r"median=0\.0 is not allowed"):
            time_call(lambda: None, "cpu")

    def test_never_inside_an_observer(self, fake_time):
        with (
            events.observe(lambda event: None),
            pytest.raises(RuntimeError, match="time outside of the block"),
        ):
            time_call(fake_time.taking(1), "cpu")
        with (
            events.observe(lambda event: None),
            pytest.raises(RuntimeError, match="time outside of the block"),
        ):
            time_in_turns({"a": fake_time.taking(1)}, "cpu")

    def test_inputs_are_rotated(self):
        seen = []
        call = rotated(lambda a, b: seen.append((a, b)), [(1, 2), (3, 4), (5, 6)])
        for _ in range(4):
            call()
        assert seen == [(1, 2), (3, 4), (5, 6), (1, 2)]
        with pytest.raises(ValueError, match="inputs is empty"):
            rotated(print, [])

    def test_turns(self, fake_time):
        order = []

        def contender(name, seconds):
            def call():
                order.append(name)
                fake_time.sleep(seconds)

            return call

        found = time_in_turns(
            {"a": contender("a", 1.0), "b": contender("b", 3.0)}, "cpu", turns=2, calls=2
        )
        assert "".join(order) == "aaabbb" * 3  # one of three, and one turn of three, do not count
        assert found == {"a": Timing(1, 1, 1, 2, 2), "b": Timing(3, 3, 3, 2, 2)}

    def test_cuda_events(self, fake_gpu):
        timing = time_call(fake_gpu.taking(0.002, 0.004), "cuda", repeats=4)
        assert (timing.median, timing.laps, timing.calls) == (pytest.approx(0.003), 4, 1)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"repeats": 0}, "repeats=0 is not allowed"),
            ({"seconds": 0}, "seconds=0 is not allowed"),
            ({"warmup": -1}, "warmup=-1 is not allowed"),
        ],
    )
    def test_bad_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            time_call(lambda: None, "cpu", **settings)
        with pytest.raises(ValueError, match="device='gpu' is not known; allowed are cpu, cuda"):
            time_call(lambda: None, "gpu")

    @pytest.mark.parametrize(
        "values", [(0, 0, 0, 1, 1), (1, 2, 3, 1, 1), (2, 1, 1.5, 1, 1), (1, 1, math.inf, 1, 1)]
    )
    def test_a_timing_that_cannot_be(self, values):
        with pytest.raises(ValueError, match=r"median|quartiles"):
            Timing(*values)


class TestEnergy:
    def test_joules_and_watts(self, monkeypatch, fake_gpu):
        nvml = fake_nvml(monkeypatch, fake_gpu, watts=250.0)
        found = energy_of(fake_gpu.taking(0.1), "cuda", seconds=2.0, calls=3)
        assert found.joules == pytest.approx(25.0)
        assert found.watts == pytest.approx(250.0)
        assert found.calls == 21
        assert found.seconds == pytest.approx(2.1)
        assert found.reason == ""
        assert fake_gpu.synchronized == 1 + 7  # the clock is not looked at while calls run
        assert ("nvmlDeviceGetHandleByPciBusId", "0000:AB:00.0") in nvml.calls
        assert nvml.calls[-1] == ("nvmlShutdown",)

    @pytest.mark.parametrize(
        "name",
        ["nvmlInit", "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetTotalEnergyConsumption"],
    )
    def test_nvmls_errors_are_reasons(self, monkeypatch, fake_gpu, name):
        nvml = fake_nvml(monkeypatch, fake_gpu, **{name: refusing})
        found = energy_of(fake_gpu.taking(0.1), "cuda")
        assert found.joules is found.watts is None
        assert found.reason == "NVML says: Not Supported"
        assert (("nvmlShutdown",) in nvml.calls) == (name != "nvmlInit")

    def test_errors_of_the_call_are_not_nvmls(self, monkeypatch, fake_gpu):
        nvml = fake_nvml(monkeypatch, fake_gpu)
        with pytest.raises(ZeroDivisionError):
            energy_of(lambda: 1 / 0, "cuda")
        assert nvml.calls[-1] == ("nvmlShutdown",)

    def test_without_nvml(self, monkeypatch, fake_gpu):
        monkeypatch.setitem(sys.modules, "pynvml", None)
        reason = energy_of(fake_gpu.taking(0.1), "cuda").reason
        assert "pip install 'fp16sim[gpu]'" in reason

    def test_a_counter_that_stands_still(self, monkeypatch, fake_gpu):
        fake_nvml(monkeypatch, fake_gpu, watts=0.0)
        assert "did not move in 2.00 s" in energy_of(fake_gpu.taking(0.5), "cuda").reason

    def test_on_the_processor(self):
        called = []
        found = energy_of(lambda: called.append(1), "cpu")
        assert found.joules is None
        assert "NVIDIA" in found.reason
        assert not called


class TestDevice:
    def test_this_machine(self, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "17")
        monkeypatch.delenv("CUPY_TF32", raising=False)
        here = device.describe("cpu")
        assert here.kind == "cpu"
        assert here.name
        assert here.versions["numpy"] == np.__version__
        assert here.power_limit is None
        assert here.environment["OMP_NUM_THREADS"] == "17"
        assert "CUPY_TF32" not in here.environment
        assert device.missing("cpu") == ""

    def test_without_a_gpu_what_is_missing_is_said(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", None)
        assert "pip install 'fp16sim[gpu]'" in device.missing("cuda")

    def test_a_gpu(self, monkeypatch, fake_gpu):
        fake_nvml(monkeypatch, fake_gpu)
        assert device.missing("cuda") == ""
        found = device.describe("cuda")
        assert (found.kind, found.name, found.memory) == ("cuda", "Pretended GPU 1", 2**34)
        assert found.driver == "580.00"
        assert found.cuda == "13.1 (driver), 13.0"
        assert found.clocks == {
            "sm": 1000, "sm, most": 2000, "memory": 2000, "memory, most": 4000,
        }  # fmt: skip
        assert found.power_limit == 700
        assert found.versions["cupy"] == strict_array.VERSION

    def test_what_nvml_refuses_is_left_out(self, monkeypatch, fake_gpu):
        fake_nvml(monkeypatch, fake_gpu, nvmlDeviceGetPowerManagementLimit=refusing)
        found = device.describe("cuda")
        assert found.power_limit is None
        assert found.driver == "580.00"
        fake_nvml(monkeypatch, fake_gpu, nvmlInit=refusing)
        assert device.describe("cuda").driver == ""

    def test_slug(self):
        assert device.slug("NVIDIA H200") == "nvidia-h200"
        assert device.slug("Intel(R) Xeon(R) @ 2.0 GHz") == "intel-r-xeon-r-2-0-ghz"
        assert device.slug("?") == "device"


def row(operation, dtype, flop, moved, seconds):
    timing = Timing(seconds, seconds, seconds, 1, 1)
    return sweeps.SweepRow(operation, dtype, 8, flop, moved, timing)


class TestSweeps:
    def test_rates_and_shares(self):
        rows = [
            row("gemm", "fp16", 4 * 10**12, 10**9, 2.0),
            row("gemm", "fp16", 10**12, 10**9, 1.0),
            row("gemm", "fp32", 10**12, 10**9, 2.0),
            row("add", "fp32", 10**8, 10**9, 1.0),
            row("copy", "fp32", 0, 4 * 10**9, 2.0),
            row("copy", "fp32", 0, 10**3, 1e-8),  # 100 GB/s, in a cache
        ]
        assert (rows[0].tflops, rows[0].gbs, rows[0].intensity) == (2.0, 0.5, 4000)
        best = sweeps.ceilings(rows, cache=10**6)
        assert best == sweeps.Ceilings({"fp16": 2.0, "fp32": 0.5}, 2.0)
        shares = [sweeps.share_of(one, best) for one in rows]
        assert shares == [1.0, 0.5, 1.0, 0.5, 1.0, pytest.approx(50)]
        assert sweeps.ceilings(rows[5:], cache=10**6).gbs == pytest.approx(100)
        assert sweeps.ceilings([]) == sweeps.Ceilings({}, 0.0)

    def test_the_cpus(self, monkeypatch):
        results = {}

        def quick(call, where, **_):
            call()
            return Timing(1.0, 1.0, 1.0, 1, 1)

        monkeypatch.setattr(sweeps, "time_call", quick)
        for dtype in sweeps.DTYPES["cpu"]:
            rows, left_out = sweeps.sweep("cpu", QUICK, dtype)
            assert not left_out
            results[dtype] = rows
        products = [one for one in results["fp64"] if one.operation == "gemm"]
        assert [one.size for one in products] == [16, 32, 64, 128]
        assert products[0].flop == 2 * 16**3
        assert products[0].bytes == 3 * 16**2 * 8
        adds = [one for one in results["fp32"] if one.operation == "add"]
        assert (adds[0].flop, adds[0].bytes) == (1024, 3 * 1024 * 4)
        emulated = {one.operation for one in results["fp16, emulated"]}
        assert emulated == {"gemm", "round to fp16"}

    def test_inputs_are_more_than_the_caches_hold(self):
        assert sweeps._cache("cpu", Plan()) == device.cache_bytes("cpu") > 0
        sets = sweeps._operands("cpu", "fp32", (64, 64), 3, 2**20)
        assert sum(array.nbytes for one in sets for array in one) > 1.9 * 2**20
        assert len({array.__array_interface__["data"][0] for one in sets for array in one}) == (
            3 * len(sets)
        )

    def test_products_are_what_they_say(self, rng):
        a, b = (rng.standard_normal((8, 8)).astype(np.float32) for _ in range(2))
        out = np.empty_like(a)
        sweeps._product("cpu", "fp32")(a, b, out)
        np.testing.assert_array_equal(out, a @ b)
        sweeps._product("cpu", "fp16, emulated")(a, b, out)
        np.testing.assert_array_equal(out, fs.round_to(a @ b, "fp16"))

    def test_a_gpus_and_what_it_does_not_offer(self, fake_gpu, monkeypatch):
        def quick(call, where, **_):
            call()
            return Timing(1.0, 1.0, 1.0, 1, 1)

        monkeypatch.setattr(sweeps, "time_call", quick)
        rows, left_out = sweeps.sweep("cuda", QUICK, "fp16")
        assert {one.operation for one in rows} == {"gemm", "copy", "add", "tanh"}
        assert not left_out
        rows, left_out = sweeps.sweep("cuda", QUICK, "tf32")  # the stand-in has no cupy._core
        assert not rows
        assert left_out[0].what == "sweep, tf32, gemm"
        assert "does not offer it" in left_out[0].why
        with pytest.raises(ValueError, match="dtype='bf16' is not known"):
            sweeps.sweep("cpu", QUICK, "bf16")

    def test_sizes_that_do_not_fit_are_left(self, fake_gpu, monkeypatch):
        monkeypatch.setattr(sweeps, "time_call", lambda *_, **__: Timing(1.0, 1.0, 1.0, 1, 1))
        strict.cuda.runtime.memGetInfo = lambda: (2 * 48 * 64**2, 2**34)
        rows, _ = sweeps.sweep("cuda", QUICK, "fp32")
        assert {one.size for one in rows} == {32, 64, 1024, 4096}

    def test_tf32_is_switched_on_and_off_again(self, fake_gpu, monkeypatch):
        said = []
        routines = types.SimpleNamespace(
            COMPUTE_TYPE_TF32=7,
            get_compute_type=lambda dtype: 1,
            set_compute_type=lambda dtype, kind: said.append((dtype, kind)),
        )
        core = types.ModuleType("cupy._core")
        core._routines_linalg = routines
        monkeypatch.setitem(sys.modules, "cupy._core", core)
        with pytest.raises(ZeroDivisionError), sweeps._compute_type("cuda", "tf32"):
            raise ZeroDivisionError
        assert said == [(np.float32, 7), (np.float32, 1)]
        with sweeps._compute_type("cuda", "fp32"), sweeps._compute_type("cpu", "tf32"):
            pass
        assert len(said) == 2


class TestZoo:
    @pytest.mark.parametrize(("precision", "storage"), [("fp32", "native"), ("fp16", "emulated")])
    def test_a_step_on_the_processor(self, precision, storage):
        found = zoo.measure_step("mlp", QUICK, precision, memory=2**30)
        assert (found.network, found.precision, found.storage) == ("mlp", precision, storage)
        assert found.samples == 32
        assert found.samples_per_second == 32 / found.timing.median
        assert found.peak > 2**15
        assert found.energy.reason
        task = fs.models.task("mlp", "tiny", seed=0)
        low = precision == "fp16"
        scaler, region = fs.GradScaler(enabled=low), fs.autocast("fp16", enabled=low)
        losses = [task.train_step(i, precision=region, scaler=scaler).loss for i in range(2)]
        assert (found.steps, found.loss) == (2, losses[-1])
        policy = "amp" if low else "fp32"
        report = fs.memory_report(task.model, task.batch(0), policy, optimizer=task.optimizer)
        assert found.largest_batch == report.largest_batch(2**30)
        assert zoo.measure_step("mlp", QUICK, precision).largest_batch is None

    def test_a_schedule_moves_while_the_loss_is_learned(self):
        with zoo.trainer("gpt", QUICK, "fp32") as (network, _):
            losses = network.train(3)
        task = fs.models.task("gpt", "tiny", seed=0)
        assert losses == [task.train_step(i).loss for i in range(3)]

    @pytest.mark.parametrize(("name", "count"), [("yolo", 8), ("gpt", 8 * 16)])
    def test_inference(self, name, count):
        plan = Plan(size="tiny", repeats=1, seconds=0.01)
        found = zoo.measure_inference(name, plan, "fp16")
        assert (found.unit, found.count) == (zoo.IN_USE[name], count)
        assert found.storage == "emulated"
        assert found.per_second == count / found.timing.median

    @pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
    def test_native_storage_is_in_force_on_a_gpu_and_not_on_a_cpu(self, fake_gpu, precision):
        plan = Plan(size="tiny", device="cuda")
        with zoo.trainer("mlp", plan, precision) as (network, label):
            assert backend._storage.get() == ("native", precision == "tf32")
            assert label == "native"
            assert (network.region is None) == (precision in ("fp32", "tf32"))
            assert (network.scaler is None) == (precision != "fp16")
            assert all(type(p.data) is StrictArray for p in network.task.model.parameters())
            assert all(type(array) is StrictArray for array in network.batch(0))
        assert backend._storage.get() == ("auto", False)
        with zoo.trainer("mlp", Plan(size="tiny"), precision) as (_, label):
            assert backend._storage.get() == ("emulated", False)
            assert label == ("native" if precision == "fp32" else "emulated")

    @pytest.mark.parametrize("name", fs.models.TASKS)
    def test_all_of_it_stays_on_the_gpu(self, fake_gpu, monkeypatch, name):
        """On the stand-in, which refuses NumPy's arrays: fp16 with everything that is measured."""
        fake_nvml(monkeypatch, fake_gpu)

        def quick(call, where, **_):
            call()
            return Timing(1.0, 1.0, 1.0, 1, 1)

        monkeypatch.setattr(zoo, "time_call", quick)
        report = types.SimpleNamespace(measured=7, largest_batch=lambda memory: memory)
        monkeypatch.setattr(zoo, "memory_report", lambda *_, **__: report)  # see tests/gpu
        monkeypatch.setattr(zoo, "Steps", HostSteps)
        plan = Plan(size="tiny", device="cuda", steps=1)
        fake_gpu.waits = 1.0  # seconds, while the time is pretended
        found = zoo.measure_step(name, plan, "fp16", memory=2**34)
        assert found.storage == "native"
        assert (found.peak, found.largest_batch) == (7, 2**34)
        assert found.energy.watts == pytest.approx(250)
        with zoo.trainer(name, Plan(size="tiny"), "fp16") as (network, _):
            (loss,) = network.train(1)
        assert found.loss == pytest.approx(loss, rel=1e-3)
        if name in zoo.IN_USE:
            assert zoo.measure_inference(name, plan, "fp16").count > 0
        row = zoo.measure_recorded(name, plan, "fp16")
        assert (row.network, row.precision, row.samples) == (name, "fp16", found.samples)

    def test_a_recording_sees_every_batch(self, fake_gpu, monkeypatch):
        monkeypatch.setattr(zoo, "Steps", HostSteps)
        with zoo.trainer("mlp", Plan(size="tiny", device="cuda"), "fp16") as (network, _):
            network.task.optimizer.lr = 0.0  # so that a loss says which batch it is of
            step = network.recorded()
            losses = [step() for _ in range(zoo.BATCHES)]
            with network.region:
                own = [network.task.model.loss(*network.batch(i)) for i in range(zoo.BATCHES)]
        assert losses == [loss.item() for loss in (*own[1:], own[0])]
        assert len(set(losses)) == zoo.BATCHES


class HostSteps:
    """``on_device.Steps`` without its kernels."""

    def __init__(self, optimizer, **how):
        self.optimizer, self.how = optimizer, how

    def step(self, loss_of):
        return fs.training.train_step(loss_of, self.optimizer, **self.how).loss

    def record(self, loss_of, model=None):
        return types.SimpleNamespace(step=lambda: self.step(loss_of))


def stored(scope, op, values, role="activation"):
    return fidelity.Stored(scope, op, role, np.float32(values))


class TestFidelity:
    def test_agreement(self):
        one = [
            stored("a", "linear", [1, 2, np.nan, 0.0]),
            stored("a", "relu", [1, 2]),
            stored("a", "linear", [5, 6]),
            stored("b", "linear", [8.0, -4.0], "weight"),
            stored("b", "sum", [1, 2, 3]),
        ]
        other = [
            stored("b", "linear", [8.0, -5.0], "weight"),
            stored("a", "linear", [1, 2, np.nan, -0.0]),
            stored("a", "relu", [1, 2]),
            stored("a", "linear", [5, 6]),
            stored("b", "sum", [6]),
        ]
        rows, parted, unmatched = fidelity.agreement(one, other)
        assert rows == (
            fidelity.Agreement("linear", "activation", 6, 5, 0.0),
            fidelity.Agreement("relu", "activation", 2, 2, 0.0),
            fidelity.Agreement("linear", "weight", 2, 1, 0.125),
        )
        assert rows[0].share == 5 / 6
        assert parted == "a: linear, activation"  # a zero with another sign
        assert unmatched == 3
        assert fidelity.agreement(one, one[:2])[2] == 7
        assert fidelity.agreement(one[:2], one)[2] == 7
        assert fidelity.agreement(one, one)[1:] == ("", 0)

    def test_networks_for_a_gpu_are_too_large_for_the_host(self, monkeypatch):
        asked = []

        def trained(name, plan, *_, **__):
            asked.append(plan.size)
            return [], [1.0]

        monkeypatch.setattr(fidelity, "trained", trained)
        assert fidelity.fidelity("mlp", Plan(size="gpu"), "fp16").size == "laptop"
        assert fidelity.fidelity("mlp", QUICK, "fp16").size == "tiny"
        assert set(asked) == {"laptop", "tiny"}

    def test_native_storage_on_the_host_says_so(self):
        found = fidelity.fidelity("mlp", QUICK, "fp16")
        assert found.second == "native, NumPy on the host, not a GPU"
        assert found.first_losses == found.second_losses
        assert found.parted == ""
        assert found.unmatched == 0
        by_name = {(one.op, one.role): one for one in found.agreements}
        assert all(one.share == 1 and one.values for one in found.agreements)
        assert {("linear", "activation"), ("linear", "weight gradient")} <= by_name.keys()
        assert by_name["linear", "activation"].values == 32 * (32 + 10)

    def test_the_first_primitive_that_differs_is_named(self, monkeypatch):
        relu = fs.functional.relu

        @contextmanager
        def stored(precision, native, original=zoo.stored):
            with original(precision, native), monkeypatch.context() as patch:
                if native:
                    patch.setattr(fs.functional, "relu", lambda x: relu(x * 1.5))
                yield

        monkeypatch.setattr(fidelity, "stored_as", stored)
        found = fidelity.fidelity("mlp", QUICK, "fp16")
        assert found.parted == "layers.1: linear, activation"  # relu is exact, and not announced
        assert found.unmatched == 32 * 32 + 3  # the multiplication, its gradient's factor
        by_name = {(one.op, one.role): one for one in found.agreements}
        assert by_name["linear", "activation"].equal == 32 * 32
        assert found.first_losses[0] != found.second_losses[0]

    def test_on_a_gpu(self, fake_gpu):
        plan = Plan(size="tiny", device="cuda", steps=1, fast=True)
        found = fidelity.fidelity("mlp", plan, "fp16")
        assert found.second == "native, CuPy"
        assert found.parted == ""  # the stand-in computes with NumPy


class TestRun:
    def test_a_job_that_breaks_is_a_line_and_no_end(self):
        record = run.start(QUICK)

        def broken():
            raise MemoryError("out of memory\nallocated so far: much")

        record = run.do(record, run.Job("mlp, fp16", broken))
        assert record.left_out == (LeftOut("mlp, fp16", "MemoryError: out of memory", True),)
        assert run.failures(record.left_out) == list(record.left_out)
        record = run.do(record, run.jobs(QUICK, None)[0])
        assert [one.precision for one in record.steps] == ["fp32"]

    def test_jobs(self):
        plan = Plan(names=("mlp", "gpt"), precisions=("fp16",), size="tiny")
        plain = [job.title for job in run.jobs(plan, None)]
        assert plain == ["mlp, fp16", "gpt, fp16", "gpt, fp16, in use"]
        every = run.jobs(plan, None, torch=True, sweeps=True, fidelities=True)
        on_gpu = run.jobs(replace(plan, device="cuda"), None)
        assert {job.title for job in on_gpu} - set(plain) == {
            f"{title}, recorded" for title in plain if "in use" not in title
        }
        assert [job.title for job in every][:3] == [
            "mlp, fp16", "mlp, fp16, against PyTorch", "mlp, fp16, twice",
        ]  # fmt: skip
        assert every[-1].title == "sweep, fp16, emulated"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ("resnet",)}, "names='resnet' is not known; allowed are autoencoder, mlp"),
        ({"precisions": ("int8",)}, "precisions='int8' is not known"),
        ({"size": "huge"}, "size='huge' is not known; allowed are tiny, laptop, gpu"),
        ({"steps": 0}, "steps=0 is not allowed"),
        ({"energy_seconds": 0.0}, r"energy_seconds=0\.0 is not allowed"),
    ],
)
def test_plans_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Plan(**settings)
