"""The stand-in for CuPy refuses what CuPy refuses: else nothing tested with it is proved."""

import operator

import numpy as np
import pytest
import strict_array
from conftest import assert_same_bits
from strict_array import LACKING, StrictArray, as_strict, strict, to_strict

import fp16sim as fs
from fp16sim.backend import namespace_of

strict_arrays = strict_array.strict_arrays  # a fixture

HOST = np.float32([[1, 2, 3], [4, 5, 6]])

OPERATORS = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.pow, operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne,
]  # fmt: skip


@pytest.fixture
def x():
    return as_strict(HOST)


def check(actual, expected):
    """A StrictArray of these values, dtype and shape."""
    assert type(actual) is StrictArray
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(actual.get(), expected)


class TestRefusals:
    @pytest.mark.parametrize(
        "mistake",
        [
            np.asarray,
            np.array,
            lambda x: np.asarray([x, x]),
            lambda x: np.add(x, 1),
            lambda x: np.exp(x),
            lambda x: np.add(HOST, x),
            lambda x: np.add(HOST, 1, out=x),
            lambda x: np.add.at(HOST.copy(), 0, x),
            lambda x: np.sum(x),
            lambda x: np.where(x > 0, 1, 2),
            lambda x: np.concatenate([x, x]),
            lambda x: np.zeros_like(x),
            lambda x: np.shape(x),
            lambda x: np.float32(x),
            lambda x: HOST.dot(x),
            lambda x: HOST.copy().__setitem__(0, x[0]),
            lambda x: np.linalg.norm(x),
        ],
    )
    def test_numpys_functions(self, x, mistake):
        with pytest.raises(TypeError):
            mistake(x)

    @pytest.mark.parametrize("function", [*OPERATORS, operator.matmul])
    def test_numpy_arrays_in_operators(self, function):
        square = as_strict(HOST[:, :2])
        for pair in ((square, HOST[:, :2]), (HOST[:, :2], square)):
            with pytest.raises(TypeError, match=r"numpy\.ndarray"):
                function(*pair)

    @pytest.mark.parametrize("function", [operator.iadd, operator.isub, operator.imul])
    def test_numpy_arrays_in_place(self, x, function):
        for pair in ((x, HOST), (HOST.copy(), x)):
            with pytest.raises(TypeError):
                function(*pair)

    @pytest.mark.parametrize(
        "mistake",
        [
            lambda x: strict.add(x, HOST),
            lambda x: strict.exp(HOST),
            lambda x: strict.where(x > 0, x, HOST),
            lambda x: strict.concatenate([x, HOST]),
            lambda x: strict.sum(HOST),
            lambda x: strict.take(x, HOST.astype(int)),
            lambda x: strict.matmul(x, HOST.T),
            lambda x: strict.add(x, 1, out=HOST),
            lambda x: strict.linalg.norm(HOST),
            lambda x: x.dot(HOST.T),
            lambda x: x.clip(HOST, 9),
            lambda x: strict.add(x, [1, 2, 3]),
            lambda x: operator.add(x, [1, 2, 3]),
            lambda x: strict.sum([1, 2]),
            lambda x: x.__setitem__(0, HOST[0]),
            lambda x: x.__setitem__([0, 1], HOST),
            lambda x: x.__setitem__(0, [1, 2, 3]),
        ],
    )
    def test_numpy_arrays_and_lists_in_cupys_functions(self, x, mistake):
        with pytest.raises(TypeError):
            mistake(x)

    @pytest.mark.parametrize("name", LACKING)
    def test_names_that_cupy_lacks(self, name):
        with pytest.raises(AttributeError, match=rf"'cupy' has no attribute '{name}'"):
            getattr(strict, name)

    @pytest.mark.parametrize("name", ["random", "fft", "vectorize", "no_such_thing"])
    def test_names_that_are_not_modelled(self, name):
        with pytest.raises(AttributeError, match=name):
            getattr(strict, name)
        with pytest.raises(AttributeError, match="ctypes"):
            as_strict(HOST).ctypes  # noqa: B018

    @pytest.mark.parametrize(
        "mistake",
        [
            lambda x: strict.take(x, x[0].astype(int), mode="clip"),
            lambda x: x.take(x[0].astype(int), mode="clip"),
            lambda x: strict.sum(x, initial=0),
            lambda x: x.max(where=x > 0),
            lambda x: strict.var(x, correction=1),
            lambda x: strict.add(x, 1, where=x > 0),
            lambda x: strict.clip(x, min=0, max=1),
            lambda x: strict.sort(x, stable=True),
        ],
    )
    def test_keywords_that_cupy_lacks(self, x, mistake):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            mistake(x)

    def test_no_position_in_pythons_own_lists(self, x):
        with pytest.raises(TypeError):
            range(as_strict(3))
        with pytest.raises(TypeError):
            [1, 2][as_strict(0)]

    def test_no_hash_and_no_matmul_in_place(self, x):
        with pytest.raises(TypeError, match="unhashable"):
            hash(x)
        assert not hasattr(x, "__imatmul__")

    @pytest.mark.parametrize("dtype", [object, "U3", np.longdouble, "M8[s]"])
    def test_dtypes_that_no_gpu_has(self, dtype):
        with pytest.raises(ValueError, match="Unsupported dtype"):
            as_strict(np.zeros(2, dtype))

    def test_at_is_there_for_three_functions_and_not_for_int64(self):
        with pytest.raises(NotImplementedError, match="multiply"):
            strict.multiply.at(as_strict(HOST), 0, 1)
        with pytest.raises(TypeError, match="only supports"):
            strict.add.at(as_strict([1, 2]), 0, 1)


