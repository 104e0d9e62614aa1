"""The whole engine on arrays as strict as CuPy's: all of it stays there, with NumPy's bits.

What is computed without a fault on the stand-in asks every array for its module, mixes nothing
with NumPy and uses nothing that CuPy lacks; see ``strict_array``.
"""

import sys
import types
from functools import partial

import numpy as np
import pytest
import strict_array
from conftest import assert_same_bits
from strict_array import StrictArray, as_strict, strict
from test_autograd import RULES

import fp16sim as fs
from fp16sim import backend
from fp16sim.autograd.ops import norms, shape
from fp16sim.functional import checks
from fp16sim.optim import schedules
from fp16sim.scaling import GradScaler
from fp16sim.training import Run

F = fs.functional
strict_arrays = strict_array.strict_arrays  # a fixture
pytestmark = pytest.mark.usefixtures("strict_arrays")

HOST = np.float32([[1, -2, 3], [0.1, 5, -6e-6]])


@pytest.fixture(autouse=True)
def one_order_of_sums(monkeypatch):
    """NumPy's rows are summed in another order than by ``add.at``, which is quicker; not here."""

    def add_at(target, key, values, original=backend.add_at):
        if type(target) is np.ndarray:
            np.add.at(target, key, values)
        else:
            original(target, key, values)

    monkeypatch.setattr(shape, "add_at", add_at)
    monkeypatch.setattr(norms, "is_on_gpu", lambda x: False)  # it would be x·y, then a sum


def batch_norm_fixed(x, weight):
    """As in RULES, but with running statistics where the input is: they are never moved."""
    running = (fs.Tensor(v, device=x.device) for v in ([0.3, 1.0], [2.0, 0.5]))
    return F.batch_norm(x, *running, weight)


CASES = RULES | {"batch_norm_fixed": (batch_norm_fixed, *RULES["batch_norm_fixed"][1:])}


def same(on_gpu, on_host):
    """Tensors with the same bits in the same format, the first on the pretended GPU."""
    assert type(on_gpu.data) is StrictArray
    assert (on_gpu.device, on_host.device) == ("cuda", "cpu")
    assert on_gpu.fmt == on_host.fmt
    assert_same_bits(on_gpu.numpy(), on_host.data)


def same_models(on_gpu, on_host):
    tensors = zip(on_gpu.named_tensors(), on_host.named_tensors(), strict=True)
    for (name, x), (other, y) in tensors:
        assert name == other
        same(x, y)


def test_sums_of_products_on_a_gpu(rng, monkeypatch):
    """Not by einsum, whose matrix products CuPy refuses to record."""
    for shape_, kept in (
        ((2, 3, 4), (1,)),
        ((2, 3), ()),
        ((5, 4096 * 2 + 3), (0,)),
    ):
        x, y = (rng.standard_normal(shape_) for _ in "xy")
        expected = norms._sum_product(x, y, kept)
        with monkeypatch.context() as patch:
            patch.setattr(norms, "is_on_gpu", lambda x: True)
            patch.delattr(strict, "einsum", raising=False)
            found = norms._sum_product(as_strict(x), as_strict(y), kept)
        np.testing.assert_allclose(found.get(), expected, rtol=1e-12)


class TestPrimitives:
    @pytest.mark.parametrize("fmt", ["fp16", "bf16", "fp32", "fp64"])
    @pytest.mark.parametrize("name", CASES)
    def test_forward_and_backward(self, rng, name, fmt):
        function, *shapes = CASES[name]
        arrays = [rng.standard_normal(shape) for shape in shapes]

        def outcome(placed):
            leaves = [fs.Tensor(placed(x), requires_grad=True, fmt=fmt) for x in arrays]
            result = function(*leaves)
            weights = np.random.default_rng(1).standard_normal(result.shape)
            result.backward(placed(weights))
            return [result, *(x.grad for x in leaves)]

        for on_gpu, on_host in zip(outcome(as_strict), outcome(np.array), strict=True):
            same(on_gpu, on_host)

    @pytest.mark.parametrize("fmt", ["tf32", "e4m3", "e5m2"])
    def test_a_layer_in_other_formats(self, rng, fmt):
        x, w = (rng.standard_normal(shape) for shape in ((5, 4), (3, 4)))

        def outcome(placed):
            a, b = (fs.Tensor(placed(one), requires_grad=True, fmt=fmt) for one in (x, w))
            (F.silu(F.linear(a, b)) * 0.5).sum().backward()
            return a.grad, b.grad

        for on_gpu, on_host in zip(outcome(as_strict), outcome(np.array), strict=True):
            same(on_gpu, on_host)

    def test_attention_with_a_mask(self, rng):
        arrays = [rng.standard_normal((2, 4, 3)) for _ in "qkv"]
        mask = rng.random((4, 4)) < 0.5
        mask[:, 0] = True
        q, k, v = (fs.Tensor(as_strict(x), fmt="fp16") for x in arrays)
        expected = [fs.Tensor(x, fmt="fp16") for x in arrays]
        for one in (mask, as_strict(mask), mask.tolist()):
            actual = F.scaled_dot_product_attention(q, k, v, one)
            same(actual, F.scaled_dot_product_attention(*expected, mask))


