"""Values kept in two bytes are the values that the emulation keeps in four, bit for bit."""

import sys

import ml_dtypes
import numpy as np
import pytest
from conftest import assert_same_bits
from native_checks import CHECKS
from test_autograd import RULES

import fp16sim as fs
from fp16sim import backend, precision
from fp16sim.autograd.primitive import PRIMITIVES
from fp16sim.autograd.tape import nodes
from fp16sim.rounding import store

F = fs.functional
HALF = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}


def both(compute):
    """What ``compute`` returns natively and emulated."""
    with fs.storage("native"):
        native = compute()
    return native, compute()


def same(native, emulated):
    assert native.fmt is emulated.fmt
    assert_same_bits(native.numpy(), emulated.numpy())


@pytest.mark.parametrize("fmt", HALF)
@pytest.mark.parametrize("name", RULES)
def test_every_primitive(rng, name, fmt):
    function, *shapes = RULES[name]
    arrays = [rng.standard_normal(shape) for shape in shapes]

    def compute():
        leaves = [fs.Tensor(x, requires_grad=True, fmt=fmt) for x in arrays]
        result = function(*leaves)
        result.backward(np.random.default_rng(1).standard_normal(result.shape))
        return [result, *leaves, *(x.grad for x in leaves)]

    for native, emulated in zip(*both(compute), strict=True):
        same(native, emulated)
        if native.fmt in (fs.FP16, fs.BF16):
            assert native.data.dtype == HALF[str(native.fmt)]
            assert emulated.data.dtype == np.float32


@pytest.mark.parametrize("values", [[6e4, 6e4, -np.inf], [2.0**-24, 3e-8, np.nan], [65519, 65520]])
def test_edges(values):
    def compute():
        x = fs.Tensor(np.float32(values), requires_grad=True, fmt="fp16")
        y = x * 1.5 + x
        y.sum().backward()
        return [x, y, x.grad]

    for native, emulated in zip(*both(compute), strict=True):
        same(native, emulated)


