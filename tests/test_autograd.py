"""The tape and the primitives: rules against finite differences, rounding against float16 code."""

import gc
import weakref

import ml_dtypes
import numpy as np
import pytest
from conftest import assert_same_bits

import fp16sim as fs
from fp16sim import events
from fp16sim.autograd.primitive import PRIMITIVES, Primitive, primitive
from fp16sim.backend import namespace_of

F = fs.functional


def leaf(rng, *shape, fmt=None):
    return fs.Tensor(rng.standard_normal(shape), requires_grad=True, fmt=fmt)


#: one case at least for every primitive: function, shapes of its inputs
RULES = {
    "add": (lambda x, y: x + y, (3, 4), (4,)),
    "add_outer": (lambda x, y: x + y, (3, 1), (1, 4)),
    "add_scalar": (lambda x: 2.5 + x, (3,)),
    "subtract": (lambda x, y: x - y, (2, 1, 3), (4, 1)),
    "subtract_from_scalar": (lambda x: 1 - x, (3,)),
    "multiply": (lambda x, y: x * y, (3, 4), ()),
    "multiply_self": (lambda x: x * x * x, (5,)),
    "divide": (lambda x, y: x / (y * y + 1), (3, 4), (4,)),
    "divide_scalar": (lambda x: (2 / (x * x + 1)) / 3, (4,)),
    "power": (lambda x, y: (x * x + 0.5) ** y, (3, 4), (3, 1)),
    "power_scalar": (lambda x: x**3 + 2.0**x, (4,)),
    "absolute": (lambda x: abs(x) * x.abs() * x, (5,)),
    "maximum": (lambda x, y: F.maximum(x, y) * x, (3, 4), (4,)),
    "minimum": (lambda x, y: F.minimum(x, y) * x, (3, 4), (3, 1)),
    "clamp": (lambda x: x.clamp(-0.5, 0.7) * x.clamp(low=0.1) * x, (20,)),
    "where": (lambda x, y: F.where([True, False, True], x, y) * x, (2, 3), (3,)),
    "transpose": (
        lambda x: x.transpose(1, 2, 0).transpose() * x.transpose(0, 2, 1).sum(),
        (2, 3, 4),
    ),
    "index": (lambda x: x[:, [0, 2, 0]] * x[1:, ..., None].sum() * x[x.data > 0].sum(), (3, 4)),
    "concatenate": (lambda x, y: F.concatenate([x, y, x], axis=-1) ** 2, (2, 3), (2, 1)),
    "stack": (lambda x, y: F.stack([x, y], axis=1) ** 2, (2, 3), (2, 3)),
    "negative": (lambda x: -x * x, (3,)),
    "relu": (lambda x: F.relu(x) * x, (20,)),
    "sigmoid": (lambda x: F.sigmoid(3 * x), (4, 3)),
    "tanh": (lambda x: F.tanh(x), (4, 3)),
    "sum": (lambda x: x.sum() * x, (3, 4)),
    "sum_axes": (lambda x: x.sum(axis=(0, -1)) * x.sum(axis=1, keepdims=True).sum(), (2, 3, 4)),
    "mean": (lambda x: x.mean(axis=-1, keepdims=True) * x, (3, 4)),
    "mean_all": (lambda x: x.mean(), (3, 4)),
    "max": (lambda x: x.max(axis=1) * x.max() * x.max(axis=(0, 2), keepdims=True).sum(), (2, 3, 4)),
    "min": (lambda x: x.min(axis=-1) * x.min(), (3, 4)),
    "var": (lambda x: x.var(axis=1, keepdims=True) * x * x.var(correction=0), (3, 4)),
    "var_axes": (lambda x: x.var(axis=(0, 2)), (2, 3, 4)),
    "logsumexp": (lambda x: x.logsumexp(axis=0) * x.logsumexp(axis=(0, 1), keepdims=True), (3, 4)),
    "softmax": (lambda x: F.softmax(x) * F.softmax(x, axis=0), (3, 4)),
    "log_softmax": (lambda x: F.log_softmax(x) * F.log_softmax(x, axis=0), (3, 4)),
    "reshape": (lambda x: x.reshape(-1, 2) * x.reshape((6, 2)), (3, 4)),
    "matmul": (lambda x, y: x @ y, (3, 4), (4, 2)),
    "matmul_batched": (lambda x, y: x @ y, (5, 1, 3, 4), (2, 4, 2)),
    "matmul_vectors": (lambda x, y: x @ y, (4,), (4,)),
    "matmul_row": (lambda x, y: x @ y, (4,), (3, 4, 2)),
    "matmul_column": (lambda x, y: x @ y, (3, 4), (4,)),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, 4, w, b), (2, 3, 4), (4,), (4,)),
    "layer_norm_axes": (lambda x, w: F.layer_norm(x, (3, 4), w, eps=0.1), (2, 3, 4), (3, 4)),
    "layer_norm_bare": (lambda x: F.layer_norm(x, [4]), (3, 4)),
    "rms_norm": (lambda x, w: F.rms_norm(x, 4, w), (2, 3, 4), (4,)),
    "rms_norm_bare": (lambda x: F.rms_norm(x, (3, 4)), (2, 3, 4)),
    "linear": (F.linear, (2, 5, 3), (4, 3), (4,)),
    "linear_without_bias": (F.linear, (3,), (4, 3)),
    # As many rows and columns: here, and without bias, the scaled gradients are the derivatives.
    "unit_linear": (lambda x, w: F.linear(x, w, unit_scaled=True), (4, 4), (4, 4)),
    "scale": (lambda x: F.scale(x, 3.0, 3.0), (3,)),
    "mse_loss": (F.mse_loss, (3, 4), (3, 4)),
    "mse_loss_sum": (lambda x, t: F.mse_loss(x, t, reduction="sum"), (3, 4), (3, 4)),
    "mse_loss_none": (lambda x, t: F.mse_loss(x, t, reduction="none"), (3, 4), (3, 4)),
    "cross_entropy": (lambda x: F.cross_entropy(x, [1, 0, 2]), (3, 4)),
    "cross_entropy_sum": (lambda x: F.cross_entropy(x, [1, 0, 2], reduction="sum"), (3, 4)),
    "cross_entropy_none": (lambda x: F.cross_entropy(x, [1, 0, 2], reduction="none"), (3, 4)),
    "exp": (lambda x: x.exp(), (3, 4)),
    "log": (lambda x: (x * x + 0.1).log(), (3, 4)),
    "sqrt": (lambda x: (x * x + 0.1).sqrt(), (3, 4)),
    "sin": (lambda x: x.sin() * x, (5,)),
    "cos": (lambda x: x.cos() * x, (5,)),
    "softplus": (lambda x: F.softplus(3 * x), (9,)),
    "silu": (lambda x: F.silu(3 * x), (9,)),
    "gelu": (lambda x: F.gelu(2 * x), (20,)),
    "gelu_tanh": (lambda x: F.gelu(2 * x, approximate="tanh"), (20,)),
    "expand": (lambda x: x.expand(2, -1, 3) * x.expand(4, 2, 4, 3).sum(axis=0), (4, 1)),
    "flatten": (lambda x: x.flatten(1) * x.flatten().sum(), (2, 3, 2)),
    "permute": (lambda x: x.permute(2, 0, 1) * 2, (2, 3, 4)),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 1), 3.0) ** 2, (2, 3, 4)),
    "embedding": (lambda w: F.embedding([[3, 0, 3], [1, 3, 0]], w) ** 2, (4, 3)),
    "dropout": (lambda x: F.dropout(x, 0.4, rng=1) * x, (4, 5)),
    "l1_loss": (F.l1_loss, (3, 4), (3, 4)),
    "huber_loss": (lambda x, t: F.huber_loss(x, t, delta=0.7), (5, 4), (5, 4)),
    "binary_cross_entropy_with_logits": (
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, pos_weight=2.5),
        (3, 4),
        (3, 4),
    ),
    "nll_loss": (lambda x: F.nll_loss(x, [[1, 0], [2, -1]], ignore_index=-1), (2, 3, 2)),
    "cross_entropy_images": (
        lambda x: F.cross_entropy(
            x, [[1, 0], [2, 9]], ignore_index=9, label_smoothing=0.1, reduction="none"
        ),
        (2, 3, 2),
    ),
    "dice_loss": (lambda x, t: F.dice_loss(F.softmax(x, 1), F.softmax(t, 1)), (2, 3, 4), (2, 3, 4)),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), (2, 4, 3, 2), (4,), (4,)),
    "group_norm_bare": (lambda x: F.group_norm(x, 4, eps=0.1), (2, 4, 3)),
    "batch_norm": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        (3, 2, 2, 3),
        (2,),
        (2,),
    ),
    "batch_norm_fixed": (
        lambda x, w: F.batch_norm(x, fs.Tensor([0.3, 1.0]), fs.Tensor([2.0, 0.5]), w),
        (3, 2),
        (2,),
    ),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), (2, 3, 5, 4), (4, 3, 3, 2), (4,)),
    "conv2d_options": (
        lambda x, w: F.conv2d(x, w, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        (2, 4, 6, 7),
        (6, 2, 3, 3),
    ),
    "conv2d_pointwise": (lambda x, w: F.conv2d(x, w), (2, 3, 4, 4), (5, 3, 1, 1)),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(
            x, w, b, stride=2, padding=1, output_padding=1, groups=2
        ),
        (2, 4, 3, 3),
        (4, 3, 3, 3),
        (6,),
    ),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1) ** 2, (2, 2, 5, 6)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1) ** 2, (2, 2, 5, 6)),
    "avg_pool2d_inside": (
        lambda x: F.avg_pool2d(x, (2, 3), padding=(1, 1), count_include_pad=False),
        (1, 2, 5, 6),
    ),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), (2, 2, 5, 4)),
    "upsample_nearest2d": (lambda x: F.interpolate(x, (5, 7)) ** 2, (2, 2, 3, 4)),
    "upsample_bilinear2d": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        (2, 2, 3, 4),
    ),
    "scaled_dot_product_attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        (2, 4, 3),
        (2, 4, 3),
        (2, 4, 5),
    ),
    "cast": (lambda x: x.to("fp64") * x, (3,)),
}