class TestArithmetic:
    @pytest.mark.parametrize("function", OPERATORS)
    @pytest.mark.parametrize("other", [2, 2.0, np.float32(2), np.float64(2), np.int64(2), True])
    def test_scalars_are_welcome_and_promote_as_in_numpy(self, x, function, other):
        check(function(x, other), function(HOST, other))
        check(function(other, x), function(other, HOST))

    @pytest.mark.parametrize("function", OPERATORS)
    def test_arrays_of_its_own(self, x, function):
        check(function(x, x[0]), function(HOST, HOST[0]))

    def test_without_axes_it_stays_an_array_and_its_dtype_counts(self):
        check(as_strict(np.float32(3)) + 1, np.asarray(np.float32(4)))
        check(as_strict(np.float64(3)) * as_strict(HOST), 3 * HOST.astype(np.float64))
        check(-as_strict(np.float32(3)), np.asarray(np.float32(-3)))

    def test_unary_and_matmul(self, x):
        check(-x, -HOST)
        check(abs(x), abs(HOST))
        check(~(x > 2), ~(HOST > 2))
        check(x @ x.T, HOST @ HOST.T)

    def test_in_place(self, x):
        same = x
        x += 1
        x *= x
        x -= np.float32(1)
        assert x is same
        check(x, (HOST + 1) ** 2 - 1)

    def test_in_place_through_a_view(self, x):
        row = x[0]
        row /= 2
        element = x[1, 1]
        element += 10  # in NumPy this would be a copy
        check(x, np.float32([[0.5, 1, 1.5], [4, 15, 6]]))

    def test_never_warns(self, x):
        check(x / 0, np.full_like(HOST, np.inf))
        assert np.isnan(float(as_strict(np.float32([])).mean()))
        check(strict.log(x - 1)[0, :1], np.float32([-np.inf]))

    def test_tensors_may_stand_beside_it(self, x):
        class Other:
            __array_ufunc__ = None

            def __radd__(self, other):
                return "mine"

        assert x + Other() == "mine"