class TestTensors:
    def test_data_stays_where_it_is(self):
        x = as_strict(HOST)
        tensor = fs.Tensor(x)
        same(tensor, fs.Tensor(HOST))
        x[:] = 0
        assert tensor.numpy().any()  # a copy
        same(fs.Tensor(as_strict(HOST.astype(np.float16))), fs.Tensor(HOST.astype(np.float16)))
        same(fs.Tensor(tensor, fmt="bf16"), fs.Tensor(HOST, fmt="bf16"))
        same(tensor.detach(), fs.Tensor(HOST))

    def test_moving(self):
        host = fs.Tensor(HOST)
        assert fs.Tensor(HOST, device="cpu").device == "cpu"
        same(fs.Tensor(HOST, fmt="fp16", device="cuda"), fs.Tensor(HOST, fmt="fp16"))
        same(fs.Tensor([1.0, 0.1], device="cuda"), fs.Tensor([1.0, 0.1]))
        assert type(fs.Tensor(as_strict(HOST), device="cpu").data) is np.ndarray
        assert host.to("cpu") is host
        same(host.to("cuda"), host)
        back = host.to("cuda").to("cpu")
        assert type(back.data) is np.ndarray
        assert_same_bits(back.data, HOST)

    def test_moving_is_differentiable(self):
        x = fs.Tensor(HOST, requires_grad=True)
        (x.to("cuda").to("fp16") * 3).to("cpu").sum().backward()
        assert type(x.gradient) is np.ndarray
        assert_same_bits(x.grad.data, np.full_like(HOST, 3))

    def test_to_the_host_when_asked(self):
        x = fs.Tensor(as_strict(HOST), requires_grad=True)
        assert type(x.numpy()) is np.ndarray
        x.numpy()[:] = 0
        assert_same_bits(x.numpy(), HOST)
        assert type(x[0, 0].item()) is float
        assert float(x[0, 1]) == -2.0
        assert bool(x[0, 0] > 0)
        assert len(x) == 2
        text = repr(fs.Tensor(HOST, requires_grad=True))
        assert repr(x) == text.replace("fmt=fp32", "fmt=fp32, device=cuda")

    def test_numbers_and_lists_go_where_the_tensor_is(self):
        x, y = fs.Tensor(as_strict(HOST)), fs.Tensor(HOST)
        for other in (2, 0.1, np.float32(3), np.int64(2), [1.0, 2.0, 3.0]):
            same(x * other, y * other)
            same(other - x, other - y)
        same(x + as_strict(HOST), y + HOST)
        same(as_strict(HOST) + x, HOST + y)
        same(F.maximum(x, 0.5), F.maximum(y, 0.5))

    def test_comparisons(self):
        x, y = fs.Tensor(as_strict(HOST)), fs.Tensor(HOST)
        for other, expected in ((1, 1), (x, y), (as_strict(HOST), HOST), ([1, 5, 3], [1, 5, 3])):
            for name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"):
                actual = getattr(x, name)(other)
                assert type(actual) is StrictArray
                assert np.array_equal(actual.get(), getattr(y, name)(expected))

    @pytest.mark.parametrize(
        "key", [0, (1, 2), slice(1), ..., (..., None), [1, 0], (slice(None), [2, 2]), HOST > 0]
    )
    def test_indices(self, key):
        same(fs.Tensor(as_strict(HOST))[key], fs.Tensor(HOST)[key])
        if isinstance(key, np.ndarray):
            same(fs.Tensor(as_strict(HOST))[as_strict(key)], fs.Tensor(HOST)[key])

    def test_gradients_given_and_set(self):
        x = fs.Tensor(as_strict(HOST), requires_grad=True)
        (x * 2).backward(as_strict(HOST))
        (x * 2).backward(fs.Tensor(as_strict(HOST)))
        (x * 2).backward(HOST.tolist())
        same(x.grad, fs.Tensor(HOST * 6))
        x.grad = fs.Tensor(as_strict(HOST))
        same(x.grad, fs.Tensor(HOST))
        x.sum().backward()
        same(x.grad, fs.Tensor(HOST + 1))

    def test_arrays_of_integers_and_booleans_go_where_the_tensor_is(self):
        table = fs.Tensor(as_strict(HOST))
        for ids in ([1, 0, 1], np.array([1, 0, 1]), as_strict([1, 0, 1])):
            same(F.embedding(ids, table), F.embedding([1, 0, 1], fs.Tensor(HOST)))
            expected = F.cross_entropy(fs.Tensor(HOST), [1, 0])
            same(F.cross_entropy(table, ids[:2]), expected)
        for mask in (HOST > 0, as_strict(HOST > 0)):
            same(F.where(mask, table, 7.0), F.where(HOST > 0, fs.Tensor(HOST), 7.0))


