"""autocast: which primitive runs in which format."""

import contextvars
import gc
import threading
import weakref

import numpy as np
import pytest

import fp16sim as fs
from fp16sim.autograd.primitive import cast_input
from fp16sim.precision import AUTOCAST_CLASSES, Policy, kept_casts

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
    assert set(AUTOCAST_CLASSES.values()) == {"low", "wide", "wide unless given"}


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


@pytest.mark.parametrize("function", [F.softmax, F.log_softmax, lambda x, fmt=None: x.sum(fmt=fmt)])
def test_a_given_format_wins_over_the_list(function):
    x = fs.Tensor(np.float32([1 + 2.0**-11, 2.0**-20, 1.0]), requires_grad=True)
    rounded = fs.Tensor(np.float32([1.0, 2.0**-20, 1.0]))  # in fp16, to even
    with fs.autocast("bf16"):
        assert function(x).fmt is fs.FP32
        assert function(x.to("fp16")).fmt is fs.FP32
        given = function(x, fmt="fp16")
    assert given.fmt is fs.FP16
    assert function(x).fmt is fs.FP32
    assert function(x, fmt=fs.FP64).fmt is fs.FP64
    expected = fs.round_to(function(rounded).data, "fp16")
    for result in (given, function(x, fmt="fp16")):  # outside, too
        np.testing.assert_array_equal(result.data, expected)
    given.backward(np.float16(2.0**-25) * np.ones(given.shape))  # 0 in fp16
    assert not x.grad.data.any()


def test_a_given_format_is_checked(x):
    with pytest.raises(ValueError, match="fmt='half' is not a known format"):
        F.softmax(x, fmt="half")
    with pytest.raises(TypeError, match="fmt must be a Format or a name"):
        x.sum(fmt=16)


@pytest.mark.parametrize(("low", "wide"), [("fp16", "bf16"), ("e4m3", "fp16"), ("e5m2", "fp32")])
def test_any_pair_of_formats(x, low, wide):
    with fs.autocast(low, wide=wide):
        assert str((x @ x).fmt) == low
        assert str(F.cross_entropy(x @ x, [0, 1]).fmt) == wide
        assert str((x @ x).sum().fmt) == wide


def test_settings_of_regions_and_policies_are_checked():
    with pytest.raises(ValueError, match="wide='fp33' is not a known format"):
        fs.autocast(wide="fp33")
    with pytest.raises(TypeError, match="cache_enabled must be True or False, got 1"):
        fs.autocast(cache_enabled=1)
    with pytest.raises(TypeError, match=r"recipe must be one of fs\.recipes or None"):
        fs.autocast(recipe="mxfp8")
    with pytest.raises(ValueError, match="accumulator and recipe are both given"):
        fs.autocast("bf16", accumulator="fp16", recipe=fs.recipes.MXFP8())
    with pytest.raises(ValueError, match=r"classes\['add'\]='fp16' is not known"):
        Policy(fs.FP16, classes={"add": "fp16"})
    with pytest.raises(TypeError, match="policy must be a Policy or None"):
        fs.autocast.of("fp16")


def test_a_policy_of_ones_own(x):
    with fs.autocast.of(Policy(fs.E4M3, fs.BF16, classes={"add": "wide", "exp": "widest"})):
        assert (x.to("fp16") + x.to("fp16")).fmt is fs.BF16
        assert x.to("fp16").exp().fmt is fs.FP16


