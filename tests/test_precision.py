"""autocast: which primitive runs in which format."""

import threading

import numpy as np
import pytest

import fp16sim as fs
from fp16sim.precision import AUTOCAST_CLASSES, Policy

F = fs.functional
ONES = np.ones((2, 2), np.float32)


@pytest.fixture
def x():
    return fs.Tensor(ONES, requires_grad=True)


def test_classes(x):
    with fs.autocast("fp16"):
        low = x @ x
        assert low.fmt is fs.FP16
        assert F.linear(x, x).fmt is fs.FP16
        assert (low + low).fmt is fs.FP16  # unlisted: the inputs' format
        assert (low + x).fmt is fs.FP32  # the wider of two
        assert F.sigmoid(low).fmt is fs.FP16
        assert F.relu(x).fmt is fs.FP32
        assert low.mean().fmt is fs.FP16
        assert low.sum().fmt is fs.FP32
        assert F.mse_loss(low, low).fmt is fs.FP32
        assert F.cross_entropy(low, [0, 1]).fmt is fs.FP32
    assert (x @ x).fmt is fs.FP32


def test_every_class_names_a_primitive():
    from fp16sim.autograd.primitive import PRIMITIVES

    assert set(AUTOCAST_CLASSES) <= set(PRIMITIVES)
    assert set(AUTOCAST_CLASSES.values()) == {"low", "wide"}


def test_fp32_weights_get_fp32_gradients_that_went_through_fp16():
    weight = fs.Tensor(np.float32([[1.0]]), requires_grad=True)
    with fs.autocast("fp16"):
        y = fs.Tensor(np.float32([[1.0]])) @ weight
    y.backward([[1 + 2.0**-11 + 2.0**-20]])
    assert weight.grad.fmt is fs.FP32
    assert weight.grad.item() == 1 + 2.0**-10
    y = fs.Tensor(np.float32([[2.0**-20]])) @ weight
    weight.grad = None
    with fs.autocast("fp16"):
        y = fs.Tensor(np.float32([[2.0**-13]])) @ weight
    y.backward([[2.0**-13]])
    assert weight.grad.item() == 0.0  # 2^-26 is below fp16


def test_fp64_is_never_narrowed():
    with fs.autocast("fp16"):
        assert (fs.Tensor(np.ones((2, 2))) @ fs.Tensor(np.ones((2, 2)))).fmt is fs.FP64


def test_nesting_and_disabling(x):
    with fs.autocast("fp16"):
        with fs.autocast("bf16"):
            assert (x @ x).fmt is fs.BF16
            with fs.autocast(enabled=False):
                assert (x @ x).fmt is fs.FP32
        assert (x @ x).fmt is fs.FP16


def test_left_after_an_error(x):
    with pytest.raises(KeyError), fs.autocast("fp16"):
        raise KeyError
    assert (x @ x).fmt is fs.FP32


def test_one_object_may_be_entered_again_and_as_decorator(x):
    region = fs.autocast("bf16")

    @region
    def product(depth):
        return product(depth - 1) if depth else x @ x

    assert product(3).fmt is fs.BF16
    assert (x @ x).fmt is fs.FP32


def test_a_region_shared_by_threads_belongs_to_each_alone(x):
    region, inside, leave = fs.autocast("fp16"), threading.Event(), threading.Event()

    def other():
        with fs.autocast("bf16"), region:
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with region:
        thread.start()
        assert inside.wait(10)
        assert (x @ x).fmt is fs.FP16
    assert (x @ x).fmt is fs.FP32
    leave.set()
    thread.join()
    assert (x @ x).fmt is fs.FP32


def test_unknown_format():
    with pytest.raises(ValueError, match="fmt='half' is not a known format"):
        fs.autocast("half")


def test_a_policy_is_data():
    policy = Policy(low=fs.E4M3, wide=fs.BF16, classes={"add": "wide"})
    assert policy.format_for("add", [fs.FP16, fs.FP32]) is fs.BF16
    assert policy.format_for("matmul", [fs.FP16, fs.E5M2]) is fs.FP16


def half(rng, *shape):
    return rng.standard_normal(shape).astype(np.float16)


@pytest.mark.parametrize(
    "accumulator",
    ["fp16", "fp16-fma", "pairwise", "kahan", "exact", "fp32-sequential",
     fs.Accumulator("sequential", fs.FP16, block=4), fs.tensorcore.V100, fs.tensorcore.H100],
    ids=str,
)  # fmt: skip
def test_products_add_up_as_told_forward_and_backward(accumulator, rng):
    x, w = half(rng, 2, 5, 33), half(rng, 7, 33)
    b, g = half(rng, 7), half(rng, 2, 5, 7)
    tensors = [fs.Tensor(value, requires_grad=True) for value in (x, w, b)]
    with fs.autocast("fp16", accumulator=accumulator):
        y = F.linear(*tensors)
    y.backward(g)

    def product(left, right, fmt="fp16"):
        return fs.matmul(left, right, fmt=fmt, accumulator=accumulator)

    rows, gradients = x.reshape(10, 33), g.reshape(10, 7)
    assert (tensors[0].grad.numpy().reshape(10, 33) == product(gradients, w)).all()
    assert (tensors[1].grad.numpy() == product(gradients.T, rows)).all()
    # The bias is added to what the accumulator holds, before the one rounding on store.
    assert (y.numpy() - product(rows, w.T).reshape(2, 5, 7) != 0).any()
    with fs.autocast("fp16", accumulator=accumulator):
        unbiased = F.linear(*tensors[:2])
        batched = fs.Tensor(x) @ fs.Tensor(w.T)
        pairs = fs.Tensor(x) @ fs.Tensor(half(rng, 2, 33, 4))
    assert (unbiased.numpy().reshape(10, 7) == product(rows, w.T)).all()
    assert (batched.numpy() == unbiased.numpy()).all()
    assert pairs.shape == (2, 5, 4)


def test_an_accumulator_shows_in_the_result():
    ones = fs.Tensor(np.ones((1, 5000), np.float16), requires_grad=True)
    with fs.autocast("fp16", accumulator="fp16"):
        assert (ones @ np.ones((5000, 1), np.float16)).item() == 2048
    with fs.autocast("fp16"):
        assert (ones @ np.ones((5000, 1), np.float16)).item() == 5000


def test_accumulators_leave_other_formats_and_disabled_regions_alone():
    ones = np.ones((1, 5000))
    with fs.autocast("fp16", accumulator="fp16"):
        assert (fs.Tensor(ones) @ ones.T).item() == 5000  # fp64
        with fs.autocast(enabled=False):
            single = fs.Tensor(ones.astype(np.float32))
            assert (single @ ones.T.astype(np.float32)).item() == 5000
    outside = fs.Tensor(ones.astype(np.float16))
    assert (outside @ ones.T.astype(np.float16)).item() == 5000


def test_accumulators_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="fmt=bf16 is not a format that V100 takes"):
        fs.autocast("bf16", accumulator=fs.tensorcore.V100)
    with pytest.raises(ValueError, match="accumulator='fp17'"):
        fs.autocast("fp16", accumulator="fp17")
    with pytest.raises(TypeError, match="accumulator must be"):
        fs.autocast("fp16", accumulator=16)