HOST_TENSOR = fs.Tensor(HOST, requires_grad=True)


class TestRefusals:
    @pytest.mark.parametrize(
        "mistake",
        [
            lambda x: x + HOST_TENSOR,
            lambda x: HOST_TENSOR * x,
            lambda x: x + HOST,
            lambda x: HOST - x,
            lambda x: x @ HOST_TENSOR.transpose(),
            lambda x: F.linear(x, HOST_TENSOR),
            lambda x: F.linear(x, x, fs.Tensor(np.zeros(2, np.float32))),
            lambda x: F.mse_loss(x, HOST),
            lambda x: F.where(HOST > 0, x, HOST_TENSOR),
            lambda x: F.concatenate([x, HOST_TENSOR]),
            lambda x: F.batch_norm(x, *(fs.Tensor(np.ones(3, np.float32)) for _ in "mv")),
            lambda x: x < HOST_TENSOR,
            lambda x: x == HOST,
            lambda x: x >= HOST_TENSOR,
            lambda x: x.data != HOST_TENSOR,
            lambda x: (x * 2).backward(HOST),
            lambda x: (x * 2).backward(HOST_TENSOR),
            lambda x: (HOST_TENSOR * 2).backward(as_strict(HOST)),
            lambda x: setattr(x, "grad", HOST_TENSOR),
            lambda x: setattr(HOST_TENSOR, "grad", x.detach()),
        ],
    )
    def test_two_devices(self, mistake):
        message = r"must be on one device: number 0 is on the (GPU|host), .* is on the .*; move one"
        with pytest.raises(TypeError, match=message):
            mistake(fs.Tensor(as_strict(HOST), requires_grad=True))

    def test_they_say_which(self):
        x, bias = fs.Tensor(as_strict(HOST)), fs.Tensor(np.zeros(2, np.float32))
        with pytest.raises(TypeError, match=r"inputs of 'linear' .* 0 is on the GPU, number 2 is"):
            F.linear(x, x, bias)

    @pytest.mark.parametrize(
        ("argument", "mistake"),
        [
            ("input", lambda: F.embedding(as_strict([0]), HOST_TENSOR)),
            ("target", lambda: F.cross_entropy(HOST_TENSOR, as_strict([0, 1]))),
            ("condition", lambda: F.where(as_strict(HOST > 0), HOST_TENSOR, 1.0)),
            ("an index", lambda: HOST_TENSOR[as_strict([0])]),
        ],
    )
    def test_from_the_gpu_to_the_host_nothing_goes_unasked(self, argument, mistake):
        with pytest.raises(TypeError, match=f"{argument} is on the GPU, the tensor on the host"):
            mistake()

    def test_no_implicit_copies(self):
        x = fs.Tensor(as_strict(HOST))
        with pytest.raises(TypeError, match=r"on the GPU; say \.numpy\(\)"):
            np.asarray(x)
        with pytest.raises(TypeError, match="integers"):
            x[x]
        with pytest.raises(TypeError, match="data has dtype int64"):
            fs.Tensor(as_strict([1, 2]))

    def test_gradients_are_checked_on_the_host(self):
        x = fs.Tensor(as_strict([1.0, 2.0]), requires_grad=True)
        with pytest.raises(ValueError, match=r"inputs\[1\] is on the GPU; .* \.to\('cpu'\)"):
            fs.check_gradients(lambda a, b: a * b, fs.Tensor([1.0, 2.0]), x)
        fs.check_gradients(F.tanh, fs.Tensor(x, requires_grad=True, device="cpu"))

    def test_devices_that_there_are_not(self, monkeypatch):
        for mistake in (lambda d: fs.Tensor(HOST, device=d), lambda d: backend.to_device(HOST, d)):
            with pytest.raises(
                ValueError, match="device='gpu' is not known; allowed are cpu, cuda"
            ):
                mistake("gpu")
        with pytest.raises(ValueError, match="fmt='gpu' is not a known format"):
            fs.Tensor(HOST).to("gpu")

        def broken():
            raise RuntimeError("cudaErrorInsufficientDriver")

        for count, message in ((broken, "its driver; CUDA says: cudaErrorIn"), (int, "none here")):
            runtime = types.SimpleNamespace(getDeviceCount=count)
            monkeypatch.setattr(strict, "cuda", types.SimpleNamespace(runtime=runtime))
            with pytest.raises(RuntimeError, match=message):
                fs.Tensor(HOST, device="cuda")
        monkeypatch.setitem(sys.modules, "cupy", None)
        for mistake in (fs.Tensor(HOST).to, fs.nn.Linear(2, 2, rng=0).to):
            with pytest.raises(ImportError, match=r"needs CuPy: pip install 'fp16sim\[gpu\]'"):
                mistake("cuda")
        assert fs.Tensor(HOST).to("cpu").device == "cpu"