@pytest.mark.parametrize("name", RULES)
def test_rule_against_finite_differences(name, rng):
    function, *shapes = RULES[name]
    fs.check_gradients(function, *(leaf(rng, *shape) for shape in shapes))


def test_every_primitive_has_a_case():
    # What quantizes has steps, not slopes: test_recipes, test_compress.
    assert set(PRIMITIVES) - {"scaled_linear", "round_to_grid"} <= set(RULES)


class TestTheChecker:
    """A checker that cannot fail proves nothing."""

    @pytest.fixture
    def almost_square(self):
        def build(factor):
            @primitive
            def wrong_square(x):
                return x * x, (x,)

            @wrong_square.backward
            def _(g, x):
                return (factor * x * g,)

            return wrong_square

        yield build
        PRIMITIVES.pop("wrong_square", None)

    def test_catches_a_factor_of_2001_over_2000(self, almost_square, rng):
        fs.check_gradients(almost_square(2.0), leaf(rng, 5))
        with pytest.raises(AssertionError, match="backward gives"):
            fs.check_gradients(almost_square(2.001), leaf(rng, 5))

    def test_catches_it_in_tiny_gradients_too(self, almost_square, rng):
        wrong = almost_square(2.001)
        with pytest.raises(AssertionError):
            fs.check_gradients(lambda x: 1e-12 * wrong(x), leaf(rng, 5))

    def test_wants_tensors(self):
        with pytest.raises(TypeError, match=r"inputs\[0\] must be a Tensor, got ndarray"):
            fs.check_gradients(F.tanh, np.ones(3))

    def test_wants_double_precision(self, rng):
        with pytest.raises(ValueError, match=r"inputs\[0\] is fp32"):
            fs.check_gradients(F.tanh, leaf(rng, 3, fmt="fp32"))


