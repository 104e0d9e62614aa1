"""Unit scaling: the primitive, the layer's variances, and training without a loss scale."""

import numpy as np
import pytest

import fp16sim as fs

F = fs.functional


def test_scale_has_two_numbers():
    x = fs.Tensor(np.float32([1, -3]), requires_grad=True)
    y = F.scale(x, 2.0, 0.5)
    y.backward(np.float32([1, 8]))
    assert y.data.tolist() == [2, -6]
    assert x.grad.data.tolist() == [0.5, 4]
    low = F.scale(x.to("fp16"), 1 / 3)
    assert low.fmt is fs.FP16
    assert low.data.tolist() == [np.float16(1 / 3), -1]
    with pytest.raises(TypeError, match="forward must be a number"):
        F.scale(x, "2")
    with pytest.raises(ValueError, match="backward=inf is not allowed"):
        F.scale(x, 1.0, np.inf)


def test_linear_is_three_scaled_products(rng):
    x, w, b, g = (rng.standard_normal(shape) for shape in ((2, 5, 7), (3, 7), (3,), (2, 5, 3)))
    leaves = [fs.Tensor(value, requires_grad=True) for value in (x, w, b)]
    y = F.linear(*leaves, unit_scaled=True)
    y.backward(g)
    rows, gs = x.reshape(10, 7), g.reshape(10, 3)
    np.testing.assert_allclose(y.data, (x @ w.T) / 7**0.5 + b, rtol=1e-12)
    np.testing.assert_allclose(leaves[0].grad.data, g @ w / 3**0.5, rtol=1e-12)
    np.testing.assert_allclose(leaves[1].grad.data, gs.T @ rows / 10**0.5, rtol=1e-12)
    np.testing.assert_allclose(leaves[2].grad.data, gs.sum(axis=0) / 10**0.5, rtol=1e-12)


def test_it_is_rounded_once_after_scaling(rng):
    """The sum of 4096 times 100 is beyond fp16; over √4096 it is not."""
    x = fs.Tensor(np.full((1, 4096), 100.0, np.float32), fmt="fp16")
    w = fs.Tensor(np.ones((1, 4096), np.float32), fmt="fp16")
    assert F.linear(x, w, unit_scaled=True).item() == 6400
    assert F.linear(x, w).item() == np.inf


@pytest.mark.parametrize(("fan_in", "fan_out", "batch"), [(64, 512, 32), (512, 64, 256)])
def test_variances_are_one(fan_in, fan_out, batch, rng):
    """Of a sum of n products; sample variances of so many values are within 20 %."""
    layer = fs.nn.Linear(fan_in, fan_out, unit_scaled=True, rng=0)
    assert layer.bias.data.tolist() == [0] * fan_out
    x = fs.Tensor(rng.standard_normal((batch, fan_in)).astype(np.float32), requires_grad=True)
    y = layer(x)
    y.backward(rng.standard_normal((batch, fan_out)).astype(np.float32))
    for values in (layer.weight.data, y.data, x.grad.data, layer.weight.grad.data):
        assert 0.8 < values.var() < 1.2
    assert 0.5 < layer.bias.grad.data.var() < 2  # of few values


def test_order_of_parameters_and_no_bias():
    layer = fs.nn.Linear(3, 2, unit_scaled=True, rng=0)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert fs.nn.Linear(3, 2, bias=False, unit_scaled=True).bias is None
    with pytest.raises(TypeError, match="unit_scaled must be True or False"):
        fs.nn.Linear(3, 2, unit_scaled=1)


class Unit(fs.nn.Module):
    """An MLP whose activations and gradients all begin with a mean square near 1."""

    def __init__(self, rng):
        self.layers = fs.nn.Sequential(
            *(fs.nn.Linear(i, o, unit_scaled=True, rng=rng)
              for i, o in ((64, 256), (256, 256), (256, 10)))
        )  # fmt: skip

    def forward(self, x):
        for name, layer in self.layers.children():
            x = layer(x if name == "0" else F.scale(F.relu(x), 2**0.5, 2**0.5))
        return x


class Plain(fs.nn.Sequential):
    """The same with the usual weights."""

    def __init__(self, rng):
        sizes = ((64, 256), (256, 256), (256, 10))
        first, second, third = (fs.nn.Linear(*size, rng=rng) for size in sizes)
        super().__init__(first, fs.nn.ReLU(), second, fs.nn.ReLU(), third)


def train(digits, fmt, network=Unit, seed_scale=64 * 10 / 3, steps=60):
    """The loss at the end, and the share of gradients that were flushed. No loss scale.

    seed_scale: brings the gradient of a mean over 64 rows of 10 back to a mean square near 1; it is
    a factor of all gradients, which Adam does not see.
    """
    model, heard = network(np.random.default_rng(0)), []
    images = digits.train_images
    images = ((images - images.mean()) / images.std()).astype(np.float32)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    random = np.random.default_rng(1)
    losses = []

    def note(event):
        if isinstance(event, fs.events.Rounded) and event.origin.role.endswith("gradient"):
            flushed = (event.before != 0) & (event.after == 0)
            heard.append((flushed.sum(), (event.before != 0).sum(), np.isfinite(event.after).all()))

    with fs.events.observe(note):
        for _ in range(steps):
            chosen = random.integers(0, len(images), 64)
            optimizer.zero_grad()
            with fs.presets.jmp("p=f32,c=f32").region() if fmt == "fp32" else whole(fmt):
                logits = model(fs.Tensor(images[chosen]))
            logits = F.scale(logits, 1.0, seed_scale)
            loss = F.cross_entropy(logits, digits.train_labels[chosen])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    flushed, nonzero, finite = (np.array(column) for column in zip(*heard, strict=True))
    assert finite.all()
    return np.mean(losses[-10:]), flushed.sum() / nonzero.sum()


def whole(fmt):
    return fs.autocast.of(fs.precision.Policy(fs.formats.format_of(fmt), fs.FP32, whole=True))


def test_no_loss_scale_is_needed(digits):
    plain, _ = train(digits, "fp32")
    for fmt, worst in (("fp16", 1e-4), ("e5m2", 0.005), ("e4m3", 0.05)):
        loss, flushed = train(digits, fmt)
        assert flushed < worst, fmt
        assert loss < 2 * plain + 0.1, fmt
        _, usual = train(digits, fmt, Plain, 1.0, steps=20)
        assert usual > 10 * worst or usual > 0.3, fmt
