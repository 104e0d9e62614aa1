"""The engine and the optimisers against PyTorch on the CPU."""

import numpy as np
import pytest
import torch

import fp16sim as fs

F = fs.functional
T = torch.nn.functional


def array(rng, *shape):
    return rng.standard_normal(shape)


#: ours, PyTorch's, shapes of the inputs
CASES = {
    "add": (lambda x, y: x + y, lambda x, y: x + y, (3, 4), (4,)),
    "subtract": (lambda x, y: x - y, lambda x, y: x - y, (3, 1), (1, 4)),
    "multiply": (lambda x, y: x * y, lambda x, y: x * y, (2, 3, 4), (3, 1)),
    "negative": (lambda x: -x, lambda x: -x, (5,)),
    "divide": (lambda x, y: x / y, lambda x, y: x / y, (3, 4), (4,)),
    "divide_scalars": (lambda x: 1 / x / 3, lambda x: 1 / x / 3, (3, 4)),
    "divide_by_zero": (lambda x: x / (x - x), lambda x: x / (x - x), (3,)),
    "power": (lambda x, y: abs(x) ** y, lambda x, y: abs(x) ** y, (3, 4), (4,)),
    "power_of_negatives": (lambda x: x**3 + x**2, lambda x: x**3 + x**2, (3, 4)),
    "power_of_zero": (
        lambda x: (x - x) ** 2 + (x - x) ** 1 + (x - x) ** 0,
        lambda x: (x - x) ** 2 + (x - x) ** 1 + (x - x) ** 0,
        (3,),
    ),
    "exponent_of_zero": (lambda x: 0.0 ** abs(x), lambda x: 0.0 ** abs(x), (3,)),
    "absolute": (lambda x: abs(x) + abs(x - x), lambda x: abs(x) + abs(x - x), (6,)),
    "maximum": (F.maximum, torch.maximum, (3, 4), (4,)),
    "minimum": (F.minimum, torch.minimum, (3, 4), (3, 1)),
    "maximum_of_equals": (lambda x: F.maximum(x, x), lambda x: torch.maximum(x, x), (3,)),
    "clamp": (lambda x: x.clamp(-0.5, 0.7), lambda x: x.clamp(-0.5, 0.7), (20,)),
    "clamp_below": (lambda x: x.clamp(low=0.1), lambda x: x.clamp(min=0.1), (20,)),
    "where": (
        lambda x, y: F.where([True, False, True], x, y),
        lambda x, y: torch.where(torch.tensor([True, False, True]), x, y),
        (2, 3),
        (3,),
    ),
    "transpose": (lambda x: x.transpose(1, 2, 0), lambda x: x.permute(1, 2, 0), (2, 3, 4)),
    "index": (
        lambda x: x[1:, [0, 2, 0], None] * 2,
        lambda x: x[1:, [0, 2, 0], None] * 2,
        (3, 4, 2),
    ),
    "mask": (lambda x: x[[True, False, True]], lambda x: x[[True, False, True]], (3, 4)),
    "concatenate": (
        lambda x, y: F.concatenate([x, y, x], 1),
        lambda x, y: torch.cat([x, y, x], 1),
        (2, 3),
        (2, 1),
    ),
    "stack": (
        lambda x, y: F.stack([x, y], -1),
        lambda x, y: torch.stack([x, y], -1),
        (2, 3),
        (2, 3),
    ),
    "scalar": (lambda x: 2 - x * 3, lambda x: 2 - x * 3, (5,)),
    "relu": (F.relu, T.relu, (30,)),
    "sigmoid": (F.sigmoid, torch.sigmoid, (30,)),
    "tanh": (F.tanh, torch.tanh, (30,)),
    "sum": (lambda x: x.sum(), lambda x: x.sum(), (3, 4)),
    "sum_axes": (
        lambda x: x.sum(axis=(0, 2), keepdims=True),
        lambda x: x.sum(dim=(0, 2), keepdim=True),
        (2, 3, 4),
    ),
    "mean": (lambda x: x.mean(axis=-1), lambda x: x.mean(dim=-1), (3, 4)),
    "max": (lambda x: x.max(axis=(0, 2)), lambda x: x.amax(dim=(0, 2)), (2, 3, 4)),
    "max_of_equals": (
        lambda x: (x - x).max(axis=1) + (x - x).min() + x.max(),
        lambda x: (x - x).amax(dim=1) + (x - x).amin() + x.amax(),
        (3, 4),
    ),
    "min": (
        lambda x: x.min(axis=-1, keepdims=True),
        lambda x: x.amin(dim=-1, keepdim=True),
        (3, 4),
    ),
    "var": (lambda x: x.var(axis=1), lambda x: x.var(dim=1), (3, 4)),
    "var_all": (lambda x: x.var(correction=0), lambda x: x.var(correction=0), (3, 4)),
    "logsumexp": (
        lambda x: (x * 1000).logsumexp(axis=(0, 1)),
        lambda x: (x * 1000).logsumexp(dim=(0, 1)),
        (3, 4),
    ),
    "softmax": (lambda x: F.softmax(x * 100, 0), lambda x: T.softmax(x * 100, 0), (3, 4)),
    "log_softmax": (lambda x: F.log_softmax(x * 100), lambda x: T.log_softmax(x * 100, -1), (3, 4)),
    "reshape": (lambda x: x.reshape(2, -1), lambda x: x.reshape(2, -1), (3, 4)),
    "cross_entropy_of_large_logits": (
        lambda x: F.cross_entropy(x * 1000, [1, 0, 3]),
        lambda x: T.cross_entropy(x * 1000, torch.tensor([1, 0, 3])),
        (3, 4),
    ),
    "matmul": (lambda x, y: x @ y, lambda x, y: x @ y, (5, 1, 3, 4), (2, 4, 2)),
    "matmul_vector": (lambda x, y: x @ y, lambda x, y: x @ y, (5, 3, 4), (4,)),
    "matmul_dot": (lambda x, y: x @ y, lambda x, y: x @ y, (4,), (4,)),
    "layer_norm": (
        lambda x, w, b: F.layer_norm(x, (3, 4), w, b, 1e-3),
        lambda x, w, b: T.layer_norm(x, (3, 4), w, b, 1e-3),
        (2, 3, 4),
        (3, 4),
        (3, 4),
    ),
    "rms_norm": (
        lambda x, w: F.rms_norm(x, 4, w, 1e-3),
        lambda x, w: T.rms_norm(x, (4,), w, 1e-3),
        (2, 3, 4),
        (4,),
    ),
    "linear": (F.linear, T.linear, (2, 5, 3), (4, 3), (4,)),
    "mse_loss": (F.mse_loss, T.mse_loss, (3, 4), (3, 4)),
    "mse_loss_sum": (
        lambda x, t: F.mse_loss(x, t, reduction="sum"),
        lambda x, t: T.mse_loss(x, t, reduction="sum"),
        (3, 4),
        (3, 4),
    ),
    "cross_entropy": (
        lambda x: F.cross_entropy(x, [1, 0, 3]),
        lambda x: T.cross_entropy(x, torch.tensor([1, 0, 3])),
        (3, 4),
    ),
    "cross_entropy_none": (
        lambda x: F.cross_entropy(x, [1, 0, 3], reduction="none"),
        lambda x: T.cross_entropy(x, torch.tensor([1, 0, 3]), reduction="none"),
        (3, 4),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_in_float64(name, rng):
    ours, torchs, *shapes = CASES[name]
    data = [array(rng, *shape) for shape in shapes]
    mine = [fs.Tensor(x, requires_grad=True) for x in data]
    theirs = [torch.tensor(x, requires_grad=True) for x in data]
    y, z = ours(*mine), torchs(*theirs)
    assert y.shape == tuple(z.shape)
    np.testing.assert_allclose(y.data, z.detach().numpy(), rtol=1e-12, atol=1e-300)
    weights = array(rng, *y.shape)
    y.backward(weights)
    z.backward(torch.tensor(weights))
    for x, t in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-10, atol=1e-14)


def test_the_corners_of_activations():
    data = np.array([0.0, -0.0, 800.0, -800.0, np.inf, -np.inf, 1e-300, np.nan])
    for ours, torchs in ((F.relu, T.relu), (F.sigmoid, torch.sigmoid), (F.tanh, torch.tanh)):
        x, t = fs.Tensor(data, requires_grad=True), torch.tensor(data, requires_grad=True)
        y, z = ours(x), torchs(t)
        y.sum().backward()
        z.sum().backward()
        np.testing.assert_allclose(y.data, z.detach().numpy(), rtol=1e-14)
        np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-14)