# --- modules and training ------------------------------------------------------------------------


def plain():
    return {}


def mixed():
    return {"precision": fs.autocast("fp16"), "scaler": GradScaler(2.0**8, growth_interval=1)}


def both_tasks(name):
    """A task on the pretended GPU, and the same on the host."""
    on_gpu, on_host = (fs.models.task(name, "tiny") for _ in range(2))
    assert on_gpu.model.to("cuda") is on_gpu.model
    return on_gpu, on_host


def test_targets_on_the_gpu_may_be_trusted():
    """To look at them is to wait for the GPU; those on the host cost nothing to look at."""
    logits = fs.Tensor(as_strict(np.zeros((2, 3), np.float32)))
    token = checks.trusted.set(True)
    try:
        F.cross_entropy(logits, as_strict(np.array([0, 2])), ignore_index=2)
        taken = checks.integers(as_strict(np.array([0, 7])), "target", logits, 3)
        assert taken.get().tolist() == [0, 7]
        with pytest.raises(ValueError, match="target has the value 7"):
            checks.integers(np.array([0, 7]), "target", logits, 3)
    finally:
        checks.trusted.reset(token)
    with pytest.raises(ValueError, match="target has the value 7"):
        checks.integers(as_strict(np.array([0, 7])), "target", logits, 3)


@pytest.mark.parametrize("name", fs.models.TASKS)
def test_a_second_pass_copies_nothing_from_the_host(name):
    """Numbers, positions, places of windows: all was there already, which a recording wants."""
    task = fs.models.task(name, "tiny", seed=0)
    task.model.to("cuda")
    constants = backend.Constants()
    for step in range(2):
        batch = [as_strict(array) for array in task.batch(step)]
        with backend.remembering(constants), fs.autocast("fp16"):
            task.model.loss(*batch).backward()
        constants.sealed = True
    with backend.remembering(constants), pytest.raises(RuntimeError, match="must be arrays on the"):
        task.model.loss(*task.batch(2))
    task.model.loss(*task.batch(2))  # without, everything is copied


def test_what_is_drawn_cannot_be_recorded():
    x, constants = fs.Tensor(as_strict(np.ones((3, 50), np.float32))), backend.Constants()
    rng = np.random.default_rng(0)
    with backend.remembering(constants):
        F.dropout(x, 0.5, rng=rng)
        constants.sealed = True
        with pytest.raises(RuntimeError, match="drawn at random"):
            F.dropout(x, 0.5, rng=rng)


