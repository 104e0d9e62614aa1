"""Quantization and pruning against PyTorch's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import prune

import fp16sim as fs

pytestmark = pytest.mark.filterwarnings("ignore:.*are deprecated and will be removed")

compress = fs.compress
seeds = st.integers(0, 2**32 - 1)
# With a power of two for a scale x / S, and PyTorch's x · (1 / S), are one number.
powers = st.integers(-6, 2).map(lambda k: 2.0**k)


def case(seed, shape=(5, 7)):
    """Values on, between, and beyond the numbers of a grid, ties among them."""
    rng = np.random.default_rng(seed)
    ties = rng.integers(-600, 600, shape) / 2
    return np.where(rng.random(shape) < 0.5, ties, rng.uniform(-300, 300, shape)).astype(np.float32)


def grid_of(scales, zeros, axis=None):
    return compress.Grid(
        np.array(scales, np.float32), np.array(zeros, np.int32), -128, 127, axis=axis
    )


# quantize_* add Z before they round, which sends ties elsewhere if Z is odd; fake_quantize_*, and
# fp16sim, round first.
@given(seeds, powers, st.integers(-64, 63).map(lambda half: 2 * half))
def test_quantize_per_tensor(seed, scale, zero):
    x = case(seed) * np.float32(scale)
    theirs = torch.quantize_per_tensor(torch.tensor(x), scale, zero, torch.qint8)
    grid = grid_of(scale, zero)
    mine = compress.quantize(x, grid)
    np.testing.assert_array_equal(mine, theirs.int_repr().numpy())
    np.testing.assert_array_equal(compress.dequantize(mine, grid), theirs.dequantize().numpy())


@given(seeds, st.lists(powers, min_size=5, max_size=5), st.integers(-20, 20))
def test_quantize_per_channel(seed, scales, zero):
    zeros = 2 * (zero + np.arange(5))
    x = case(seed) * np.float32(scales)[:, None]
    theirs = torch.quantize_per_channel(
        torch.tensor(x), torch.tensor(scales), torch.tensor(zeros), 0, torch.qint8
    )
    grid = grid_of(scales, zeros, axis=0)
    mine = compress.quantize(x, grid)
    np.testing.assert_array_equal(mine, theirs.int_repr().numpy())
    np.testing.assert_array_equal(compress.dequantize(mine, grid), theirs.dequantize().numpy())


@given(seeds, powers, st.integers(-128, 127))
def test_fake_quantize_and_its_gradient(seed, scale, zero):
    x = case(seed) * np.float32(scale)
    gradient = np.random.default_rng(seed).standard_normal(x.shape).astype(np.float32)
    mine, theirs = fs.Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y = compress.fake_quantize(mine, grid_of(scale, zero))
    z = torch.fake_quantize_per_tensor_affine(theirs, scale, zero, -128, 127)
    y.backward(gradient)
    z.backward(torch.tensor(gradient))
    np.testing.assert_array_equal(y.numpy(), z.detach().numpy())
    np.testing.assert_array_equal(mine.grad.numpy(), theirs.grad.numpy())


@given(seeds, st.lists(powers, min_size=5, max_size=5), st.integers(-20, 20))
def test_fake_quantize_per_channel(seed, scales, zero):
    zeros = zero + np.arange(5)
    x = case(seed) * np.float32(scales)[:, None]
    mine, theirs = fs.Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y = compress.fake_quantize(mine, grid_of(scales, zeros, axis=0))
    z = torch.fake_quantize_per_channel_affine(
        theirs, torch.tensor(scales), torch.tensor(zeros, dtype=torch.int32), 0, -128, 127
    )
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_array_equal(y.numpy(), z.detach().numpy())
    np.testing.assert_array_equal(mine.grad.numpy(), theirs.grad.numpy())


@given(seeds, st.floats(2.0**-10, 2.0**10, width=32))
def test_with_any_scale_they_differ_near_ties_only(seed, scale):
    """PyTorch multiplies by 1 / S, rounded; here the quotient is rounded."""
    rng = np.random.default_rng(seed)
    x = (rng.uniform(-200, 200, 500) * scale).astype(np.float32)
    grid = grid_of(scale, 3)
    mine = compress.quantize(x, grid).astype(int)
    theirs = torch.quantize_per_tensor(torch.tensor(x), scale, 3, torch.qint8).int_repr().numpy()
    near = np.abs(np.float64(x) / np.float64(grid.scale) % 1 - 0.5) < 2.0**-14
    np.testing.assert_array_equal(mine[~near], theirs[~near])
    assert np.abs(mine - theirs).max() <= 1


@given(seeds, st.booleans())
def test_scale_and_zero_point_are_those_of_an_observer(seed, per_channel):
    rng = np.random.default_rng(seed)
    x = (rng.uniform(-1, 1, (4, 50)) * rng.uniform(0.1, 10, (4, 1))).astype(np.float32)
    kind = (
        torch.ao.quantization.PerChannelMinMaxObserver
        if per_channel
        else torch.ao.quantization.MinMaxObserver
    )
    scheme = torch.per_channel_affine if per_channel else torch.per_tensor_affine
    observer = kind(dtype=torch.qint8, qscheme=scheme)
    observer(torch.tensor(x))
    scale, zero = (one.numpy() for one in observer.calculate_qparams())
    grid = compress.grid_for(x, axis=0 if per_channel else None)
    np.testing.assert_allclose(grid.scale.reshape(-1), scale, rtol=3e-7)
    # Z is rounded of a quotient that may be just beside a tie.
    assert np.abs(grid.zero_point.reshape(-1) - zero).max() <= 1
    assert (grid.zero_point.reshape(-1) == zero).mean() >= 0.75


@pytest.mark.parametrize("amount", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("per_layer", [False, True])
def test_pruning(amount, per_layer):
    task = fs.models.task("mlp", "tiny", seed=0)
    layers = [torch.nn.Linear(64, 32), torch.nn.Linear(32, 10)]
    for i, layer in enumerate(layers):
        weight = getattr(task.model.layers, str(i)).weight
        layer.weight.data = torch.tensor(weight.numpy())
    masks = compress.prune(task.model, amount, per_layer=per_layer)
    if per_layer:
        for layer in layers:
            prune.l1_unstructured(layer, "weight", amount)
    else:
        prune.global_unstructured(
            [(layer, "weight") for layer in layers], prune.L1Unstructured, amount=amount
        )
    for i, layer in enumerate(layers):
        np.testing.assert_array_equal(masks[f"layers.{i}.weight"], layer.weight_mask.numpy() == 1)
        mine = getattr(task.model.layers, str(i)).weight.numpy()
        np.testing.assert_array_equal(mine, layer.weight.detach().numpy())


def test_an_integer_layer_against_pytorchs():
    """With the one engine of PyTorch's that sums without saturating; at most a step apart."""
    torch.backends.quantized.engine = "onednn"
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 3, (16, 40)).astype(np.float32)
    w, b = rng.standard_normal((8, 40)).astype(np.float32), np.zeros(8, np.float32)
    # PyTorch's activations are unsigned: the same grid, its integers 128 higher.
    gx, out = compress.grid_for(x), compress.grid_between(-30.0, 30.0)
    gw = compress.grid_for(w, symmetric=True, axis=0)
    mine = compress.integer_linear(
        compress.quantize(x, gx), gx, compress.quantize(w, gw), gw, b, out
    )
    q = torch.quantize_per_tensor(
        torch.tensor(x), float(gx.scale), int(gx.zero_point) + 128, torch.quint8
    )
    weight = torch.quantize_per_channel(
        torch.tensor(w), torch.tensor(gw.scale), torch.zeros(8, dtype=torch.int), 0, torch.qint8
    )
    packed = torch.ops.quantized.linear_prepack(weight, torch.tensor(b))
    theirs = torch.ops.quantized.linear(q, packed, float(out.scale), int(out.zero_point) + 128)
    distance = np.abs(mine.astype(int) - (theirs.int_repr().numpy().astype(int) - 128))
    assert distance.max() <= 1
    assert (distance == 0).mean() > 0.95
