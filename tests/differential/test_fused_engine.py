"""The engine with its fused kernels, run on the host: networks learn what the emulation learns."""

import sys

import numpy as np
import pytest
from test_fused_source import launchers  # noqa: F401 - a fixture

import fp16sim as fs
from fp16sim.autograd.ops import conv, on_gpu

F = fs.functional


@pytest.fixture
def fused(launchers, monkeypatch):  # noqa: F811
    """NumPy's arrays count as a GPU's; which kernels were asked for."""
    gpu, normalise, attention, _ = launchers
    used = []

    class Spy:
        def __init__(self, kernels=gpu):
            self.kernels = kernels

        def __getattr__(self, name):
            used.append(name)
            return getattr(self.kernels, name)

    for module in (sys.modules["fp16sim.autograd.primitive"], conv):
        monkeypatch.setattr(module, "is_on_gpu", lambda x: isinstance(x, np.ndarray))
    for module in (on_gpu, conv):
        monkeypatch.setattr(module, "_gpu", Spy)
    monkeypatch.setattr(on_gpu, "_normalise", lambda: Spy(normalise))
    monkeypatch.setattr(on_gpu, "_blocked", lambda: Spy(attention))
    return used


def stepped(name, region):
    """Loss and gradients of one step of a network, natively stored."""
    task = fs.models.task(name, "tiny", seed=0)
    with region:
        loss = task.model.loss(*task.batch(0))
    loss.backward()
    return loss, [p.grad.numpy() for p in task.model.parameters()]


def near(actual, expected, error):
    """Relative to the largest: sums are added in another order, and roundings follow."""
    scale = abs(expected).max()
    assert abs(actual - expected).max() <= error * max(scale, 1e-30)


def both_ways(run, monkeypatch, error):
    """Arrays from a function, by the fused kernels and emulated, are near each other."""
    with fs.storage("native"):
        actual = run()
    monkeypatch.undo()
    for ours, theirs in zip(actual, run(), strict=True):
        near(ours, theirs, error)


@pytest.mark.parametrize(
    ("name", "fmt"),
    [*((name, "fp16") for name in fs.models.TASKS), ("gpt", "bf16"), ("unet", "fp32")],
)
def test_a_network(fused, name, fmt, monkeypatch):
    region = fs.autocast(fmt) if fmt != "fp32" else fs.autocast(enabled=False)
    with fs.storage("native"):
        loss, gradients = stepped(name, region)
    assert fused
    monkeypatch.undo()
    expected, others = stepped(name, region)
    _, exact = stepped(name, fs.autocast(enabled=False))
    error = {"fp32": 2e-5, "fp16": 2e-2, "bf16": 1e-1}[fmt]
    assert loss.item() == pytest.approx(expected.item(), rel=error / 4)
    for actual, other, without in zip(gradients, others, exact, strict=True):
        # Roundings that fall the other way move a gradient about as far as all roundings did; in
        # the detector, whose batches are small, that is a third for one of the norms.
        noise = abs(other - without).max() / max(abs(other).max(), 1e-30)
        near(actual, other, error + 2 * noise)