class TestZoo:
    @pytest.mark.parametrize("settings", [plain, mixed])
    @pytest.mark.parametrize("name", fs.models.TASKS)
    def test_two_steps_and_what_they_brought(self, name, settings):
        on_gpu, on_host = both_tasks(name)
        before = on_host.model.state_dict()
        history = []
        for task in (on_gpu, on_host):
            how = settings()
            history.append([task.train_step(step, **how) for step in range(2)])
        assert history[0] == history[1]
        assert not any(step.skipped for step in history[0])
        same_models(on_gpu.model, on_host.model)
        after = on_host.model.state_dict()
        assert any((after[path].data != value.data).any() for path, value in before.items())
        np.testing.assert_equal(on_gpu.evaluate(), on_host.evaluate())

    @pytest.mark.parametrize("name", fs.models.TASKS)
    def test_batches_may_be_there_already(self, name):
        on_gpu, on_host = both_tasks(name)
        batch = on_host.batch(0)
        same(on_gpu.model.loss(*map(as_strict, batch)), on_host.model.loss(*batch))

    def test_a_gpt_writes_the_same(self):
        on_gpu, on_host = both_tasks("gpt")
        ids = on_host.batch(0)[0][:2, :3]
        written = on_gpu.model.generate(ids, 4, rng=1)
        assert np.array_equal(written, on_host.model.generate(ids, 4, rng=1))


def both_models():
    """Layers with parameters, buffers and random numbers: there, and on the host."""
    on_gpu, on_host = (
        fs.nn.Sequential(
            fs.nn.Conv2d(1, 4, 3, rng=1), fs.nn.BatchNorm2d(4), fs.nn.SiLU(), fs.nn.Flatten(),
            fs.nn.Dropout(0.5, rng=2), fs.nn.Linear(64, 3, rng=3),
        )
        for _ in range(2)
    )  # fmt: skip
    return on_gpu.to("cuda"), on_host


IMAGES = np.random.default_rng(5).standard_normal((8, 1, 6, 6)).astype(np.float32)


def loss_of(model, step):
    images = fs.Tensor(np.roll(IMAGES, step), device=next(model.parameters()).device)
    return F.cross_entropy(model(images), np.arange(8) % 3)


class TestModules:
    def test_parameters_and_buffers_move_in_place(self):
        model = fs.nn.Sequential(fs.nn.BatchNorm2d(2), fs.nn.Linear(2, 2, rng=0))
        tensors = dict(model.named_tensors())
        model[1].weight.grad = fs.Tensor(np.ones((2, 2), np.float32))
        assert model.to("cuda") is model
        assert len(tensors) == 6
        assert all(x is tensors[name] for name, x in model.named_tensors())
        assert {x.device for x in tensors.values()} == {"cuda"}
        assert model[1].weight.grad is None
        assert {x.device for _, x in model.to("cpu").named_tensors()} == {"cpu"}

    def test_formats_change_where_they_are(self):
        on_gpu, on_host = both_models()
        same_models(on_gpu.to("bf16"), on_host.to("bf16"))

    def test_states_go_from_one_to_the_other(self):
        on_gpu, on_host = both_models()
        loss_of(on_host, 0)  # moves running statistics
        on_gpu.load_state_dict(on_host.state_dict())
        same_models(on_gpu, on_host)
        arrays = {name: value.numpy() * 2 for name, value in on_gpu.state_dict().items()}
        on_gpu.load_state_dict(arrays)
        on_host.load_state_dict(on_gpu.state_dict())
        same_models(on_gpu, on_host)
        assert_same_bits(on_host[0].weight.data, arrays["0.weight"])

    def test_recomputation(self):
        for on in (models := both_models()):
            images = fs.Tensor(IMAGES, device=on[0].weight.device, requires_grad=True)
            fs.nn.checkpoint(on, images).sum().backward()
        for x, y in zip(*(model.parameters() for model in models), strict=True):
            same(x.grad, y.grad)

    def test_summaries(self):
        on_gpu, on_host = both_models()
        image = fs.Tensor(IMAGES)
        assert fs.nn.summary(on_gpu, image.to("cuda")) == fs.nn.summary(on_host, image)


