"""Modules, initial weights, models."""

import numpy as np
import pytest

import fp16sim as fs
from fp16sim.nn import init


def test_parameters_are_found_by_name_each_once():
    model = fs.nn.Sequential(fs.nn.Linear(2, 3, rng=0), fs.nn.Tanh(), fs.nn.Linear(3, 1, rng=1))
    model.shared = model[0]
    names = [name for name, _ in model.named_parameters()]
    assert names == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(list(model.parameters())) == 4
    assert len(fs.nn.Sequential(*(fs.nn.ReLU() for _ in range(12)))) == 12


def test_unknown_attributes_raise():
    with pytest.raises(AttributeError):
        fs.nn.Linear(2, 3, rng=0).wieght  # noqa: B018


def test_to_rounds_parameters_in_place():
    layer = fs.nn.Linear(4, 4, rng=0)
    weight, before = layer.weight, layer.weight.numpy()
    assert layer.to("fp16") is layer
    assert layer.weight is weight
    assert weight.fmt is fs.FP16
    assert np.array_equal(weight.data, before.astype(np.float16).astype(np.float32))


def test_zero_grad():
    layer = fs.nn.Linear(2, 2, rng=0)
    layer(fs.Tensor(np.ones((1, 2), np.float32))).sum().backward()
    assert layer.weight.grad is not None
    layer.zero_grad()
    assert layer.weight.grad is None


def test_same_seed_same_weights_and_global_state_untouched():
    state = repr(np.random.get_state())  # noqa: NPY002
    first, second = fs.nn.Linear(5, 4, rng=3), fs.nn.Linear(5, 4, rng=3)
    fs.nn.Linear(5, 4)
    assert np.array_equal(first.weight.data, second.weight.data)
    assert repr(np.random.get_state()) == state  # noqa: NPY002


@pytest.mark.parametrize(
    ("draw", "bound"),
    [
        (lambda: init.xavier_uniform((300, 200), 0), np.sqrt(6 / 500)),
        (lambda: init.fan_in_uniform((300, 200), 200, 0), 1 / np.sqrt(200)),
    ],
)
def test_initial_weights_fill_their_interval(draw, bound):
    weights = draw()
    assert weights.dtype == np.float32
    assert 0.99 * bound < weights.max() <= bound
    assert abs(weights.std() - bound / np.sqrt(3)) < 0.01 * bound


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (
            lambda: fs.nn.Linear(0, 3),
            ValueError,
            "in_features=0 is not allowed; it must be at least 1",
        ),
        (lambda: fs.nn.Linear(3, 2.0), TypeError, "out_features must be an integer, got 2.0"),
        (lambda: fs.nn.Linear(3, 2, rng="seed"), TypeError, "rng must be"),
        (lambda: fs.nn.Sequential(fs.nn.ReLU(), 3), TypeError, r"modules\[1\] must be a Module"),
        (lambda: fs.models.Autoencoder(activation="step"), ValueError, "sigmoid, tanh, relu"),
        (lambda: fs.models.Autoencoder((64,)), ValueError, "two sizes or more"),
        (lambda: fs.models.Autoencoder(64), ValueError, "sizes=64"),
        (lambda: fs.models.Autoencoder(activation=["tanh"]), TypeError, "must be a name"),
        (lambda: fs.nn.Module()(1), NotImplementedError, "does not define forward"),
    ],
)
def test_bad_input_is_named(action, error, message):
    with pytest.raises(error, match=message):
        action()


def test_autoencoder_shapes_and_names():
    model = fs.models.Autoencoder(rng=0)
    shapes = {name: p.shape for name, p in model.named_parameters() if p.ndim == 2}
    assert list(shapes.values()) == [(96, 64), (48, 96), (16, 48), (48, 16), (96, 48), (64, 96)]
    assert next(iter(shapes)) == "encoder.0.linear.weight"
    drawn = model(fs.Tensor(np.ones((5, 64), np.float32)))
    assert drawn.shape == (5, 64)
    for activation in ("tanh", "relu"):  # pixels are from 0 to 1 whatever is inside
        other = fs.models.Autoencoder(activation=activation, rng=0)
        values = other(fs.Tensor(np.full((5, 64), 50, np.float32))).data
        assert (values >= 0).all()
        assert (values <= 1).all()


def test_linear_starts_within_one_over_root_fan_in():
    layer = fs.nn.Linear(400, 300, rng=0)
    for p in (layer.weight, layer.bias):
        assert 0.97 / 20 < abs(p.data).max() <= 1 / 20


def test_to_forgets_gradients():
    layer = fs.nn.Linear(2, 2, rng=0)
    layer(fs.Tensor(np.ones((1, 2), np.float32))).sum().backward()
    assert layer.to("fp16").weight.grad is None