class TestRounding:
    @pytest.mark.parametrize(
        ("fmt", "dtype"),
        [
            (fs.FP16, torch.float16),
            (fs.BF16, torch.bfloat16),
            (fs.E5M2, torch.float8_e5m2),
        ],
        ids=["fp16", "bf16", "e5m2"],
    )
    def test_float32_casts(self, fmt, dtype, rng):
        x = rng.integers(0, 2**32, 2_000_000, dtype=np.uint32).view(np.float32)
        theirs = torch.from_numpy(x.copy()).to(dtype).to(torch.float32).numpy()
        mine = fs.round_to(x, fmt)
        same = (mine.view(np.uint32) == theirs.view(np.uint32)) | (
            np.isnan(mine) & np.isnan(theirs)
        )
        assert same.all()

    def test_e4m3_saturates_in_torch(self, rng):
        """A convention, not an error: PyTorch's conversion is ours with saturate=True."""
        x = rng.integers(0, 2**32, 1_000_000, dtype=np.uint32).view(np.float32)
        theirs = torch.from_numpy(x.copy()).to(torch.float8_e4m3fn).to(torch.float32).numpy()
        mine = fs.round_to(x, "e4m3", saturate=True)
        assert np.array_equal(mine, theirs, equal_nan=True)

    @pytest.mark.parametrize("first", ["fp16", "bf16", "fp32", "fp64"])
    @pytest.mark.parametrize("second", ["fp16", "bf16", "fp32", "fp64"])
    def test_type_promotion(self, first, second):
        names = {
            "fp16": torch.float16,
            "bf16": torch.bfloat16,
            "fp32": torch.float32,
            "fp64": torch.float64,
        }
        ours = fs.Tensor([1.0], fmt=first) + fs.Tensor([1.0], fmt=second)
        theirs = torch.ones(1, dtype=names[first]) + torch.ones(1, dtype=names[second])
        assert names[ours.fmt.name] is theirs.dtype