def half(x):
    with np.errstate(all="ignore"):
        return np.asarray(x, np.float32).astype(np.float16)


def single(x):
    return np.asarray(x, np.float16).astype(np.float32)


class TestRoundingIsInTheRightPlace:
    """The engine in fp16 against the same arithmetic written out with NumPy's float16."""

    def test_elementwise_operations_are_numpys_half_operations(self, rng):
        x, y = (half(rng.standard_normal(2000) * 10.0 ** rng.integers(-7, 5, 2000)) for _ in "xy")
        a, b = fs.Tensor(x), fs.Tensor(y)
        with np.errstate(all="ignore"):
            for ours, numpys in ((a + b, x + y), (a - b, x - y), (a * b, x * y)):
                assert_same_bits(ours.data, single(numpys))

    def test_one_layer_forward_and_backward(self, rng):
        """linear -> sigmoid -> mse_loss: one rounding per stored array, in both directions."""
        x, w, b = (half(rng.standard_normal(s)) for s in ((6, 5), (4, 5), (4,)))
        target = half(rng.uniform(0, 1, (6, 4)))
        weight, bias = fs.Tensor(w, requires_grad=True), fs.Tensor(b, requires_grad=True)
        output = F.sigmoid(F.linear(fs.Tensor(x), weight, bias))
        loss = F.mse_loss(output, fs.Tensor(target))
        loss.backward()

        z = half(single(x) @ single(w).T + single(b))
        e = np.exp(-np.abs(single(z)))
        y = half(np.where(single(z) >= 0, np.float32(1), e) / (1 + e))
        difference = single(y) - single(target)
        g_y = half(np.float32(2 / 24) * difference)
        g_z = half(single(g_y) * (1 - single(y)) * single(y))  # y as stored, not as computed
        assert_same_bits(output.data, single(y))
        assert_same_bits(loss.data, single(half(np.mean(difference * difference))))
        assert_same_bits(weight.grad.data, single(half(single(g_z).T @ single(x))))
        assert_same_bits(bias.grad.data, single(half(single(g_z).sum(axis=0))))

    def test_gradients_accumulate_with_one_rounding_per_addition(self):
        """The gradient of x in x + x + ... + x counts to 2048 and stays there."""
        x = fs.Tensor(np.float16(1), requires_grad=True)
        total = x
        for _ in range(3000):
            total = total + x
        total.backward()
        assert total.item() == 2048
        assert x.grad.item() == 2048

    def test_gradients_of_several_passes_accumulate_in_the_leafs_format(self):
        x = fs.Tensor(np.float16(1), requires_grad=True)
        for _ in range(3):
            (x * 1024).backward()
        (x * 0.5).backward()
        assert x.grad.item() == 3072  # 3072.5 is not an fp16 number

    def test_broadcasting_is_undone_in_the_carrier_and_rounded_once(self):
        x = fs.Tensor(np.float16(1), requires_grad=True)
        y = fs.Tensor(half(np.ones(4097)))
        (x * y).backward(half(np.ones(4097)))
        assert x.grad.item() == 4096  # a sum of halves would have stopped at 2048

    def test_a_sum_is_accumulated_in_the_carrier(self):
        assert fs.Tensor(half(np.ones(5000))).sum().item() == 5000

    def test_overflow_gives_infinity_without_a_warning(self):
        x = fs.Tensor(np.float16(60000), requires_grad=True)
        with np.errstate(all="raise"):
            y = x * 2 - x * 2
            y.backward()
        assert np.isnan(y.item())

    def test_a_cast_rounds_the_gradient_on_its_way_back(self):
        x = fs.Tensor(np.float32(1), requires_grad=True)
        y = x.to("fp16") * fs.Tensor(np.float32(1.0))
        y.backward(np.float32(1 + 2.0**-12))
        assert x.grad.fmt is fs.FP32
        assert x.grad.item() == 1.0