class TestCastsOfWeights:
    """Once a region, as in PyTorch; against which the gradients are in tests/differential."""

    G = 1 + 2.0**-10, 2.0**-11  # whose sum is between two fp16 numbers

    def test_gradients_of_two_uses_add_in_the_low_format(self):
        for cached, total in ((True, 1 + 2.0**-9), (False, 1 + 2.0**-10 + 2.0**-11)):
            w = fs.Tensor(np.float32([[1.0]]), requires_grad=True)
            x = [fs.Tensor(np.float32([[g]])) for g in self.G]
            with fs.autocast("fp16", cache_enabled=cached):
                y = x[0] @ w + x[1] @ w
            y.backward([[1.0]])
            assert w.grad.item() == total

    def test_two_graphs_may_share_a_cast(self):
        w = fs.Tensor(np.float32([[1.0]]), requires_grad=True)
        with fs.autocast("fp16"):
            losses = [(fs.Tensor(np.float32([[g]])) @ w).sum() for g in self.G]
        for loss in losses:
            loss.backward()
        assert w.grad.item() == sum(self.G)  # in fp32

    def test_backward_inside_the_region(self):
        w = fs.Tensor(np.float32([[1.0]]), requires_grad=True)
        with fs.autocast("fp16"):
            for g in self.G:
                (fs.Tensor(np.float32([[g]])) @ w).sum().backward()
        assert w.grad.item() == sum(self.G)

    def casts(self, body):
        """How often a weight was cast to a low format."""
        seen = []

        def note(event):
            origin = getattr(event, "origin", None)
            if origin is not None and (origin.op, origin.role) == ("cast", "weight"):
                seen.append(str(event.fmt))

        with fs.events.observe(note):
            body()
        return seen

    def test_once_until_the_outermost_region_is_left(self, x):
        def body():
            with fs.autocast("fp16"):
                _ = x @ x
                with fs.autocast("fp16"), fs.autocast(enabled=False):
                    _ = x @ x
                    with fs.autocast("fp16"):
                        _ = x @ x
                _ = x @ x
            with fs.autocast("fp16"):
                _ = x @ x

        assert self.casts(body) == ["fp16"] * 2

    def test_each_low_format_has_its_own(self, x):
        def body():
            for _ in range(2):
                with fs.autocast("fp16"):
                    low = x @ x
                    with fs.autocast("bf16"):
                        assert (x @ x).fmt is fs.BF16
                    assert (x @ x).fmt is low.fmt is fs.FP16

        assert self.casts(body) == ["fp16", "bf16"] * 2

    def test_only_leaves_that_require_a_gradient(self):
        plain = fs.Tensor(ONES)
        with fs.autocast("fp16"):
            assert cast_input(plain, fs.FP16) is not cast_input(plain, fs.FP16)
            inner = fs.Tensor(ONES, requires_grad=True) * 2.0
            assert cast_input(inner, fs.FP16) is not cast_input(inner, fs.FP16)
            half = fs.Tensor(ONES, requires_grad=True, fmt="bf16")  # not fp32: as in PyTorch
            assert cast_input(half, fs.FP16) is not cast_input(half, fs.FP16)

    def test_a_weight_that_was_moved_is_cast_anew(self, x):
        with fs.autocast("fp16"):
            assert (x @ x).data[0, 0] == 2
            x.data = 2 * ONES
            assert (x @ x).data[0, 0] == 8

    def test_casts_made_without_a_tape_are_not_for_one(self, x):
        with fs.autocast("fp16"):
            with fs.no_grad():
                _ = x @ x
            (x @ x).sum().backward()
            assert x.grad is not None
            cast = cast_input(x, fs.FP16)
            with fs.no_grad():
                assert cast_input(x, fs.FP16) is cast  # but the other way round

    def test_nothing_is_kept_alive(self, x):
        with fs.autocast("fp16"):
            with fs.no_grad():
                _ = x @ x
            array = weakref.ref(cast_input(x, fs.FP16).data)
            copied = contextvars.copy_context()
            assert array() is not None
        gc.collect()
        assert array() is None
        assert copied.run(lambda: (x @ x).fmt) is fs.FP16

    def test_each_thread_has_its_own(self, x):
        casts = []

        def other():
            with fs.autocast("fp16"):
                casts.append(cast_input(x, fs.FP16))

        with fs.autocast("fp16"):
            casts.append(cast_input(x, fs.FP16))
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            assert cast_input(x, fs.FP16) is casts[0]
        assert casts[0] is not casts[1]

    def test_recomputed_parts_share_casts_among_themselves(self):
        """Two uses inside of a checkpoint add up as in the plain call; casts of it are dropped."""
        totals = []
        for run in (lambda f, x: f(x), fs.nn.checkpoint):
            w = fs.Tensor(np.float32([[1.0]]), requires_grad=True)
            x = [fs.Tensor(np.float32([[g]]), requires_grad=True) for g in self.G]
            with fs.autocast("fp16"):
                y = run(lambda a, x=x, w=w: a @ w + x[1] @ w, x[0])
            y.backward([[1.0]])
            totals.append(w.grad.item())
        assert totals == [1 + 2.0**-9] * 2
        assert kept_casts.get() is None
