"""Modules, layers, initial weights, summaries, recomputation, and primitives of one's own."""

import gc
import weakref

import numpy as np
import pytest

import fp16sim as fs
from fp16sim.autograd.primitive import PRIMITIVES
from fp16sim.nn import init

F = fs.functional


def array(*shape, seed=1):
    """Normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(*shape, seed=1, requires_grad=False):
    return fs.Tensor(array(*shape, seed=seed), requires_grad=requires_grad)


def bits(tensors):
    """Named tensors as bytes, to be compared."""
    return {name: (str(x.fmt), x.data.tobytes()) for name, x in tensors}


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


class Scaled(fs.nn.Module):
    """A parameter, a buffer, a part that is used twice, and a weight that is tied to it."""

    def __init__(self):
        self.first = fs.nn.Linear(3, 3, rng=0)
        self.again = self.first
        self.scale = fs.Tensor(np.full(3, 2, np.float32))
        self.shift = fs.Tensor(np.ones(3, np.float32), requires_grad=True)
        self.tied = self.first.weight
        self.count = 7

    def forward(self, x):
        return F.linear(self.again(self.first(x)) * self.scale + self.shift, self.tied)


class TestModule:
    def test_what_requires_a_gradient_is_a_parameter_and_the_rest_buffers(self):
        model = Scaled()
        assert [name for name, _ in model.named_tensors()] == [
            "scale",
            "shift",
            "tied",
            "first.bias",
        ]
        assert [name for name, _ in model.named_parameters()] == ["shift", "tied", "first.bias"]
        assert [name for name, _ in model.named_buffers()] == ["scale"]
        assert [id(p) for p in model.parameters()] == [id(p) for _, p in model.named_parameters()]
        assert [name for name, _ in model.children()] == ["first", "again"]
        norm = fs.nn.Sequential(fs.nn.BatchNorm2d(2))
        assert [n for n, _ in norm.named_buffers()] == ["0.running_mean", "0.running_var"]

    def test_a_tied_weight_gets_both_gradients(self):
        model, x = Scaled(), tensor(2, 3)
        model(x).sum().backward()
        w, b = fs.Tensor(model.tied, requires_grad=True), model.first.bias.detach()
        F.linear(F.linear(F.linear(x, w, b), w, b) * 2.0 + 1.0, w).sum().backward()
        assert np.array_equal(model.tied.grad.data, w.grad.data)

    def test_train_and_eval_reach_all_parts(self):
        model = fs.nn.Sequential(fs.nn.Sequential(fs.nn.Dropout()), fs.nn.BatchNorm2d(2))
        modes = lambda: {module.training for _, module in model.named_modules()}  # noqa: E731
        assert modes() == {True}
        assert model.eval() is model
        assert modes() == {False}
        assert model.train() is model
        assert modes() == {True}
        model.train(False)
        assert modes() == {False}
        with pytest.raises(TypeError, match="mode must be True or False, got 1"):
            model.train(1)
        assert modes() == {False}

    def test_paths_of_modules(self):
        model = fs.nn.TransformerBlock(4, 2, rng=0)
        paths = [path for path, _ in model.named_modules()]
        assert paths == ["", "norm1", "attention", "attention.qkv", "attention.out", "norm2", "mlp",
                         "mlp.0", "mlp.1", "mlp.2", "dropout"]  # fmt: skip

    def test_zero_grad_forgets_all(self):
        model = Scaled()
        model(tensor(2, 3)).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        model.zero_grad()
        assert all(p.grad is None for p in model.parameters())

    @pytest.mark.parametrize("fmt", ["fp16", "bf16", "fp64", "e5m2"])
    def test_to_rounds_parameters_and_keeps_buffers(self, fmt):
        model = fs.nn.Sequential(fs.nn.Conv2d(1, 2, 3, rng=0), fs.nn.BatchNorm2d(2))
        before, buffers = model.state_dict(), bits(model.named_buffers())
        model.to(fmt)
        for name, p in model.named_parameters():
            assert p.fmt.name == fmt
            assert p.data.dtype == (np.float64 if fmt == "fp64" else np.float32)
            assert np.array_equal(p.data, fs.round_to(before[name].data, fmt))
        assert bits(model.named_buffers()) == buffers


class TestState:
    def test_round_trip_bit_for_bit(self):
        model, other = Scaled(), Scaled()
        for module in (model, other):
            module.first.to("fp16")
        for position, (_, x) in enumerate(model.named_tensors()):
            x.data = fs.round_to(array(*x.shape, seed=position), x.fmt)
        state = model.state_dict()
        assert list(state) == [name for name, _ in model.named_tensors()]
        other.load_state_dict(state)
        assert bits(other.named_tensors()) == bits(model.named_tensors())
        assert other.tied is other.first.weight is other.again.weight

    def test_it_is_a_copy_both_ways(self):
        model = fs.nn.Linear(2, 2, rng=0)
        state, before = model.state_dict(), bits(model.named_tensors())
        for x in state.values():
            x.data[...] = 9
        assert bits(model.named_tensors()) == before
        arrays = {name: x.numpy() for name, x in state.items()}
        model.load_state_dict(arrays)
        loaded = bits(model.named_tensors())
        for x in arrays.values():
            x[...] = 3
        assert bits(model.named_tensors()) == loaded

    @pytest.mark.parametrize("own", ["fp16", "bf16", "fp32", "fp64"])
    @pytest.mark.parametrize("given", ["f2", "f4", "f8"])
    def test_values_are_rounded_to_the_format_here(self, own, given):
        model = fs.nn.Linear(3, 2, rng=0).to(own)
        model(tensor(1, 3)).sum().backward()
        values = {"weight": array(2, 3).astype(given), "bias": array(2).astype(given)}
        model.load_state_dict(values)
        for name, p in model.named_parameters():
            assert p.fmt.name == own
            assert p.grad is None
            expected = fs.round_to(values[name].astype(np.float64), own)
            assert np.array_equal(p.data, expected)
            assert p.data.dtype == (np.float64 if own == "fp64" else np.float32)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"bias": None}, ValueError, "does not fit this Linear; missing: bias"),
            ({"b": 0}, ValueError, "does not fit this Linear; unknown: b"),
            ({"bias": None, "b": 0}, ValueError, "missing: bias; unknown: b"),
            ({"bias": np.ones(3)}, ValueError, r"shape \(3,\) for bias; allowed is \(2,\)"),
            ({"bias": np.ones((1, 2))}, ValueError, r"shape \(1, 2\) for bias"),
            ({"bias": 1.0}, ValueError, r"shape \(\) for bias"),
            ({"bias": np.ones(2, int)}, TypeError, r"state\['bias'\] has dtype int64"),
            ({"bias": "wide"}, TypeError, r"state\['bias'\] has dtype <U4"),
            ({"bias": np.ones(2, complex)}, TypeError, r"state\['bias'\] has dtype complex128"),
        ],
    )
    def test_what_does_not_fit_changes_nothing(self, change, error, message):
        model = fs.nn.Linear(3, 2, rng=0)
        model(tensor(1, 3)).sum().backward()
        before = bits(model.named_tensors())
        state = {"weight": np.ones((2, 3)), "bias": np.ones(2)} | change
        state = {name: value for name, value in state.items() if value is not None}
        with pytest.raises(error, match=message):
            model.load_state_dict(state)
        assert bits(model.named_tensors()) == before
        assert all(p.grad is not None for p in model.parameters())

    def test_a_state_is_a_mapping(self):
        with pytest.raises(TypeError, match="state must be a mapping, got list"):
            fs.nn.Linear(3, 2, rng=0).load_state_dict([np.ones((2, 3)), np.ones(2)])


class TestHooks:
    def test_order_replacement_and_what_they_see(self):
        layer, x, seen = fs.nn.ReLU(), tensor(4), []

        def double(module, inputs, output):
            seen.append((module, inputs, output))
            return output * 2.0

        with layer.hook(double), layer.hook(lambda *given: seen.append(given)):
            y = layer(x)
        (module, inputs, output), (_, same, doubled) = seen
        assert module is layer
        assert inputs == same == (x,)
        assert np.array_equal(output.data, np.maximum(x.data, 0))
        assert y is doubled  # None replaces nothing
        assert np.array_equal(y.data, 2 * output.data)
        assert np.array_equal(layer(x).data, output.data)

    def test_run_in_the_scope_of_the_module(self):
        model, paths = fs.nn.Sequential(fs.nn.ReLU(), fs.nn.Sequential(fs.nn.Tanh())), []
        with model[1][0].hook(lambda *_: paths.append(fs.events.current_scope())):
            model(tensor(3))
        assert paths == ["1.0"]

    def test_removed_after_an_error_in_the_block_or_in_the_hook(self):
        layer, x = fs.nn.ReLU(), tensor(4)

        def broken(*_):
            raise ArithmeticError

        with pytest.raises(ArithmeticError), layer.hook(broken):
            layer(x)
        with pytest.raises(KeyError), layer.hook(lambda *_: x):
            raise KeyError
        assert fs.events.current_scope() == ""
        assert np.array_equal(layer(x).data, np.maximum(x.data, 0))

    def test_each_removes_itself_whatever_the_order(self):
        layer, seen = fs.nn.ReLU(), []
        first = layer.hook(lambda *_: seen.append("first"))
        second = layer.hook(lambda *_: seen.append("second"))
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        layer(tensor(1))
        assert seen == ["second"]
        second.__exit__(None, None, None)
        layer(tensor(1))
        assert seen == ["second"]


#: a layer, the shape of an input, of its output, and of its parameters
LAYERS = {
    "linear": (lambda: fs.nn.Linear(3, 5, rng=0), (2, 7, 3), (2, 7, 5), [(5, 3), (5,)]),
    "linear bare": (lambda: fs.nn.Linear(3, 5, False, rng=0), (3,), (5,), [(5, 3)]),
    "conv": (
        lambda: fs.nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2, rng=0),
        (2, 4, 7, 9),
        (2, 6, 4, 7),
        [(6, 2, 3, 2), (6,)],
    ),
    "conv bare": (
        lambda: fs.nn.Conv2d(1, 2, 3, bias=False, rng=0),
        (1, 1, 5, 5),
        (1, 2, 3, 3),
        [(2, 1, 3, 3)],
    ),
    "transposed": (
        lambda: fs.nn.ConvTranspose2d(4, 6, (3, 2), 2, 1, (1, 0), 2, rng=0),
        (2, 4, 3, 4),
        (2, 6, 6, 6),
        [(4, 3, 3, 2), (6,)],
    ),
    "layer norm": (lambda: fs.nn.LayerNorm((3, 4)), (2, 3, 4), (2, 3, 4), [(3, 4)] * 2),
    "rms norm": (lambda: fs.nn.RMSNorm(4), (2, 3, 4), (2, 3, 4), [(4,)]),
    "group norm": (lambda: fs.nn.GroupNorm(2, 6), (2, 6, 5), (2, 6, 5), [(6,)] * 2),
    "batch norm": (lambda: fs.nn.BatchNorm2d(3), (2, 3, 4, 5), (2, 3, 4, 5), [(3,)] * 2),
    "dropout": (lambda: fs.nn.Dropout(0.5, rng=0), (2, 3), (2, 3), []),
    "relu": (fs.nn.ReLU, (2, 3), (2, 3), []),
    "sigmoid": (fs.nn.Sigmoid, (2, 3), (2, 3), []),
    "tanh": (fs.nn.Tanh, (2, 3), (2, 3), []),
    "silu": (fs.nn.SiLU, (2, 3), (2, 3), []),
    "gelu": (lambda: fs.nn.GELU("tanh"), (2, 3), (2, 3), []),
    "max pool": (lambda: fs.nn.MaxPool2d(3, 2, 1), (2, 3, 7, 8), (2, 3, 4, 4), []),
    "max pool by its size": (lambda: fs.nn.MaxPool2d((2, 3)), (1, 1, 5, 7), (1, 1, 2, 2), []),
    "flatten": (fs.nn.Flatten, (2, 3, 4), (2, 12), []),
    "attention": (
        lambda: fs.nn.MultiheadAttention(6, 3, rng=0),
        (2, 5, 6),
        (2, 5, 6),
        [(18, 6), (18,), (6, 6), (6,)],
    ),
    "block": (
        lambda: fs.nn.TransformerBlock(4, 2, 0.1, rng=0),
        (2, 5, 4),
        (2, 5, 4),
        [(4,), (4,), (12, 4), (12,), (4, 4), (4,), (4,), (4,), (16, 4), (16,), (4, 16), (4,)],
    ),
}  # fmt: skip


class TestLayers:
    @pytest.mark.parametrize("name", LAYERS)
    def test_shapes_formats_and_gradients(self, name):
        make, shape, expected, parameters = LAYERS[name]
        layer, x = make(), tensor(*shape, requires_grad=True)
        y = layer(x)
        assert y.shape == expected
        assert y.fmt == fs.FP32
        assert [p.shape for p in layer.parameters()] == parameters
        assert {p.data.dtype for p in layer.parameters()} <= {np.dtype(np.float32)}
        y.backward(array(*expected))
        assert all(p.grad is not None for p in (x, *layer.parameters()))

    def test_all_are_tested(self):
        made = {type(make()).__name__ for make, *_ in LAYERS.values()} | {"Embedding", "Sequential"}
        classes = {n for n in fs.nn.__all__ if isinstance(getattr(fs.nn, n), type)}
        assert classes - made == {"Module", "Summary"}

    def test_embedding(self):
        layer = fs.nn.Embedding(7, 3, rng=0)
        ids = np.array([[6, 0], [6, 6]])
        assert np.array_equal(layer(ids).data, layer.weight.data[ids])
        layer(ids).sum().backward()
        assert np.array_equal(layer.weight.grad.data[:, 0], [1, 0, 0, 0, 0, 0, 3])

    def test_batch_norm_keeps_running_statistics_in_fp32(self):
        layer, x = fs.nn.BatchNorm2d(3).to("fp16"), fs.Tensor(array(8, 3, 2, 2), fmt="fp16")
        assert layer(x).fmt == fs.FP16
        assert layer.running_mean.fmt == layer.running_var.fmt == fs.FP32
        mean, var = x.data.mean((0, 2, 3)), x.data.var((0, 2, 3), ddof=1)
        np.testing.assert_allclose(layer.running_mean.data, 0.1 * mean, rtol=1e-5)
        np.testing.assert_allclose(layer.running_var.data, 0.9 + 0.1 * var, rtol=1e-5)
        before = bits(layer.named_buffers())
        layer.eval()(x)
        assert bits(layer.named_buffers()) == before

    @pytest.mark.parametrize(
        ("action", "error", "message"),
        [
            (lambda: fs.nn.Conv2d(0, 1, 3), ValueError, "in_channels=0"),
            (lambda: fs.nn.Conv2d(1, 0, 3), ValueError, "out_channels=0"),
            (lambda: fs.nn.Conv2d(4, 6, 3, groups=4), ValueError, "does not divide out_channels=6"),
            (lambda: fs.nn.Conv2d(1, 1, 0), ValueError, "kernel_size=0"),
            (lambda: fs.nn.Conv2d(1, 1, (1, 2, 3)), ValueError, "one integer or two"),
            (lambda: fs.nn.Conv2d(1, 1, 3, stride=0), ValueError, "stride=0"),
            (lambda: fs.nn.Conv2d(1, 1, 3, padding=-1), ValueError, "padding=-1"),
            (lambda: fs.nn.Conv2d(1, 1, 3, dilation=0), ValueError, "dilation=0"),
            (lambda: fs.nn.Conv2d(1, 1, 3, rng=-1), ValueError, "rng=-1"),
            (lambda: fs.nn.ConvTranspose2d(1, 0, 3), ValueError, "out_channels=0"),
            (lambda: fs.nn.ConvTranspose2d(4, 6, 3, groups=3), ValueError, "groups=3 does not"),
            (lambda: fs.nn.init.fans((4, 0)), ValueError, "sizes must be at least 1"),
            (lambda: fs.nn.ConvTranspose2d(1, 1, 3, output_padding=-1), ValueError, "padding=-1"),
            (lambda: fs.nn.LayerNorm(0), ValueError, "normalized_shape=0"),
            (lambda: fs.nn.LayerNorm(3, -1.0), ValueError, "eps=-1.0"),
            (lambda: fs.nn.RMSNorm((3, 0)), ValueError, "normalized_shape=0"),
            (lambda: fs.nn.RMSNorm(3, "small"), TypeError, "eps must be a number"),
            (lambda: fs.nn.GroupNorm(4, 6), ValueError, "num_groups=4 does not divide 6"),
            (lambda: fs.nn.GroupNorm(0, 6), ValueError, "num_groups=0"),
            (lambda: fs.nn.BatchNorm2d(0), ValueError, "num_features=0"),
            (lambda: fs.nn.BatchNorm2d(2, momentum=-0.1), ValueError, "momentum=-0.1"),
            (lambda: fs.nn.BatchNorm2d(2)(tensor(1, 2, 1, 1)), ValueError, "two values for each"),
            (lambda: fs.nn.Embedding(0, 2), ValueError, "num_embeddings=0"),
            (lambda: fs.nn.Embedding(2, 0), ValueError, "embedding_dim=0"),
            (lambda: fs.nn.Embedding(2, 3)([0, 2]), ValueError, "value 2; allowed are 0 to 1"),
            (lambda: fs.nn.Embedding(2, 3)([0.5]), TypeError, "has dtype float64"),
            (lambda: fs.nn.Dropout(1.5), ValueError, "p=1.5 is not allowed"),
            (lambda: fs.nn.Dropout(-0.5), ValueError, "p=-0.5 is not allowed"),
            (lambda: fs.nn.Dropout("half"), TypeError, "p must be a number"),
            (lambda: fs.nn.GELU("erf"), ValueError, "approximate='erf' is not known"),
            (lambda: fs.nn.MaxPool2d(0), ValueError, "kernel_size=0"),
            (lambda: fs.nn.MultiheadAttention(6, 4), ValueError, "heads=4 does not divide width=6"),
            (lambda: fs.nn.MultiheadAttention(0, 1), ValueError, "width=0"),
            (lambda: fs.nn.MultiheadAttention(4, 0), ValueError, "heads=0"),
            (
                lambda: fs.nn.MultiheadAttention(4, 2)(tensor(3, 4)),
                ValueError,
                r"input has shape \(3, 4\); allowed is \(N, length, width\)",
            ),
            (
                lambda: fs.nn.MultiheadAttention(4, 2)(tensor(2, 3, 5)),
                ValueError,
                r"input has shape \(2, 3, 5\); allowed is",
            ),
            (
                lambda: fs.nn.MultiheadAttention(4, 2)(tensor(1, 3, 4), np.ones((2, 2), bool)),
                ValueError,
                "broadcast",
            ),
            (lambda: fs.nn.TransformerBlock(4, 2, 2.0), ValueError, "p=2.0 is not allowed"),
            (lambda: fs.nn.Linear(3, 2)(array(1, 3)), TypeError, "input must be a Tensor"),
            (lambda: fs.nn.Linear(3, 2)(tensor(1, 4)), ValueError, r"allowed is \(..., 3\)"),
        ],
    )  # fmt: skip
    def test_refusals(self, action, error, message):
        with pytest.raises(error, match=message):
            action()

    def test_attention_sees_what_the_mask_shows(self):
        layer, x = fs.nn.MultiheadAttention(4, 2, rng=0), tensor(2, 5, 4)
        other = fs.Tensor(np.concatenate([x.data[:, :3], array(2, 2, 4, seed=9)], axis=1))
        causal = np.tri(5, dtype=bool)
        for given in ((None, True), (causal, False), (causal[None, None], False)):
            y, z = layer(x, *given).data, layer(other, *given).data
            assert np.array_equal(y[:, :3], z[:, :3])
            assert not np.array_equal(y[:, 3:], z[:, 3:])
        assert not np.array_equal(layer(x).data[:, :3], layer(other).data[:, :3])


class TestDropout:
    def test_zeroes_its_share_and_keeps_the_mean(self):
        x = fs.Tensor(np.ones((400, 500), np.float32), requires_grad=True)
        y = fs.nn.Dropout(0.3, rng=0)(x)
        dropped = y.data == 0
        assert abs(dropped.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / x.size)
        assert np.unique(y.data[~dropped]).tolist() == [np.float32(1 / 0.7)]
        y.sum().backward()
        assert np.array_equal(x.grad.data, y.data)

    def test_every_call_draws_anew_and_the_seed_decides(self):
        x, layers = tensor(50), [fs.nn.Dropout(0.5, rng=seed) for seed in (3, 3, 4)]
        first, same, other = ([layer(x).data for _ in range(3)] for layer in layers)
        assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
        assert not np.array_equal(first[0], first[1])
        assert not np.array_equal(first[0], other[0])

    def test_draws_nothing_in_eval_mode(self):
        layer, x = fs.nn.Dropout(0.5, rng=0).eval(), tensor(50)
        state = layer.rng.bit_generator.state
        assert layer(x) is x
        assert layer.rng.bit_generator.state == state

    @pytest.mark.parametrize(("p", "factor"), [(0, 1), (1, 0)])
    def test_none_and_all(self, p, factor):
        x = tensor(20, requires_grad=True)
        y = fs.nn.Dropout(p, rng=0)(x)
        y.sum().backward()
        assert np.array_equal(y.data, factor * x.data)
        assert np.array_equal(x.grad.data, np.full(20, factor))


class TestInit:
    #: of a weight (400, 60, 3, 2): fan_in 360, fan_out 2400
    SHAPE = (400, 60, 3, 2)

    @pytest.mark.parametrize(
        ("draw", "bound"),
        [
            (lambda s: init.xavier_uniform(s, 0), np.sqrt(6 / 2760)),
            (lambda s: init.kaiming_uniform(s, 0), np.sqrt(6 / 360)),
            (lambda s: init.fan_in_uniform(s, 360, 0), 1 / np.sqrt(360)),
            (lambda s: init.uniform(s, 0.25, 0), 0.25),
        ],
    )
    def test_uniform(self, draw, bound):
        x = draw(self.SHAPE)
        assert x.shape == self.SHAPE
        assert x.dtype == np.float32
        assert 0.999 * bound < x.max() <= bound * (1 + 1e-7)
        assert 0.999 * bound < -x.min() <= bound * (1 + 1e-7)
        self.has_moments(x, bound / np.sqrt(3), 9 / 5)

    @pytest.mark.parametrize(
        ("draw", "std"),
        [
            (lambda s: init.xavier_normal(s, 0), np.sqrt(2 / 2760)),
            (lambda s: init.kaiming_normal(s, 0), np.sqrt(2 / 360)),
            (lambda s: init.normal(s, 0.02, 0), 0.02),
        ],
    )
    def test_normal(self, draw, std):
        x = draw(self.SHAPE)
        assert x.dtype == np.float32
        self.has_moments(x, std, 3)

    @staticmethod
    def has_moments(x, std, kurtosis):
        """Mean 0, this standard deviation, within five standard errors."""
        assert abs(x.mean()) < 5 * std / np.sqrt(x.size)
        share = np.sqrt((kurtosis - 1) / x.size)  # of the variance, its standard error
        assert abs(x.var(dtype=np.float64) / std**2 - 1) < 5 * share
        assert abs((x.astype(np.float64) ** 4).mean() / std**4 / kurtosis - 1) < 0.05

    @pytest.mark.parametrize(
        ("layer", "fan_in"),
        [
            (lambda: fs.nn.Linear(50, 400, rng=0), 50),
            (lambda: fs.nn.Conv2d(40, 100, (3, 2), groups=4, rng=0), 60),
            (lambda: fs.nn.ConvTranspose2d(40, 100, (3, 2), groups=4, rng=0), 150),
        ],
    )
    def test_layers_start_as_in_torch(self, layer, fan_in):
        made = layer()
        for p in (made.weight, made.bias):
            assert 0.95 < abs(p.data).max() * np.sqrt(fan_in) <= 1 + 1e-6

    def test_norms_start_with_ones_and_zeros(self):
        for layer in (fs.nn.LayerNorm(3), fs.nn.GroupNorm(1, 3), fs.nn.BatchNorm2d(3)):
            assert layer.weight.data.tolist() == [1, 1, 1]
            assert layer.bias.data.tolist() == [0, 0, 0]
        assert layer.running_mean.data.tolist() == [0, 0, 0]
        assert layer.running_var.data.tolist() == [1, 1, 1]

    def test_embeddings_start_normal(self):
        self.has_moments(fs.nn.Embedding(500, 300, rng=0).weight.data, 1.0, 3)

    @pytest.mark.parametrize("shape", [(3,), ()])
    def test_a_weight_has_two_axes(self, shape):
        with pytest.raises(ValueError, match=r"a weight is \(out, in, ...\)"):
            init.xavier_uniform(shape)


class TestSummary:
    def test_numbers(self):
        model = fs.nn.Sequential(
            fs.nn.Conv2d(1, 2, 3, rng=0),
            fs.nn.BatchNorm2d(2),
            fs.nn.Sequential(fs.nn.Flatten(), fs.nn.Linear(32, 3, rng=0)),
        )
        seen = fs.nn.summary(model, tensor(5, 1, 6, 6))
        assert [(r.path, r.kind, r.shape, r.parameters, r.activations) for r in seen.rows] == [
            ("0", "Conv2d", (5, 2, 4, 4), 20, 160),
            ("1", "BatchNorm2d", (5, 2, 4, 4), 4, 160),
            ("2.0", "Flatten", (5, 32), 0, 160),
            ("2.1", "Linear", (5, 3), 99, 15),
            ("2", "Sequential", (5, 3), 0, 15),
            ("", "Sequential", (5, 3), 0, 15),
        ]
        assert seen.parameters == 123
        text = str(seen)
        assert "123 parameters: 492 bytes in fp32 or 246 bytes in fp16" in text
        assert "(5, 2, 4, 4)" in text
        assert "(all)" in text

    @pytest.mark.parametrize(
        ("fmt", "expected"), [("fp64", 40), ("fp32", 20), ("fp16", 10), ("e4m3", 5), ("e2m1", 3)]
    )
    def test_bytes(self, fmt, expected):  # five numbers of four bits need three bytes
        assert fs.nn.summary(fs.nn.Linear(4, 1, rng=0), tensor(1, 4)).bytes(fmt) == expected

    def test_every_call_has_a_row_and_every_parameter_is_counted_once(self):
        linear, relu = fs.nn.Linear(3, 3, rng=0), fs.nn.ReLU()
        seen = fs.nn.summary(fs.nn.Sequential(linear, relu, linear, relu), tensor(1, 3))
        assert [row.kind for row in seen.rows] == ["Linear", "ReLU"] * 2 + ["Sequential"]
        assert seen.parameters == 12

    def test_leaves_no_trace(self):
        model = fs.nn.Sequential(fs.nn.BatchNorm2d(2), fs.nn.Dropout(0.5, rng=0), fs.nn.ReLU())
        model[2].eval()
        before, draws = bits(model.named_tensors()), model[1].rng.bit_generator.state
        fs.nn.summary(model, tensor(2, 2, 1, 1))
        with pytest.raises(ValueError, match="channels"):
            fs.nn.summary(model, tensor(3))
        assert [m.training for _, m in model.named_modules()] == [True, True, True, False]
        assert bits(model.named_tensors()) == before
        assert model[1].rng.bit_generator.state == draws
        assert not any(vars(module).get("_hooks") for _, module in model.named_modules())

    def test_a_model_is_a_module(self):
        with pytest.raises(TypeError, match="model must be a Module"):
            fs.nn.summary(len, tensor(1))


class Watched:
    """Counts the arrays that a tape keeps, by weak references to them."""

    def __init__(self):
        self.kept = []

    def __call__(self, event):
        if isinstance(event, fs.events.Rounded):
            self.kept.append(weakref.ref(event.after))

    def alive(self):
        gc.collect()
        return sum(ref() is not None for ref in self.kept)


def part(seed=0):
    """A part with a bit of everything: a norm, a branch that meets itself, dropout."""
    return fs.nn.Sequential(
        fs.nn.TransformerBlock(8, 2, dropout=0.25, is_causal=True, rng=seed),
        fs.nn.Dropout(0.5, rng=seed + 1),
        fs.nn.Linear(8, 8, rng=seed + 2),
    )


def gradients(run, precision, model=None):
    """Output, gradients of the input and of all parameters, and what dropout draws next."""
    model = model or part()
    x = tensor(2, 5, 8, requires_grad=True)
    with precision():
        h = x * 1.5
        y = run(model, h)  # h only here: what meets outside is added in another order
        loss = (y * y).sum()
    loss.backward(None)
    draws = [m.rng.random() for _, m in model.named_modules() if hasattr(m, "rng")]
    named = [("y", y), ("x", x.grad), *((n, p.grad) for n, p in model.named_parameters())]
    return bits(named), draws


PRECISIONS = {
    "fp32": lambda: fs.autocast(enabled=False),
    "fp16": lambda: fs.autocast("fp16"),
    "bf16": lambda: fs.autocast("bf16"),
}


class TestCheckpoint:
    @pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
    @pytest.mark.parametrize(
        "run",
        [
            fs.nn.checkpoint,
            lambda model, h: fs.nn.checkpoint(model[2], fs.nn.checkpoint(model[1], model[0](h))),
        ],
        ids=["whole", "in parts"],
    )
    def test_gradients_are_those_of_the_plain_call(self, run, precision):
        plain = gradients(lambda model, h: model(h), precision)
        assert gradients(run, precision) == plain

    def test_in_a_part_of_a_part(self):
        class Outer(fs.nn.Module):
            def __init__(self):
                self.inner, self.after = part(), fs.nn.Linear(8, 8, rng=9)

            def forward(self, h):
                return self.after(fs.nn.checkpoint(self.inner, h))

        class Plain(Outer):
            def forward(self, h):
                return self.after(self.inner(h))

        nested = gradients(fs.nn.checkpoint, PRECISIONS["fp16"], Outer())
        assert nested == gradients(lambda model, h: model(h), PRECISIONS["fp16"], Plain())

    def test_keeps_nothing_of_the_inside(self):
        model = fs.nn.Sequential(*(fs.nn.Tanh() for _ in range(6)))
        counts = {}
        for name, run in {"plain": lambda m, x: m(x), "checkpoint": fs.nn.checkpoint}.items():
            watched, x = Watched(), tensor(100, requires_grad=True)
            with fs.events.observe(watched):
                y = run(model, x)
            assert len(watched.kept) == 6
            counts[name] = watched.alive()
            y.sum().backward()
            del y
            assert watched.alive() == 0
        assert counts["plain"] == 6
        assert counts["checkpoint"] <= 1  # the output, or a copy of it

    def test_runs_once_forward_and_once_backward(self):
        calls, x = [], tensor(3, requires_grad=True)
        y = fs.nn.checkpoint(lambda x: calls.append((x * 2.0).requires_grad) or x.tanh(), x)
        assert calls == [False]
        y.sum().backward()
        assert calls == [False, True]

    def test_inside_no_grad_it_is_the_plain_call(self):
        calls, x = [], tensor(3, requires_grad=True)
        with fs.no_grad():
            y = fs.nn.checkpoint(lambda x: calls.append(x) or x.tanh(), x)
        assert calls[0] is x
        assert not y.requires_grad
        assert y.is_leaf

    def test_backward_inside_no_grad_works_as_it_does_without(self):
        x, layer = tensor(2, 3, requires_grad=True), fs.nn.Linear(3, 2, rng=0)
        y = fs.nn.checkpoint(layer, x).sum()
        with fs.no_grad():
            y.backward()
            assert not (x * 2.0).requires_grad
        expected = np.broadcast_to(layer.weight.data.sum(axis=0), (2, 3))
        np.testing.assert_allclose(x.grad.data, expected, rtol=1e-6)
        assert layer.bias.grad.data.tolist() == [2, 2]

    def test_backward_under_another_autocast_uses_the_forwards(self):
        runs = []
        for run in (lambda m, x: m(x), fs.nn.checkpoint):
            x, layer = tensor(2, 3, requires_grad=True), fs.nn.Linear(3, 2, rng=0)
            with fs.autocast("fp16"):
                y = run(layer, x)
            with fs.autocast("e5m2"):
                y.sum().backward()
                assert (x @ x.transpose()).fmt == fs.E5M2
            runs.append(bits([("x", x.grad), ("w", layer.weight.grad)]))
        assert runs[0] == runs[1]

    def test_parameters_only(self):
        layer, x = fs.nn.Linear(3, 2, rng=0), tensor(4, 3)
        y = fs.nn.checkpoint(lambda: layer(x))
        y.sum().backward()
        np.testing.assert_allclose(layer.weight.grad.data, [x.data.sum(axis=0)] * 2, rtol=1e-6)

    def test_several_inputs_some_without_gradient(self):
        x, y, z = (tensor(3, seed=i, requires_grad=i != 1) for i in range(3))
        fs.nn.checkpoint(lambda x, y, z: x * y, x, y, z).sum().backward()
        assert np.array_equal(x.grad.data, y.data)
        assert y.grad is None
        assert z.grad.data.tolist() == [0, 0, 0]

    def test_retained_it_adds_the_same_again(self):
        x, layer = tensor(2, 3, requires_grad=True), fs.nn.Linear(3, 2, rng=0)
        y = fs.nn.checkpoint(layer, x).sum()
        y.backward(retain_graph=True)
        once = [x.grad.numpy(), layer.weight.grad.numpy()]
        y.backward()
        assert np.array_equal(x.grad.data, 2 * once[0])
        assert np.array_equal(layer.weight.grad.data, 2 * once[1])
        with pytest.raises(RuntimeError, match="twice"):
            y.backward()

    def test_what_was_drawn_since_is_not_drawn_again(self):
        layer, x = fs.nn.Dropout(0.5, rng=0), tensor(50, requires_grad=True)
        y = fs.nn.checkpoint(layer, x)
        layer(x)
        after = layer.rng.bit_generator.state
        y.sum().backward()
        assert layer.rng.bit_generator.state == after
        assert np.array_equal(x.grad.data != 0, y.data != 0)

    def test_an_error_on_the_way_back_leaves_the_generators_where_they_were(self):
        model, x = part(), tensor(2, 5, 8, requires_grad=True)
        y = fs.nn.checkpoint(model, x).sum()
        generators = [m.rng for _, m in model.named_modules() if hasattr(m, "rng")]
        after = [g.bit_generator.state for g in generators]

        def broken(*_):
            raise ArithmeticError

        with model[2].hook(broken), pytest.raises(ArithmeticError):
            y.backward()
        assert [g.bit_generator.state for g in generators] == after
        assert fs.events.current_scope() == ""
        assert x.tanh().requires_grad

    def test_a_frozen_part_is_left_out_of_the_graph(self):
        layer = fs.nn.Linear(3, 2)
        for p in layer.parameters():
            p.requires_grad = False
        assert not fs.nn.checkpoint(layer, tensor(1, 3)).requires_grad

    def test_inputs_are_tensors(self):
        with pytest.raises(TypeError, match=r"inputs\[1\] must be a Tensor, got ndarray"):
            fs.nn.checkpoint(lambda x, y: x, tensor(2), array(2))


class TestOwnPrimitives:
    @pytest.fixture
    def cube(self):
        @fs.primitive
        def cube(x):
            y = x * x * x
            return y, (x,)

        yield cube
        del PRIMITIVES["cube"]

    def test_runs_rounds_once_and_differentiates(self, cube):
        @cube.backward
        def _(g, x):
            return (3 * g * x * x,)

        fs.check_gradients(cube, fs.Tensor(array(3, 4).astype(np.float64), requires_grad=True))
        x = fs.Tensor(array(50), fmt="fp16", requires_grad=True)
        y = cube(x)
        assert y.fmt == fs.FP16
        assert np.array_equal(y.data, fs.round_to(x.data * x.data * x.data, "fp16"))
        y.sum().backward()
        assert np.array_equal(x.grad.data, fs.round_to(3 * x.data * x.data, "fp16"))

    def test_a_wrong_rule_is_found(self, cube):
        @cube.backward
        def _(g, x):
            return (2 * g * x * x,)

        with pytest.raises(AssertionError, match="along a random direction"):
            fs.check_gradients(cube, fs.Tensor(array(3).astype(np.float64), requires_grad=True))

    def test_a_missing_rule_is_named_when_it_is_needed(self, cube):
        assert np.array_equal(cube(tensor(3)).data, array(3) * array(3) * array(3))
        with pytest.raises(NotImplementedError, match="'cube' has no backward rule"):
            cube(tensor(3, requires_grad=True))

    def test_options_several_inputs_and_broadcasting(self):
        @fs.primitive
        def scaled_product(x, y, *, by):
            return by * x * y, (x, y, by)

        @scaled_product.backward
        def _(g, x, y, by):
            return by * g * y, lambda: by * g * x

        try:
            x, y = (fs.Tensor(array(*s).astype(float), requires_grad=True) for s in ((3, 4), (4,)))
            fs.check_gradients(lambda x, y: scaled_product(x, y, by=3.0), x, y)
            with fs.autocast("fp16"):
                assert scaled_product(tensor(2), tensor(2), by=2.0).fmt == fs.FP32
        finally:
            del PRIMITIVES["scaled_product"]

    def test_built_in_names_are_taken_and_own_ones_can_be_written_anew(self, cube):
        before = dict(PRIMITIVES)

        def linear(x):
            return x, ()

        with pytest.raises(ValueError, match="there is a primitive 'linear' already"):
            fs.primitive(linear)
        assert before == PRIMITIVES

        def cube(x):
            return x, ()

        assert fs.primitive(cube) is PRIMITIVES["cube"] is not before["cube"]


class TestTwoBackwardCalls:
    def test_retained_the_second_adds_the_same_again(self):
        model, x = part(), tensor(2, 5, 8, requires_grad=True)
        loss = (model(x) * model(x)).sum()
        loss.backward(retain_graph=True)
        once = {name: p.grad.numpy() for name, p in model.named_parameters()}
        loss.backward()
        for name, p in model.named_parameters():
            assert np.array_equal(p.grad.data, 2 * once[name]), name

    def test_not_retained_the_second_is_refused(self):
        x = tensor(3, requires_grad=True)
        loss = (x * x).sum()
        loss.backward()
        with pytest.raises(RuntimeError, match="through the same graph twice"):
            loss.backward()
        assert np.array_equal(x.grad.data, 2 * x.data)

    def test_over_two_batches_they_add_up_to_the_sums(self):
        """In float64, where the order of additions hardly shows."""
        both = []
        for together in (True, False):
            model = part().to("fp64").eval()
            losses = [
                F.mse_loss(
                    model(fs.Tensor(array(2, 5, 8, seed=i).astype(float))), 0 * array(2, 5, 8)
                )
                for i in range(2)
            ]
            for loss in [losses[0] + losses[1]] if together else losses:
                loss.backward()
            both.append([p.grad.data for p in model.parameters()])
        for a, b in zip(*both, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * abs(a).max())