class TestHalfArithmetic:
    """Primitives in fp16 against PyTorch's half tensors: same bits, not just close."""

    def test_elementwise_forward_and_backward(self, rng):
        data = [(rng.standard_normal(3000) * 10.0 ** rng.integers(-6, 4, 3000)) for _ in "xy"]
        data = [x.astype(np.float16) for x in data]
        for operation in (lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y):
            mine = [fs.Tensor(x, requires_grad=True) for x in data]
            theirs = [torch.tensor(x, requires_grad=True) for x in data]
            y, z = operation(*mine), operation(*theirs)
            seed = rng.standard_normal(3000).astype(np.float16)
            y.backward(seed)
            z.backward(torch.tensor(seed))
            assert np.array_equal(y.data, z.detach().float().numpy(), equal_nan=True)
            for x, t in zip(mine, theirs, strict=True):
                assert np.array_equal(x.grad.numpy(), t.grad.float().numpy(), equal_nan=True)

    def test_sigmoid_rounds_once_where_torchs_cpu_kernel_rounds_thrice(self, rng):
        """PyTorch computes g (1 - y) y for half on the CPU with a rounding after each step."""
        data = (4 * rng.standard_normal(3000)).astype(np.float16)
        x, t = fs.Tensor(data, requires_grad=True), torch.tensor(data, requires_grad=True)
        seed = rng.standard_normal(3000).astype(np.float16)
        y, z = F.sigmoid(x), torch.sigmoid(t)
        assert np.array_equal(y.data, z.detach().float().numpy())
        y.backward(seed)
        z.backward(torch.tensor(seed))
        g, s = seed, z.detach().numpy()
        thrice = (g * (np.float16(1) - s)) * s
        assert np.array_equal(t.grad.numpy(), thrice)
        np.testing.assert_allclose(x.grad.numpy(), thrice, rtol=2 * fs.FP16.eps, atol=2.0**-23)


def copies(rng, *shape):
    start = rng.standard_normal(shape).astype(np.float32)
    return fs.Tensor(start, requires_grad=True), torch.nn.Parameter(torch.tensor(start))


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (lambda p: fs.optim.SGD(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
        (
            lambda p: fs.optim.SGD(p, lr=0.1, momentum=0.9),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        ),
        (lambda p: fs.optim.Adam(p, lr=3e-3), lambda p: torch.optim.Adam(p, lr=3e-3)),
        (
            lambda p: fs.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=1e-3),
            lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=1e-3),
        ),
    ],
    ids=["sgd", "momentum", "adam", "adam with settings"],
)
def test_optimisers_follow_torch(ours, torchs, rng):
    w, v = copies(rng, 4, 3)
    mine, theirs = ours([w]), torchs([v])
    for _ in range(50):
        gradient = (rng.standard_normal((4, 3)) * 10.0 ** rng.uniform(-6, 2)).astype(np.float32)
        w.grad = fs.Tensor(gradient)
        v.grad = torch.tensor(gradient)
        mine.step()
        theirs.step()
    np.testing.assert_allclose(w.data, v.detach().numpy(), rtol=2e-5, atol=1e-6)


def test_the_rescue_network_trains_as_in_torch(digits):
    """The same autoencoder from the same weights, 30 steps of Adam in fp32."""
    model = fs.models.Autoencoder(rng=0)
    layers = []
    for dense in [
        *(m for _, m in model.encoder.children()),
        *(m for _, m in model.decoder.children()),
    ]:
        linear = torch.nn.Linear(dense.linear.weight.shape[1], dense.linear.weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(dense.linear.weight.data))
            linear.bias.copy_(torch.tensor(dense.linear.bias.data))
        layers += [linear, torch.nn.Sigmoid()]
    reference = torch.nn.Sequential(*layers)
    mine = fs.optim.Adam(model.parameters(), lr=3e-3)
    theirs = torch.optim.Adam(reference.parameters(), lr=3e-3)
    for batch in fs.data.batches(len(digits.train_images), 512, 30, rng=0):
        images = digits.train_images[batch]
        mine.zero_grad()
        x = fs.Tensor(images)
        loss = F.mse_loss(model(x), x)
        loss.backward()
        mine.step()
        theirs.zero_grad()
        t = torch.tensor(images)
        other = T.mse_loss(reference(t), t)
        other.backward()
        theirs.step()
        np.testing.assert_allclose(loss.item(), other.item(), rtol=1e-4)