class TestMethodsAndFunctions:
    @pytest.mark.parametrize(
        "function",
        [
            lambda a: a.sum(),
            lambda a: a.sum(axis=0, keepdims=True),
            lambda a: a.mean(axis=(0, 1)),
            lambda a: a.max(axis=1),
            lambda a: a.min(),
            lambda a: a.var(ddof=1),
            lambda a: a.any(),
            lambda a: (a > 0).all(axis=0),
            lambda a: a.argmax(),
            lambda a: a.argmax(axis=1),
            lambda a: (-a).argsort(axis=1),
            lambda a: a.reshape(3, 2),
            lambda a: a.reshape((-1,)),
            lambda a: a.transpose(1, 0),
            lambda a: a.transpose([1, 0]),
            lambda a: a.swapaxes(0, 1),
            lambda a: a.T,
            lambda a: a[None].squeeze(0),
            lambda a: a.astype(np.float64),
            lambda a: a.view(np.uint32),
            lambda a: a.ravel(),
            lambda a: a.flatten(),
            lambda a: a.copy(),
            lambda a: a.take([2, 0], axis=1),
            lambda a: a.clip(2, 4),
            lambda a: a.cumsum(axis=1),
            lambda a: a[1],
            lambda a: a[1, 2],
            lambda a: a[..., 0],
            lambda a: a[:, ::-1],
            lambda a: a[None, :, 1:],
            lambda a: a[[1, 0]],
            lambda a: a[np.array([1, 1])],
            lambda a: a[a > 2],
            lambda a: a[:, a.sum(axis=0) > 5],
            lambda a: a[a.argsort(axis=1)[:, 0], [0, 2]],
        ],
    )
    def test_methods_and_indices_give_arrays(self, x, function):
        check(function(x), np.asarray(function(HOST)))

    @pytest.mark.parametrize(
        "function",
        [
            lambda xp, a: xp.exp(a),
            lambda xp, a: xp.maximum(a, 3),
            lambda xp, a: xp.sum(a, axis=1),
            lambda xp, a: xp.where(a > 2, a, 0),
            lambda xp, a: xp.concatenate([a, a], axis=1),
            lambda xp, a: xp.stack((a, a)),
            lambda xp, a: xp.zeros_like(a),
            lambda xp, a: xp.zeros([2, 3], a.dtype),
            lambda xp, a: xp.arange(4, dtype=xp.int32),
            lambda xp, a: xp.full((2,), xp.inf),
            lambda xp, a: xp.broadcast_to(a, (4, 2, 3)),
            lambda xp, a: xp.expand_dims(a, 0),
            lambda xp, a: xp.asarray([[1.0, 2.0]]),
            lambda xp, a: xp.asarray(HOST),
            lambda xp, a: xp.isfinite(a),
            lambda xp, a: xp.einsum("ij,kj->ik", a, a),
            lambda xp, a: xp.count_nonzero(a > 2),
            lambda xp, a: xp.array_equal(a, a),
            lambda xp, a: xp.vdot(a, a),
            lambda xp, a: xp.linalg.norm(a),
            lambda xp, a: xp.add.reduce(a),
            lambda xp, a: xp.multiply(a, 2, out=xp.empty_like(a)),
            lambda xp, a: xp.lib.stride_tricks.sliding_window_view(a, 2, axis=1),
        ],
    )
    def test_functions_give_arrays(self, x, function):
        check(function(strict, x), np.asarray(function(np, HOST)))

    def test_several_results(self, x):
        for actual, expected in zip(strict.divmod(x, 2), np.divmod(HOST, 2), strict=True):
            check(actual, expected)
        for actual, expected in zip((x > 2).nonzero(), (HOST > 2).nonzero(), strict=True):
            check(actual, expected)
        assert [float(element) for element in x[0]] == [1, 2, 3]

    def test_what_is_no_array_stays_what_it_is(self, x):
        assert strict.result_type(x, np.float64) is np.result_type(HOST, np.float64)
        assert strict.float32 is np.float32
        assert strict.finfo(np.float32).max == np.finfo(np.float32).max
        assert strict.pi == np.pi
        assert strict.newaxis is None
        assert strict.broadcast_shapes((2, 1), (3,)) == (2, 3)
        assert strict.ndim(x) == 2

    def test_nothing_to_do_gives_the_array_itself(self, x):
        """Code that copies only ``if result is x`` relies on it."""
        assert strict.asarray(x) is x
        assert strict.ascontiguousarray(x) is x
        assert x.astype(np.float32, copy=False) is x
        assert x.astype(np.float32) is not x
        assert x.reshape(2, 3) is not x

    def test_properties(self, x):
        assert (x.ndim, x.shape, x.size, x.dtype) == (2, (2, 3), 6, np.float32)
        assert (x.nbytes, x.strides, x.itemsize, len(x)) == (24, (12, 4), 4, 2)
        assert x.flags.c_contiguous
        assert x.T.flags.f_contiguous
        assert not hasattr(x.flags, "writeable")

    def test_setting_and_filling(self, x):
        x[0] = 7
        x[1, 1:] = x[0, :2]
        x[x == 4] = np.float32(0)
        x[[0], [0]] = x[0, 1] + 1
        check(x, np.float32([[8, 7, 7], [0, 7, 7]]))
        x.fill(3)
        check(x, np.full_like(HOST, 3))

    def test_adding_at_places_named_twice(self, x):
        strict.add.at(x, as_strict([0, 0]), 1)
        strict.add.at(x, (1, np.array([2, 2])), x[0, :2])
        check(x, np.float32([[3, 4, 5], [4, 5, 13]]))

    def test_to_the_host_when_asked(self, x):
        assert x.sum().item() == 21.0
        assert float(x.sum()) == 21.0
        assert int(x.max()) == 6
        assert bool((x > 0).all()) is True
        assert x.tolist() == HOST.tolist()
        assert type(x.get()) is type(strict.asnumpy(x)) is np.ndarray
        with pytest.raises(ValueError, match="size 1"):
            float(x)
        with pytest.raises(ValueError, match="ambiguous"):
            bool(x)
        x.get()[:] = 0
        strict.asarray(HOST).fill(0)
        assert x.get().all()
        assert HOST.all()