SETTINGS = {
    "amp": fs.presets.amp,
    "amp_bf16": fs.presets.amp_bf16,
    "O2": fs.presets.O2,
    "O3": fs.presets.O3,
    "bf16, stochastic": fs.presets.pure("bf16", stochastic=True),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", fs.models.TASKS)
def test_the_zoo_learns_the_same(name, setting):
    preset = SETTINGS[setting]

    def compute():
        task = fs.models.task(name, "tiny", seed=0)
        rng = 0 if preset.rounding == "stochastic" else None
        preset.prepare_training(task.model, task.optimizer, rng)
        scaler = preset.scaler()
        for step in range(3):
            task.train_step(step, precision=preset.region(), scaler=scaler)
        return task.model.state_dict()

    native, emulated = both(compute)
    for path, value in native.items():
        same(value, emulated[path])


@pytest.mark.parametrize(
    "region",
    [
        fs.autocast("fp16", accumulator="fp16"),
        fs.autocast("fp16", accumulator=fs.tensorcore.H100),
        fs.autocast("bf16", recipe=fs.recipes.CurrentScaling()),
        fs.autocast("tf32"),
    ],
    ids=["fp16 sums", "H100", "fp8", "tf32"],
)
def test_sums_and_recipes_of_ones_choice(region):
    task = fs.models.task("gpt", "tiny", seed=0)

    def compute():
        for parameter in task.model.parameters():
            parameter.grad = None
        with region:
            loss = task.model.loss(*task.batch(0))
        loss.backward()
        return [loss, *(p.grad for p in task.model.parameters())]

    for native, emulated in zip(*both(compute), strict=True):
        same(native, emulated)


def test_what_is_watched_is_the_same():
    task = fs.models.task("unet", "tiny", seed=0)

    def compute():
        task.optimizer.zero_grad()
        with fs.watch(task.model) as xray, fs.autocast("fp16"):
            task.model.loss(*task.batch(0)).backward()
        return xray.to_dict()["counts"]

    native, emulated = both(compute)
    assert native == emulated


@pytest.mark.parametrize("name", fs.models.TASKS)
def test_the_tape_keeps_two_bytes(name):
    """No fp32 copy of what a product has read stays behind for its backward."""
    task = fs.models.task(name, "tiny", seed=0)
    with fs.storage("native"), fs.autocast("fp16"):
        root = task.model.loss(*task.batch(0))
    multiplies = {name for name, primitive in PRIMITIVES.items() if primitive.multiplies}
    products = [node for node in nodes(root) if node.origin.op in multiplies]
    assert products
    for node in products:
        arrays = [x for x in (node.data, *node.residuals) if isinstance(x, np.ndarray)]
        assert {x.dtype for x in arrays if x.dtype.kind == "f"} == {np.dtype(np.float16)}


def test_what_is_kept_for_backward_is_kept_in_two_bytes():
    with fs.storage("native"):
        x, y = (fs.Tensor(np.ones(3), requires_grad=True, fmt="fp16") for _ in "xy")
        for result in (x * y, x / y, F.gelu(x), x.sigmoid(), x.sin(), F.softmax(x, axis=0)):
            kept = [one for one in result.residuals if isinstance(one, np.ndarray)]
            assert kept
            assert {one.dtype for one in kept} == {np.dtype(np.float16)}


def test_selections_keep_bf16():
    """CuPy's ``where`` has no bf16, and would give fp32."""
    condition = np.array([True, False])
    x, y = (np.array(values, HALF["bf16"]) for values in ([1, np.nan], [-0.0, 3]))
    chosen = backend.select(condition, x, y)
    assert chosen.dtype == HALF["bf16"]
    assert chosen.tolist() == [1, 3]
    assert np.signbit(np.float32(backend.select(~condition, x, y[:1])))[0]
    assert backend.select(condition, np.float32([1, 2]), np.float32(0)).tolist() == [1, 0]


def test_products_are_given_what_is_kept(monkeypatch):
    seen = []

    def product(x, y, out=None, original=precision.product):
        seen.append((x.dtype, y.dtype))
        return original(x, y)

    monkeypatch.setattr(precision, "product", product)
    with fs.storage("native"):
        x, w = (fs.Tensor(np.ones((2, 2)), requires_grad=True, fmt="fp16") for _ in "xw")
        F.linear(x, w).sum().backward()
        F.scaled_dot_product_attention(x, w, w).sum().backward()
    assert len(seen) == 3 + 6
    assert set(seen) == {(np.dtype(np.float16),) * 2}


@pytest.mark.parametrize("name", CHECKS)
def test_traps(name):
    """As tests/gpu/test_native_gpu.py has them of a GPU."""
    with fs.storage("native"):
        CHECKS[name]("cpu")


def test_one_storage_meets_the_other():
    with fs.storage("native"):
        x = fs.Tensor(np.float32([1, 2.5]), requires_grad=True, fmt="fp16")
    y = fs.Tensor(np.float32([3, 0.1]), requires_grad=True, fmt="fp16")
    z = F.concatenate([x * y, (x + y).relu()], axis=0)
    z.sum().backward()
    assert z.fmt is fs.FP16
    np.testing.assert_array_equal(x.grad.numpy(), np.float16(y.numpy() + 1))
    assert x.numpy().dtype == np.float32
    assert np.asarray(x).dtype == np.float32
    assert "2.5" in repr(x)
    assert x.detach().data.dtype == np.float32


def test_regions_nest_and_end():
    def dtype():
        return fs.Tensor(np.float32([1]), fmt="fp16").data.dtype

    assert dtype() == np.float32
    with fs.storage("native"):
        assert dtype() == np.float16
        with fs.storage("emulated"):
            assert dtype() == np.float32
        assert dtype() == np.float16
        with fs.storage():  # the host emulates unless told otherwise
            assert dtype() == np.float32
    assert dtype() == np.float32
    assert fs.storage("native")(dtype)() == np.float16
    with fs.storage("native"):
        for fmt in ("fp32", "e4m3", "tf32"):
            assert fs.Tensor(np.float32([1]), fmt=fmt).data.dtype == np.float32


def test_bad_arguments():
    with pytest.raises(ValueError, match="kind='half' is not known; allowed are auto, native"):
        fs.storage("half")
    with pytest.raises(TypeError, match="tf32 must be True or False, got 1"):
        fs.storage("native", tf32=1)


def test_bf16_wants_ml_dtypes(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    backend._native.cache_clear()
    try:
        with fs.storage("native"), pytest.raises(ImportError, match="pip install ml_dtypes"):
            fs.Tensor(np.float32([1]), fmt="bf16")
        assert backend._native(fs.BF16, False) is None
    finally:
        backend._native.cache_clear()


def test_widening_saturates_if_it_is_to():
    infinite = np.array([np.inf], np.float16)
    assert store(infinite, fs.FP32, None, saturate=True) == fs.FP32.max
    assert store(infinite, fs.FP32, None) == np.inf
