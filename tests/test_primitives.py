"""Faults that primitives once had: large groups, cancellation, empty batches, infinities."""

import numpy as np
import pytest

import fp16sim as fs

F = fs.functional


@pytest.mark.parametrize("size", [2**20, 2**20 + 5])
def test_the_variance_of_a_large_group_is_that_of_its_values(size, rng):
    x = rng.standard_normal((2, 1, size)).astype(np.float32)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(axis=2, keepdims=True)) / exact.std(axis=2, keepdims=True)
    error = np.abs(F.group_norm(fs.Tensor(x), 1, eps=0.0).data - exact)
    assert error.max() < 5e-6


def test_binary_cross_entropy_keeps_the_digits_of_confident_logits():
    x = fs.Tensor(np.float32([-20.0, -8.0, 20.0]), requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, np.float32([0, 0, 1]), "none")
    small = np.exp(np.array([-20.0, -8.0, -20.0]))
    np.testing.assert_allclose(loss.data, np.log1p(small), rtol=1e-6)
    loss.sum().backward()
    slopes = small / (1 + small)
    np.testing.assert_allclose(x.grad.data, slopes * [1, 1, -1], rtol=1e-6)


@pytest.mark.parametrize("accumulator", [None, "fp16"])
def test_empty_batches(accumulator):
    weight = fs.Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    x = fs.Tensor(np.zeros((4, 0, 3), np.float32), requires_grad=True)
    with fs.autocast("fp16", accumulator=accumulator):
        y = F.linear(x, weight)
    assert y.shape == (4, 0, 2)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not weight.grad.data.any()
    rows = F.embedding([0, 1, 0], fs.Tensor(np.zeros((2, 0), np.float32), requires_grad=True))
    rows.sum().backward()
    attention = fs.nn.MultiheadAttention(8, 2, rng=0)
    assert attention(fs.Tensor(np.zeros((0, 3, 8), np.float32))).shape == (0, 3, 8)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_small_integers_as_indices(dtype):
    x = fs.Tensor(np.ones((300, 2)), requires_grad=True)
    x[np.array([1, 2, 1], dtype)].sum().backward()
    assert x.grad.data[:4, 0].tolist() == [0, 2, 1, 0]


def test_the_gradient_of_a_quotient_of_small_numbers():
    x, y = (fs.Tensor(np.float32([1e-25]), requires_grad=True) for _ in "xy")
    (x / y).sum().backward()
    np.testing.assert_allclose(y.grad.data, -1e25, rtol=1e-6)


def test_an_infinite_gradient_stays_at_the_target():
    x = fs.Tensor(np.zeros((1, 3)), requires_grad=True)
    F.nll_loss(x, [1]).backward(np.inf)
    assert x.grad.data.tolist() == [[0, -np.inf, 0]]


def test_pooling_of_minus_infinity_beside_padding():
    x = fs.Tensor(np.full((1, 1, 2, 2), -np.inf), requires_grad=True)
    F.max_pool2d(x, 2, 2, 1).sum().backward()
    assert np.array_equal(x.grad.data, np.ones((1, 1, 2, 2)))


def test_running_statistics_come_in_pairs():
    x, kept = fs.Tensor(np.ones((4, 3))), fs.Tensor(np.ones(3))
    with pytest.raises(ValueError, match="given both, or neither"):
        F.batch_norm(x, None, kept, training=True)


@pytest.mark.parametrize("channels", [1, 4])
def test_input_gradients_are_summed_as_a_whole_by_the_accumulator(channels):
    """Nine taps: 2048 first, and then ones that fp16 cannot add to it one by one."""
    weight = np.ones((1, channels, 3, 3), np.float32)
    weight[0, :, 2, 2] = 2048  # turned round, it is met first
    for stride in (1, 2):
        x = fs.Tensor(np.zeros((1, channels, 5, 5), np.float32), requires_grad=True)
        with fs.autocast("fp16", accumulator="fp16"):
            y = F.conv2d(x, fs.Tensor(weight), stride=stride)
        y.backward(np.ones(y.shape, np.float32))
        assert x.grad.data[0, 0, 2, 2] == 2048
        plain = fs.Tensor(np.zeros((1, channels, 5, 5), np.float32), requires_grad=True)
        F.conv2d(plain, fs.Tensor(weight), stride=stride).backward(np.ones(y.shape, np.float32))
        assert plain.grad.data[0, 0, 2, 2] == (2056 if stride == 1 else 2051)


def test_arguments_after_the_target_are_named():
    x = fs.Tensor(np.ones((2, 3)))
    with pytest.raises(TypeError):
        F.cross_entropy(x, [0, 1], "sum")
    with pytest.raises(TypeError, match="ignore_index must be an integer"):
        F.cross_entropy(x, [0, 1], ignore_index=1.5)


def test_backward_sees_indices_and_conditions_as_they_were():
    x = fs.Tensor(np.ones(3), requires_grad=True)
    key, condition = np.array([0, 0]), np.array([True, False, True])
    y = x[key].sum() + F.where(condition, x, 0.0).sum()
    key[:], condition[:] = 2, False
    y.backward()
    assert x.grad.data.tolist() == [3, 0, 1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: x[0.5:], TypeError, "must be of integers"),
        (lambda x: x[[[1], [1, 2]]], TypeError, "cannot be made an array"),
        (lambda x: F.pad(x, 3), TypeError, "sequence of widths"),
        (lambda x: x[np.ma.array([0, 1])], TypeError, "must be of integers"),
        (
            lambda x: F.conv_transpose2d(x.reshape(1, 1, 4, 3), fs.Tensor(np.ones((1, 1, 0, 0)))),
            ValueError,
            "allowed is",
        ),
        (lambda x: F.dice_loss(x[:, :0], np.ones((4, 0))), ValueError, "allowed is"),
        (
            lambda x: F.scaled_dot_product_attention(x, x, x, np.ones((3, 3), bool)),
            ValueError,
            "does not broadcast",
        ),
        (
            lambda x: F.interpolate(x.reshape(1, 1, 4, 3), scale_factor=1e308),
            ValueError,
            "makes no size",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call(fs.Tensor(np.ones((4, 3))))


def test_masked_ids_are_refused():
    with pytest.raises(TypeError, match="masked array"):
        F.embedding(np.ma.array([0, 1], mask=[0, 1]), fs.Tensor(np.ones((4, 3))))


def test_an_empty_list_holds_no_indices():
    table = fs.Tensor(np.ones((4, 3)))
    assert F.embedding([], table).shape == (0, 3)
    assert np.isnan(F.cross_entropy(table[:0], []).item())


def test_the_variance_of_nothing_is_nan_without_a_warning():
    assert np.isnan(fs.Tensor(np.zeros(0)).var().item())