PRODUCTS = {
    "linear": (F.linear, (4, 6), (5, 6), (5,)),
    "linear, three axes, no bias": (F.linear, (2, 4, 6), (5, 6)),
    "matmul": (lambda x, y: x @ y, (3, 4, 6), (3, 6, 5)),
    "matmul, broadcast": (lambda x, y: x @ y, (3, 4, 6), (6, 5)),
    "conv2d": (F.conv2d, (2, 4, 7, 7), (6, 4, 3, 3), (6,)),
    "conv2d, strided, groups": (
        lambda *a: F.conv2d(*a, stride=2, padding=1, groups=2), (2, 4, 7, 7), (6, 2, 3, 3), (6,)
    ),
    "conv_transpose2d": (F.conv_transpose2d, (2, 4, 5, 5), (4, 3, 3, 3), (3,)),
    "conv_transpose2d, strided": (
        lambda *a: F.conv_transpose2d(*a, stride=2), (2, 4, 5, 5), (4, 3, 2, 2), (3,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("columns", [conv.GPU_COLUMN_BYTES, 1])
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_rounded_once(fused, name, columns, monkeypatch, rng):
    """Bit for bit as emulated: sums of these are exact in fp32, and rounded to fp16.

    columns: all images' windows at once, or one image's after the other's.
    """
    function, *shapes = PRODUCTS[name]
    monkeypatch.setattr(conv, "GPU_COLUMN_BYTES", columns)
    arrays = [rng.integers(-99, 100, shape).astype(np.float32) / 64 for shape in shapes]

    def run():
        tensors = [fs.Tensor(x, requires_grad=True, fmt="fp16") for x in arrays]
        y = function(*tensors)
        seed = np.random.default_rng(1).integers(-99, 100, y.shape).astype(np.float32) / 64
        (y * fs.Tensor(seed, fmt="fp16")).sum().backward()
        return [y.numpy(), *(x.grad.numpy() for x in tensors)]

    both_ways(run, monkeypatch, 0.0)


@pytest.mark.parametrize("fmt", ["fp16", "bf16"])
@pytest.mark.parametrize("mask", [None, "causal", (4, 5), (3, 1, 1, 5), (5,)])
def test_attention(fused, mask, fmt, monkeypatch, rng):
    arrays = rng.standard_normal((3, 3, 2, 5, 8)).astype(np.float32)
    q, k, v = arrays[0, :, :, :4], arrays[1], arrays[2]
    how = {"is_causal": True} if mask == "causal" else {}
    if isinstance(mask, tuple):
        how["attn_mask"] = rng.random(mask) < 0.8
        how["attn_mask"][..., 0] = True

    def run():
        tensors = [fs.Tensor(x, requires_grad=True, fmt=fmt) for x in (q, k, v)]
        y = F.scaled_dot_product_attention(*tensors, **how)
        (y * fs.Tensor(q, fmt=fmt)).sum().backward()
        return [y.numpy(), *(x.grad.numpy() for x in tensors)]

    both_ways(run, monkeypatch, {"fp16": 1e-3, "bf16": 8e-3}[fmt])
    assert {"forward", "backward", "Sight"} <= set(fused)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(fused, training, monkeypatch, rng):
    """fp16 images, fp32 parameters and statistics, as under autocast."""
    images = rng.standard_normal((4, 3, 5, 5)).astype(np.float32)

    def run():
        x = fs.Tensor(images, requires_grad=True, fmt="fp16")
        layer = fs.nn.BatchNorm2d(3)
        layer.train(training)
        y = layer(x)
        assert y.fmt == fs.FP16
        (y * fs.Tensor(images[::-1].copy(), fmt="fp16")).sum().backward()
        kept = [value.numpy() for _, value in layer.named_tensors() if value.fmt == fs.FP32]
        return [y.numpy(), x.grad.numpy(), *(p.grad.numpy() for p in layer.parameters()), *kept]

    both_ways(run, monkeypatch, 1e-3)
    assert {"batch_norm", "batch_norm_backward"} <= set(fused)


CASES = {
    "softmax": lambda x: F.softmax(x, axis=-1),
    "log_softmax": lambda x: F.log_softmax(x, axis=1),
    "softmax, another axis": lambda x: F.softmax(x, axis=0),
    "rms_norm": lambda x: F.rms_norm(x, (5,)),
    "layer_norm, two axes": lambda x: F.layer_norm(x, (3, 5)),
    "sigmoid": lambda x: x.sigmoid(),
    "tanh": lambda x: x.tanh(),
    "exp": lambda x: x.exp(),
    "silu": F.silu,
    "softplus": F.softplus,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "smoothed": lambda x: F.cross_entropy(x, np.array([1, 4, 0]), label_smoothing=0.1),
    "summed": lambda x: F.cross_entropy(x, np.array([1, 4, 0]), reduction="sum"),
    "ignored": lambda x: F.cross_entropy(x, np.array([1, 4, -100])),
    "each": lambda x: F.cross_entropy(x, np.array([1, 4, 0]), reduction="none"),
}  # fmt: skip


@pytest.mark.parametrize("fmt", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_a_primitive(fused, rng, case, fmt, monkeypatch):
    data = rng.standard_normal((3, 5))

    def outcome():
        x = fs.Tensor(data, requires_grad=True, fmt=fmt)
        y = CASES[case](x)
        y.backward(np.random.default_rng(0).standard_normal(y.shape))
        return y, x.grad

    with fs.storage("native"):
        native = outcome()
    assert fused
    monkeypatch.undo()
    for actual, expected in zip(native, outcome(), strict=True):
        assert actual.fmt is expected.fmt
        eps = 2 * expected.fmt.eps
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=2 * eps, atol=eps / 2)


@pytest.mark.parametrize("fmt", ["fp64", "tf32", "e4m3"])
def test_other_formats_are_the_array_codes(fused, fmt):
    """Kernels have no fp64, and would keep what was not rounded to the others."""
    x = fs.Tensor(np.ones((2, 3)), requires_grad=True, fmt=fmt)
    with fs.storage("native"):
        y = F.softmax(x.exp(), axis=-1)
        y.sum().backward()
    assert not fused
    images = fs.Tensor(np.ones((1, 1, 4, 4)), requires_grad=True, fmt=fmt)
    with fs.storage("native"):
        z = F.conv2d(images, fs.Tensor(np.ones((1, 1, 3, 3)), fmt=fmt), stride=2, padding=1)
        z.sum().backward()
    assert bool(fused) == (fmt != "fp64")  # windows only move values about
    assert images.grad.fmt is y.fmt is x.fmt


def test_backward_in_another_storage(fused):
    x = fs.Tensor(np.ones((2, 3)), requires_grad=True, fmt="fp16")
    with fs.storage("native"):
        y = F.softmax(fs.Tensor(x).sigmoid() * x, axis=-1)
    y.backward(np.float32([[1, 2, 3], [4, 5, 6]]))
    assert fused
    assert x.grad.data.dtype == np.float32


def test_who_watches_sees_the_array_code(fused):
    x = fs.Tensor(np.ones((2, 3)), fmt="fp16")
    with fs.storage("native"), fs.watch():
        F.softmax(x, axis=-1)
    assert not fused
    F.softmax(x, axis=-1)  # emulated
    assert not fused