class TestTape:
    def test_a_long_chain_needs_no_recursion(self, rng):
        x = leaf(rng, 1)
        y = x
        for _ in range(20000):
            y = y + 1
        y.backward()
        assert x.grad.item() == 1
        del y

    def test_a_diamond_is_walked_once_per_node(self, rng):
        x = leaf(rng)
        y = x
        for _ in range(60):  # 2^60 paths
            y = y + y
        y.backward()
        assert x.grad.item() == 2.0**60

    def test_graphs_are_freed_without_the_cycle_collector(self, rng):
        x = leaf(rng, 3)
        gc.disable()
        try:
            y = F.tanh(x * 2)
            watched = weakref.ref(y.data)
            y = y.sum()
            y.backward()
            del y
            assert watched() is None
        finally:
            gc.enable()

    def test_residuals_are_freed_by_backward(self, rng):
        inner = leaf(rng, 3) * 2.0
        kept = weakref.ref(inner.data)
        product = inner * leaf(rng, 3)
        y = product.sum()
        del inner
        assert kept() is not None
        y.backward()
        assert kept() is None  # although the product is still there
        with pytest.raises(RuntimeError, match="twice"):
            product.sum().backward()

    def test_unwanted_gradients_are_not_computed(self, rng):
        @primitive
        def picky(x, y):
            return x + y, ()

        @picky.backward
        def _(g):
            def never():
                raise AssertionError("computed")

            return g, never

        try:
            x = leaf(rng, 2)
            picky(x, fs.Tensor(rng.standard_normal(2))).backward(np.ones(2))
            assert x.grad.numpy().tolist() == [1, 1]
        finally:
            PRIMITIVES.pop("picky")

    def test_no_grad(self, rng):
        x = leaf(rng, 3)
        with fs.no_grad():
            y = x * 2
        assert not y.requires_grad
        assert (x * 2).requires_grad
        with pytest.raises(RuntimeError, match="does not require a gradient"):
            y.backward(np.ones(3))

    def test_no_grad_ends_with_an_error(self, rng):
        with pytest.raises(KeyError), fs.no_grad():
            raise KeyError
        assert (leaf(rng, 3) * 2).requires_grad

    def test_gradients_of_leaves_are_their_own_arrays(self, rng):
        x, y = leaf(rng, 3, fmt="fp32"), leaf(rng, 3, fmt="fp32")
        (x + y).backward(np.ones(3))
        x.gradient *= 2
        assert y.grad.numpy().tolist() == [1, 1, 1]
        x.sum().backward()
        assert x.gradient.flags.writeable

    @pytest.mark.parametrize("kind", ["native", "emulated"])
    def test_so_are_those_that_were_cast_turned_or_added_up(self, rng, kind):
        x, y, z = (leaf(rng, 3, 3, fmt="fp32") for _ in range(3))
        with fs.storage(kind), fs.autocast("fp16"):
            (x @ y.transpose() + z @ z.transpose() + x + y).sum().backward()
        gradients = [one.gradient for one in (x, y, z)]
        for i, gradient in enumerate(gradients):
            assert gradient.dtype == np.float32
            assert gradient.flags.owndata
            assert gradient.flags.c_contiguous
            assert not any(np.shares_memory(gradient, other) for other in gradients[:i])

    def test_what_an_observer_keeps_stays_as_it_was(self, rng):
        x, y, kept = leaf(rng, 3, fmt="fp32"), leaf(rng, 3, fmt="fp32"), []
        with events.observe(lambda event: kept.append(getattr(event, "after", None))):
            (fs.functional.linear(x.reshape(1, 3), y.reshape(1, 3)) + x.sum()).sum().backward()
        for one in (x, y):
            seen = [array for array in kept if array is not None]
            assert not any(np.shares_memory(one.gradient, array) for array in seen)

    def test_a_primitive_without_a_rule_says_so(self, rng):
        rounding = Primitive(lambda x: (namespace_of(x).rint(x), ()), exact=False)
        PRIMITIVES.pop("<lambda>")
        with pytest.raises(NotImplementedError, match="has no backward rule"):
            rounding(leaf(rng, 2))