class TestInThePackage:
    def test_its_module_is_found(self, strict_arrays, x):
        assert namespace_of(x) is strict_arrays
        assert namespace_of(x).__name__ == "cupy"
        assert namespace_of(HOST) is np

    def test_without_the_fixture_it_is_no_array(self, x):
        with pytest.raises(TypeError, match="expected a NumPy or CuPy array"):
            namespace_of(x)

    @pytest.mark.parametrize("mode", ["ties_to_even", "to_odd"])
    def test_rounding_where_it_is(self, strict_arrays, rng, mode):
        host = rng.standard_normal((50, 3)).astype(np.float32)
        rounded = fs.round_to(as_strict(host), "fp16", mode)
        assert type(rounded) is StrictArray
        assert_same_bits(rounded.get(), fs.round_to(host, "fp16", mode))

    def test_stochastic_rounding_draws_the_same(self, strict_arrays):
        rounded = fs.round_to(as_strict(HOST / 3), "bf16", "stochastic", rng=1)
        assert_same_bits(rounded.get(), fs.round_to(HOST / 3, "bf16", "stochastic", rng=1))

    def test_what_wants_numpy_says_so(self, strict_arrays, x):
        with pytest.raises(TypeError, match="CuPy array"):
            fs.encode(x, "fp16")

    def test_erfc_of_cupyx(self, strict_arrays):
        import cupyx.scipy.special

        check(cupyx.scipy.special.erfc(as_strict([0.0, np.inf])), np.float64([1, 0]))

    def test_models(self, strict_arrays):
        model = to_strict(fs.nn.Linear(3, 2, rng=0))
        assert [type(p.data) for p in model.parameters()] == [StrictArray, StrictArray]