OPTIMISERS = {
    "sgd": lambda p: fs.optim.SGD(p, 0.1),
    "nesterov": lambda p: fs.optim.SGD(p, 0.1, 0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: fs.optim.Adam(p, 0.01, weight_decay=0.01),
    "adamw": lambda p: fs.optim.AdamW(p, 0.01),
    "lion": lambda p: fs.optim.Lion(p, 0.01, weight_decay=0.1),
    "masters": lambda p: fs.optim.Adam(p, 0.01, master_weights=True),
    "low_states": lambda p: fs.optim.AdamW(p, 0.01, state_fmt="bf16"),
    "stochastic": lambda p: fs.optim.SGD(p, 0.01, 0.9, rounding="stochastic", rng=4),
}


class TestTraining:
    @pytest.mark.parametrize("fmt", ["fp32", "fp16", "fp64"])
    @pytest.mark.parametrize("name", OPTIMISERS)
    def test_optimisers_clipping_and_schedules(self, name, fmt):
        if (name, fmt) == ("stochastic", "fp64"):
            return  # not allowed
        seen = []
        for model in (models := both_models()):
            optimizer = OPTIMISERS[name](model.to(fmt).parameters())
            schedule = schedules.cosine(3, warmup=1)
            schedule = fs.optim.Schedule(optimizer, schedule)
            norms = []
            for step in range(3):
                optimizer.zero_grad()
                loss_of(model, step).backward()
                norms.append(fs.optim.clip_grad_norm_(model.parameters(), 0.5))
                fs.optim.clip_grad_value_(model.parameters(), 0.1)
                optimizer.step()
                schedule.step()
            seen.append((norms, optimizer))
        same_models(*models)
        assert seen[0][0] == seen[1][0]
        for ours, others in zip(*(optimizer.state for _, optimizer in seen), strict=True):
            assert ours.keys() == others.keys()
            for key in ours.keys() - {"step"}:
                assert type(ours[key]) is StrictArray
                assert_same_bits(ours[key].get(), others[key])

    def test_a_scaler_asks_the_gpu_once(self, monkeypatch):
        asked, scales, truth = [], [], StrictArray.__bool__
        monkeypatch.setattr(StrictArray, "__bool__", lambda x: asked.append(x) or truth(x))
        for model in (models := both_models()):
            optimizer, stepped = fs.optim.SGD(model.parameters(), 0.1), []
            scaler = GradScaler(2.0**8, growth_interval=1)
            for step in range(4):
                optimizer.zero_grad()
                scaler.scale(loss_of(model, step)).backward()
                if step == 2:  # one of many
                    model[0].weight.gradient[0, 0, 0, 0] = np.nan
                asked.clear()
                scaler.unscale_(optimizer)
                assert len(asked) == (model is models[0])
                stepped.append(scaler.step(optimizer))
                scaler.update()
            assert [bool(status) for status in stepped] == [True, True, False, True]
            assert sum(stepped[2].nonfinite.values()) == 1
            scales.append(scaler.get_scale())
        assert scales == [2.0**10] * 2
        same_models(*models)

    def test_what_is_watched(self):
        counted = []
        for model in both_models():
            optimizer = fs.optim.SGD(model.parameters(), 1e-6)
            with fs.watch(model) as xray, fs.autocast("fp16"):
                (loss_of(model, 0) * 1e-4).backward()
                optimizer.step()
                fs.Tensor(model[5].bias.data * 1e-42).to("fp16")  # the carrier's subnormals
                fs.Tensor(model[5].bias.data * 1e20).to("e4m3")
                fs.Tensor(model[5].bias.data[:0]).to("fp16")
            counts = {key: one.to_dict() for key, one in xray.counts.items()}
            counted.append((counts, xray.updates))
        assert counted[0] == counted[1]
        totals = xray.select().to_dict()
        assert all(totals[fate] for fate in ("flushed", "subnormal", "normal", "overflowed"))
        assert xray.all_updates().swamped

    def test_saved_there_and_continued_anywhere(self, tmp_path):
        def runs():
            for model in both_models():
                optimizer = fs.optim.AdamW(model.parameters(), 0.01)
                schedule = fs.optim.Schedule(optimizer, schedules.cosine(4))
                yield Run(model, optimizer, partial(loss_of, model), **mixed(), schedule=schedule)

        whole, _ = runs()
        whole.train(2, path=tmp_path / "run.safetensors")
        whole.train(4)
        for run in (after := list(runs())):
            run.load(tmp_path / "run.safetensors")
            assert run.train(4) == whole.history
        assert type(after[0].optimizer.state[0]["m"]) is StrictArray
        same_models(after[0].model, after[1].model)
        same_models(whole.model, after[1].model)