class TestTensor:
    @pytest.mark.parametrize(
        ("data", "fmt"),
        [
            ([1.0], fs.FP64),
            (np.float64([1]), fs.FP64),
            (np.float32([1]), fs.FP32),
            (np.float16([1]), fs.FP16),
            ([np.float16(1)], fs.FP16),
            (np.array([1], ml_dtypes.bfloat16), fs.BF16),
            (np.array([1], ml_dtypes.float8_e4m3fn), fs.E4M3),
        ],
    )
    def test_format_follows_the_dtype(self, data, fmt):
        tensor = fs.Tensor(data)
        assert tensor.fmt is fmt
        assert tensor.numpy().dtype == (np.float64 if fmt is fs.FP64 else np.float32)

    def test_fmt_rounds_once_from_the_data(self):
        assert fs.Tensor([1 + 2.0**-11 + 2.0**-40], fmt="fp16").item() == 1 + 2.0**-10

    def test_does_not_share_memory_with_its_data(self):
        data = np.ones(3, np.float32)
        tensor = fs.Tensor(data)
        data[0] = 5
        assert tensor.numpy().tolist() == [1, 1, 1]

    def test_python_numbers_take_the_other_format(self):
        x = fs.Tensor(np.float16([1]))
        assert (x * 0.1).fmt is fs.FP16
        assert (x * 0.1).item() == float(np.float16(0.1))
        assert (x + 1).item() == (1 + x).item() == 2
        assert (1 - x).item() == 0

    def test_numpy_scalars_are_numbers_too(self):
        x = fs.Tensor(np.float16([1]))
        assert (x * np.sqrt(2.0)).fmt is fs.FP16
        assert (np.float64(2) * x).item() == 2
        assert (x * np.int64(3)).item() == 3

    def test_numbers_are_rounded_once(self):
        """Through float32, 1 + 2^-11 + 2^-40 would end at 1."""
        x = fs.Tensor(np.float16([1]))
        assert (x * (1 + 2.0**-11 + 2.0**-40)).item() == 1 + 2.0**-10

    def test_comparisons_give_arrays(self):
        x = fs.Tensor(np.float16([1, 2]))
        assert (x == 1).tolist() == [True, False]
        assert (x != fs.Tensor([1.0, 2.0])).tolist() == [False, False]
        assert [(x < 2).tolist(), (x <= 2).tolist()] == [[True, False], [True, True]]
        assert [(x > 1).tolist(), (x >= 1).tolist()] == [[False, True], [True, True]]
        assert bool(x.sum())
        assert not fs.Tensor(0.0)
        assert len({x, x}) == 1

    def test_a_value_without_axes_stays_an_array(self, rng):
        x = leaf(rng)
        for y in (-x, x + x, x.sum(), x.reshape(1).sum(), F.relu(x)):
            assert isinstance(y.data, np.ndarray)
        (x * x).backward()
        assert isinstance(x.gradient, np.ndarray)
        fs.optim.SGD([x], lr=0.1).step()
        assert isinstance(x.data, np.ndarray)

    def test_copies_are_copies(self):
        x = fs.Tensor(np.float16([1]), requires_grad=True)
        x.grad = g = fs.Tensor(np.float16([1]))
        for copy in (x.numpy(), np.asarray(x), x.detach().data, g.data):
            copy[0] = 9
        assert (x.item(), x.grad.item()) == (1, 1)

    def test_the_seed_gradient_is_rounded(self):
        x = fs.Tensor(np.float16([1]), requires_grad=True)
        x.backward([1 + 2.0**-12])
        assert x.grad.item() == 1

    def test_means_and_losses_of_nothing_are_nan_without_a_warning(self):
        x = fs.Tensor(np.zeros((0, 3)), requires_grad=True)
        for y in (x.mean(), F.mse_loss(x, x), F.cross_entropy(x, np.zeros(0, int))):
            assert np.isnan(y.item())
            y.backward()
        assert np.isnan(x.mean(axis=0).data).all()
        assert x.mean(axis=1).shape == (0,)
        assert x.sum().item() == 0

    def test_arrays_on_the_left(self):
        product = np.float32([2, 3]) * fs.Tensor(np.float32([1, 2]))
        assert isinstance(product, fs.Tensor)
        assert product.numpy().tolist() == [2, 6]
        assert (np.eye(2, dtype=np.float32) @ fs.Tensor(np.float32([1, 2]))).shape == (2,)

    def test_formats_that_meet(self):
        half_, brain = fs.Tensor([1.0], fmt="fp16"), fs.Tensor([1.0], fmt="bf16")
        assert (half_ + brain).fmt is fs.FP32
        assert (half_ + fs.Tensor(np.float32([1]))).fmt is fs.FP32

    def test_as_array_and_print(self):
        x = fs.Tensor(np.float16([1, 2.5]), requires_grad=True)
        assert np.asarray(x).tolist() == [1, 2.5]
        assert repr(x) == "Tensor([1. , 2.5], fmt=fp16, requires_grad=True)"
        assert float(fs.Tensor(2.0)) == 2
        assert len(x) == 2
        assert (x.ndim, x.size) == (1, 2)

    def test_detach_leaves_the_tape(self, rng):
        x = leaf(rng, 2)
        assert not (x * 2).detach().requires_grad

    def test_grad_can_be_set(self):
        x = fs.Tensor(np.float16([1]), requires_grad=True)
        x.grad = fs.Tensor([1 + 2.0**-11])
        assert x.grad.item() == 1.0
        x.grad = None
        assert x.grad is None

    @pytest.mark.parametrize(
        ("action", "error", "message"),
        [
            (lambda x: fs.Tensor([1, 2]), TypeError, "data has dtype int64"),
            (lambda x: fs.Tensor([1j]), TypeError, "data has dtype complex128"),
            (lambda x: fs.Tensor("1"), TypeError, "data has dtype"),
            (lambda x: fs.Tensor([1.0], fmt="fp99"), ValueError, "fmt='fp99'"),
            (lambda x: x + np.ones(5), ValueError, r"\(2, 3\) and \(5,\) of '\+' do not"),
            (lambda x: x * np.arange(3), TypeError, "operand has dtype int64"),
            (lambda x: x * True, TypeError, "operand has dtype bool"),
            (lambda x: x * 10**400, ValueError, "too large for a float"),
            (lambda x: x + "a", TypeError, "operand has dtype"),
            (lambda x: x.backward("a"), TypeError, "gradient has dtype"),
            (lambda x: fs.Tensor([1.0], "fp16"), TypeError, "requires_grad must be True or False"),
            (lambda x: x.reshape(6.0), TypeError, "shape must be an integer, got 6.0"),
            (lambda x: x.reshape(-2, 3), ValueError, "shape=-2"),
            (lambda x: x.sum(axis=[0]), TypeError, r"axis=\[0\] must be an integer, a tuple"),
            (lambda x: x.sum(axis=True), TypeError, "axis=True must be"),
            (lambda x: bool(x), ValueError, "exactly one value"),
            (lambda x: len(x.sum()), TypeError, "has no length"),
            (lambda x: np.array(x, copy=False), ValueError, "only be had as a copy"),
            (lambda x: F.cross_entropy(x, [[0], [1, 2]]), TypeError, "target cannot be made"),
            (lambda x: F.cross_entropy(x.reshape(6, 1).sum(axis=1), [0]), ValueError, "classes"),
            (lambda x: x @ np.ones((2, 2)), ValueError, r"\(2, 3\) and \(2, 2\)"),
            (lambda x: x @ 2.0, ValueError, "'@' needs at least one axis"),
            (lambda x: np.ones((2, 1, 2)) @ (x * np.ones((3, 2, 3))), ValueError, "leading axes"),
            (lambda x: x.reshape(4, 2), ValueError, r"cannot reshape \(2, 3\)"),
            (lambda x: x.reshape(-1, -1), ValueError, "cannot reshape"),
            (lambda x: x.reshape(-1, 4), ValueError, "cannot reshape"),
            (lambda x: x.sum(axis=2), ValueError, "axis=2 is out of range"),
            (lambda x: x.mean(axis=(0, -2)), ValueError, "names an axis twice"),
            (lambda x: x.item(), ValueError, "exactly one value"),
            (lambda x: x.backward(), ValueError, r"shape \(2, 3\) needs a gradient"),
            (lambda x: x.backward(np.ones(3)), ValueError, r"gradient has shape \(3,\)"),
            (lambda x: setattr(x, "grad", 1.0), TypeError, "grad must be a Tensor"),
            (lambda x: setattr(x, "grad", fs.Tensor([1.0])), ValueError, r"allowed is \(2, 3\)"),
            (lambda x: F.relu(np.ones(3)), TypeError, "input must be a Tensor, got ndarray"),
            (lambda x: F.linear(x, x.reshape(6)), ValueError, "weight has shape"),
            (lambda x: F.linear(x, fs.Tensor(np.ones((4, 2)))), ValueError, r"allowed is .*2\)"),
            (
                lambda x: F.linear(x, fs.Tensor(np.ones((4, 3))), fs.Tensor([1.0])),
                ValueError,
                r"bias has shape \(1,\); allowed is \(4,\)",
            ),
            (lambda x: F.mse_loss(x, np.ones(3)), ValueError, r"target has shape \(3,\)"),
            (lambda x: F.mse_loss(x, x, reduction="max"), ValueError, "mean, sum, none"),
            (lambda x: F.cross_entropy(x, [0.0, 1.0]), TypeError, "target has dtype float64"),
            (lambda x: F.cross_entropy(x, [0, 3]), ValueError, "value 3; allowed are 0 to 2"),
            (lambda x: F.cross_entropy(x, [0]), ValueError, r"allowed is \(2,\)"),
            (lambda x: F.cross_entropy(x.sum(axis=0), [0]), ValueError, r"\(N, classes, ...\)"),
            (lambda x: F.cross_entropy(x, x), TypeError, "got a Tensor"),
        ],
    )
    def test_bad_input_is_named(self, action, error, message):
        x = fs.Tensor(np.ones((2, 3)), requires_grad=True)
        with pytest.raises(error, match=message):
            action(x)


X = fs.Tensor(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: X.clamp(), ValueError, "low and high are both None"),
        (lambda: X.clamp("a"), TypeError, "low must be a number"),
        (lambda: X.clamp(high=float("nan")), ValueError, "high=nan"),
        (lambda: X.transpose(0, 0), ValueError, r"axes=\(0, 0\)"),
        (lambda: X.transpose(0, 5), ValueError, "axes"),
        (lambda: X[2], IndexError, r"index 2 does not fit \(2, 3\)"),
        (lambda: X[X], TypeError, "must be of integers or booleans"),
        (lambda: X[np.array([0.5])], TypeError, "must be of integers or booleans"),
        (lambda: X / np.ones(2), ValueError, "do not broadcast"),
        (lambda: F.maximum(X, np.ones(2)), ValueError, r"other of shape \(2,\)"),
        (lambda: F.minimum(1.0, X), TypeError, "input must be a Tensor"),
        (lambda: F.where([1.0], X, X), TypeError, "condition has dtype float64"),
        (lambda: F.where([True, False], X, X), ValueError, r"condition of shape \(2,\)"),
        (lambda: X.__lt__(np.ones(2)), ValueError, r"shapes \(2, 3\) and \(2,\) of a comparison"),
        (lambda: F.concatenate([]), ValueError, "tensors is empty"),
        (lambda: F.concatenate(X), TypeError, "sequence of Tensors, got Tensor"),
        (lambda: F.stack([]), ValueError, "tensors is empty"),
        (lambda: F.concatenate([X, X[0]]), ValueError, "along axis 0 only"),
        (lambda: F.concatenate([X, X], 2), ValueError, "axis=2"),
        (lambda: F.concatenate([X, 1.0]), TypeError, r"tensors\[1\] must be a Tensor"),
        (lambda: F.stack([X, X[:1]]), ValueError, "must all have one"),
        (lambda: X.max(axis=2), ValueError, "axis=2"),
        (lambda: F.layer_norm(X, 2), ValueError, "normalized_shape=2"),
        (lambda: F.layer_norm(X, 3, X), ValueError, r"weight has shape \(2, 3\)"),
        (lambda: F.layer_norm(X, 3, None, X[0]), ValueError, "bias without weight"),
        (lambda: F.rms_norm(X, 3, eps=-1.0), ValueError, "eps=-1.0"),
        (lambda: X[:0].min(axis=0), ValueError, "there are no values"),
        (lambda: X.var(correction=-1), ValueError, "correction=-1"),
        (lambda: F.softmax(X, 2), ValueError, "axis=2"),
        (lambda: F.log_softmax(X[:0], 0), ValueError, "no values along axis 0"),
        (lambda: F.softmax(X.sum()), ValueError, "input has no axes"),
    ],
)
def test_new_operations_refuse_clearly(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_moves_values_is_exact_and_the_rest_rounds_in_fp16(rng):
    x = fs.Tensor(rng.standard_normal((4, 4)).astype(np.float16), requires_grad=True)
    y = fs.Tensor(rng.standard_normal((4, 4)).astype(np.float16), requires_grad=True)
    half_x, half_y = (t.numpy().astype(np.float16) for t in (x, y))
    assert (x / y).fmt is fs.FP16
    assert_same_bits((x / y).numpy(), (half_x / half_y).astype(np.float32))
    assert_same_bits(x.clamp(high=0.1).numpy(), fs.round_to(np.minimum(half_x, 0.1), "fp16"))
    F.maximum(x, x).backward(np.full((4, 4), 2.0**-24, np.float16))
    # Halves of the smallest number, rounded to zero, twice.
    assert (x.grad.numpy() == 0).all()
