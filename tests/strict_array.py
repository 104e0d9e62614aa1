"""A stand-in for CuPy on machines without a GPU: NumPy inside, and as strict as CuPy at the door.

What it has, lacks and refuses is what CuPy 14.2.0 has, lacks and refuses (read from its modules
beside NumPy 2.4, and from its source: cupy/_core/_routines_indexing.pyx, _kernel.pyx). It is
stricter in two things, both mistakes in code that asks an array for its module: NumPy's functions
(CuPy redirects them to its own) and the assignment of NumPy arrays at integer arrays or masks.
Not modelled: streams, devices, kernels, random numbers, FFTs.
"""

import math
import operator
import sys
import types
import warnings
from contextlib import contextmanager

import numpy as np
import pytest

from fp16sim.autograd.ops import conv
from fp16sim.autograd.primitive import Primitive
from fp16sim.backend import carried
from fp16sim.kernels import cpu, product

VERSION = "14.2.0"

#: public names of NumPy 2.4 that CuPy lacks: those of np.__all__ that hasattr(cupy, ...) denies
LACKING = (
    "False_", "ScalarType", "True_", "asmatrix", "block", "bmat", "busday_count",
    "busday_offset", "busdaycalendar", "bytes_", "char", "character", "clongdouble",
    "complex256", "core", "ctypeslib", "datetime64", "datetime_as_string", "datetime_data",
    "dtypes", "einsum_path", "emath", "errstate", "f2py", "flexible", "float128", "frompyfunc",
    "fromregex", "geomspace", "get_include", "getbufsize", "geterr", "geterrcall",
    "histogram_bin_edges", "info", "insert", "is_busday", "isnat", "little_endian", "longdouble",
    "ma", "matrix", "matvec", "memmap", "nanpercentile", "nanquantile", "ndenumerate", "nditer",
    "nested_iters", "object_", "polyder", "polydiv", "polyint", "rec", "recarray", "record",
    "sctypeDict", "setbufsize", "seterr", "seterrcall", "show_runtime", "spacing", "str_",
    "strings", "test", "timedelta64", "typecodes", "unstack", "vecdot", "vecmat", "void",
)  # fmt: skip

#: the same of np.linalg
LACKING_LINALG = (
    "diagonal", "matrix_norm", "multi_dot", "outer", "svdvals", "tensordot", "trace", "vecdot",
    "vector_norm",
)  # fmt: skip

#: keywords of NumPy's functions that CuPy's lack, by their signatures; the methods are the same
WITHOUT = {
    **dict.fromkeys(("amax", "amin", "max", "min", "nanmax", "nanmin"), ("initial", "where")),
    **dict.fromkeys(("prod", "sum", "nanprod", "nansum"), ("initial", "where")),
    **dict.fromkeys(("std", "var", "nanstd", "nanvar"), ("where", "mean", "correction")),
    **dict.fromkeys(("all", "any", "mean", "nanmean"), ("where",)),
    **dict.fromkeys(("argsort", "sort"), ("order", "stable")),
    **dict.fromkeys(("argpartition", "partition"), ("kind", "order")),
    **dict.fromkeys(("arange", "empty", "eye", "full", "ones", "zeros"), ("device", "like")),
    **dict.fromkeys(("empty_like", "full_like", "ones_like", "zeros_like"), ("device",)),
    **dict.fromkeys(("asanyarray", "asarray"), ("device", "like")),
    **dict.fromkeys(("ascontiguousarray", "asfortranarray", "identity", "tri"), ("like",)),
    **dict.fromkeys(("broadcast_arrays", "broadcast_to", "copy"), ("subok",)),
    **dict.fromkeys(("percentile", "quantile"), ("weights",)),
    "array": ("ndmax", "like"),
    "astype": ("device",),
    "clip": ("min", "max"),
    "count_nonzero": ("keepdims",),
    "indices": ("sparse",),
    "isin": ("kind",),
    "lexsort": ("axis",),
    "linspace": ("device",),
    "take": ("mode",),
    "trim_zeros": ("axis",),
    "unique": ("sorted",),
    "unpackbits": ("count",),
}

# ufunc.at for these alone, and not for int64: CUDA has no such atomic addition.
_HAVE_AT = ("add", "maximum", "minimum")
_AT_DTYPES = ("float16", "float32", "float64", "int32", "uint32", "uint64")

# Copied to the device on purpose.
_FROM_HOST = ("array", "asarray", "asanyarray")
# Their first argument may be a list: a shape, or a list of arrays.
_TAKE_LISTS = (
    *_FROM_HOST, "broadcast_shapes", "column_stack", "concat", "concatenate", "dstack", "empty",
    "full", "hstack", "indices", "lexsort", "ones", "ravel_multi_index", "row_stack", "select",
    "stack", "vstack", "zeros",
)  # fmt: skip
# Numbers or truth values in NumPy; arrays without axes in CuPy.
_ARRAYS_AFTER_ALL = ("allclose", "array_equal", "array_equiv", "count_nonzero")

_SCALARS = bool | int | float | complex | np.generic


@contextmanager
def _quiet():
    """A GPU never warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def _admitted(value):
    """An argument as NumPy takes it; NumPy arrays, which are not on the GPU, may not pass."""
    if isinstance(value, StrictArray):
        return value._values
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: it is not on the GPU")
    if type(value) in (list, tuple):
        return type(value)(_admitted(one) for one in value)
    return value


def _wrapped(result, arguments=()):
    """Arrays and scalars as StrictArray; an argument that was handed through is itself."""
    for one in arguments:
        if isinstance(one, StrictArray) and one._values is result:
            return one
    if isinstance(result, np.ndarray | np.generic):
        return StrictArray(np.asarray(result))
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*map(_wrapped, result))
    if isinstance(result, tuple | list):
        return type(result)(map(_wrapped, result))
    return result


def _called(function, arguments, keywords):
    with _quiet():
        result = function(*_admitted(arguments), **{k: _admitted(v) for k, v in keywords.items()})
    return _wrapped(result, (*arguments, *keywords.values()))


def _refuse_keywords(name, keywords, unknown):
    for one in unknown:
        if one in keywords:
            raise TypeError(f"cupy's {name}() got an unexpected keyword argument {one!r}")


class StrictArray:
    """What cupy.ndarray is to code that does not look inside; made by ``as_strict``."""

    __slots__ = ("_values",)
    __array_priority__ = 100
    __array_ufunc__ = None
    __hash__ = None
    __module__ = "cupy"

    def __init__(self, values):
        known = values.dtype.kind in "biufc" or values.dtype.name == "bfloat16"
        if not known or values.dtype in (np.longdouble, np.clongdouble):
            raise ValueError(f"Unsupported dtype {values.dtype}")
        self._values = values

    # --- to the host: only when asked ----------------------------------------------------------

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct "
            "a NumPy array explicitly."
        )

    def __array_function__(self, function, *_):
        raise TypeError(f"np.{function.__name__} of a GPU array; ask namespace_of for its module")

    def get(self):
        return self._values.copy()

    def item(self, *position):
        return self._values.item(*position)

    def tolist(self):
        return self._values.tolist()

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __complex__(self):
        return complex(self.item())

    def __bool__(self):
        return bool(self._values)

    def __repr__(self):
        return repr(self._values)

    # --- what it is ----------------------------------------------------------------------------

    shape = property(lambda self: self._values.shape)
    ndim = property(lambda self: self._values.ndim)
    size = property(lambda self: self._values.size)
    dtype = property(lambda self: self._values.dtype)
    itemsize = property(lambda self: self._values.itemsize)
    nbytes = property(lambda self: self._values.nbytes)
    strides = property(lambda self: self._values.strides)
    T = property(lambda self: StrictArray(self._values.T))
    mT = property(lambda self: StrictArray(self._values.mT))  # noqa: N815
    real = property(lambda self: StrictArray(self._values.real))
    imag = property(lambda self: StrictArray(self._values.imag))

    @property
    def flags(self):
        flags = self._values.flags  # no writeable: there is no such thing on a GPU
        names = ("c_contiguous", "f_contiguous", "owndata")
        return types.SimpleNamespace(**{name: getattr(flags, name) for name in names})

    def __getattr__(self, name):
        why = "does not model" if hasattr(np.ndarray, name) else "has no"
        raise AttributeError(f"cupy.ndarray's stand-in {why} {name!r}")

    # --- elements ------------------------------------------------------------------------------

    def __len__(self):
        return len(self._values)

    def __iter__(self):
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[position] for position in range(len(self)))

    def __getitem__(self, key):
        return _wrapped(self._values[_index(key)])

    def __setitem__(self, key, value):
        if not isinstance(value, StrictArray | _SCALARS):
            raise TypeError(f"cannot set elements on the GPU to a {type(value).__name__}")
        self._values[_index(key)] = _admitted(value)


def _index(key):
    """As NumPy takes it. Lists and NumPy arrays may be indices: CuPy copies them to the device."""
    parts = key if isinstance(key, tuple) else (key,)
    if not any(part is Ellipsis for part in parts):
        parts = (*parts, Ellipsis)  # a single element is a view of no axes, too
    return tuple(part._values if isinstance(part, StrictArray) else part for part in parts)


def _operator(function, name, reflected):
    def method(self, other):
        if not isinstance(other, StrictArray | np.ndarray | _SCALARS):
            return NotImplemented
        pair = (other, self) if reflected else (self, other)
        return _called(function, pair, {})

    method.__name__ = name
    return method


def _in_place(function, name):
    def method(self, other):
        if not isinstance(other, StrictArray | np.ndarray | _SCALARS):
            return NotImplemented
        with _quiet():
            self._values = function(self._values, _admitted(other))
        return self

    method.__name__ = name
    return method


def _unary(function, name):
    def method(self):
        return _called(function, (self,), {})

    method.__name__ = name
    return method


def _method(name):
    def method(self, *arguments, **keywords):
        _refuse_keywords(name, keywords, () if name == "clip" else WITHOUT.get(name, ()))
        function = getattr(np.ndarray, name)
        return _called(function, (self, *arguments), keywords)

    method.__name__ = name
    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift",
              "rshift", "and_", "or_", "xor"):  # fmt: skip
    _function, _bare = getattr(operator, _name), _name.rstrip("_")
    setattr(StrictArray, f"__{_bare}__", _operator(_function, f"__{_bare}__", False))
    setattr(StrictArray, f"__r{_bare}__", _operator(_function, f"__r{_bare}__", True))
    if _name != "matmul":  # cupy.ndarray has no @=
        _function = getattr(operator, f"i{_bare}")
        setattr(StrictArray, f"__i{_bare}__", _in_place(_function, f"__i{_bare}__"))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(StrictArray, f"__{_name}__", _operator(getattr(operator, _name), f"__{_name}__", False))
for _name in ("neg", "pos", "abs", "invert"):
    setattr(StrictArray, f"__{_name}__", _unary(getattr(operator, _name), f"__{_name}__"))
for _name in ("all", "any", "argmax", "argmin", "argpartition", "argsort", "astype", "clip",
              "compress", "conj", "copy", "cumprod", "cumsum", "diagonal", "dot", "fill", "flatten",
              "max", "mean", "min", "nonzero", "partition", "prod", "ravel", "repeat", "reshape",
              "round", "searchsorted", "sort", "squeeze", "std", "sum", "swapaxes", "take", "trace",
              "transpose", "var", "view"):  # fmt: skip
    setattr(StrictArray, _name, _method(_name))


def as_strict(x):
    """A copy of a NumPy array, or of anything that makes one, on the pretended GPU."""
    return StrictArray(np.array(x))


def to_strict(model):
    """The model, a module of fp16sim.nn, with parameters and buffers on the pretended GPU."""
    for _, tensor in model.named_tensors():
        tensor.data = as_strict(tensor.data)
    return model


# --- the module ----------------------------------------------------------------------------------


class _Ufunc:
    """CuPy's ufuncs: fewer keywords, and hardly any methods."""

    def __init__(self, function):
        self._function = function
        self.__name__ = function.__name__
        self.nin, self.nout = function.nin, function.nout

    def __call__(self, *arguments, **keywords):
        for one in arguments[: self.nin]:
            if not isinstance(one, StrictArray | np.ndarray | _SCALARS):
                raise TypeError(f"Unsupported type {type(one)}")
        refused = set(keywords) - {"out", "dtype", "casting"}
        _refuse_keywords(self.__name__, keywords, sorted(refused))
        return _called(self._function, arguments, keywords)

    def at(self, a, indices, b=None):
        if self.__name__ not in _HAVE_AT:
            raise NotImplementedError(f"`cupy_{self.__name__}.at` is not supported yet")
        if a.dtype.name not in _AT_DTYPES:
            raise TypeError(f"scatter_add only supports {', '.join(_AT_DTYPES)} as data type")
        with _quiet():
            self._function.at(a._values, _index(indices), _admitted(b))

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        if self.__name__ not in ("add", "multiply"):
            raise NotImplementedError(f"`cupy_{self.__name__}.reduce` is not supported yet")
        keywords = {"axis": axis, "dtype": dtype, "out": out, "keepdims": keepdims}
        return _called(self._function.reduce, (array,), keywords)


def _function(name, function):
    def wrapper(*arguments, **keywords):
        _refuse_keywords(name, keywords, WITHOUT.get(name, ()))
        first = arguments[0] if arguments else None
        if isinstance(first, list | tuple) and name not in _TAKE_LISTS:
            raise TypeError(f"cupy.{name} of a {type(first).__name__}; make an array of it first")
        if name in _FROM_HOST and isinstance(first, np.ndarray):
            arguments = (as_strict(first), *arguments[1:])
        result = _called(function, arguments, keywords)
        if name in _ARRAYS_AFTER_ALL and not isinstance(result, StrictArray):
            return as_strict(result)
        return result

    wrapper.__name__ = name
    return wrapper


class _Namespace(types.ModuleType):
    """A module of NumPy's as CuPy has it."""

    def __init__(self, name, original, lacking=()):
        super().__init__(name)
        self._original, self._lacking = original, lacking

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._lacking or not hasattr(self._original, name):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} ({VERSION})")
        value = self._of_numpy(name, getattr(self._original, name))
        setattr(self, name, value)
        return value

    def _of_numpy(self, name, value):
        if isinstance(value, np.ufunc):
            return _Ufunc(value)
        is_type = isinstance(value, type)
        if callable(value) and not is_type:
            return _function(name, value)
        known = is_type and issubclass(value, np.generic | np.dtype | np.finfo | np.iinfo)
        if known or value is None or isinstance(value, float):
            return value  # dtypes and numbers are NumPy's own in CuPy as well
        raise AttributeError(f"the stand-in does not model {self.__name__}.{name}")


strict = _Namespace("cupy", np, LACKING)
strict.__version__ = VERSION
strict.ndarray = StrictArray
strict.asnumpy = lambda a: a.get() if isinstance(a, StrictArray) else np.asarray(a)
strict.linalg = _Namespace("cupy.linalg", np.linalg, LACKING_LINALG)
strict.lib = types.ModuleType("cupy.lib")
strict.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=lambda: 1))
strict.lib.stride_tricks = _Namespace("cupy.lib.stride_tricks", np.lib.stride_tricks)


def _bincount(x, weights=None, minlength=None):
    if not x.size:
        raise ValueError("zero-size array to reduction operation cupy_max which has no identity")
    return _called(np.bincount, (x, weights, minlength or 0), {})


strict.bincount = _bincount


def _special(name):
    function = np.vectorize(getattr(math, name), otypes=[np.float64])
    return lambda x: StrictArray(np.asarray(function(_admitted(x)), x.dtype))


def _product(x, y, out=None, *, onto=False):
    result = product(x._values, y._values, None if out is None else out._values, onto=onto)
    return StrictArray(result) if out is None else out


def _im2col(x, kernel, *geometry):
    geometry, x = conv.Geometry(*geometry), x._values
    output = geometry.output_size(x.shape[2:], kernel)
    ((_, columns),) = conv._columns(x, kernel, output, geometry, whole=True)
    return StrictArray(columns)


def _col2im(columns, out, kernel, stride, padding, dilation, bias=None):
    geometry = conv.Geometry(stride, padding, dilation)
    output = geometry.output_size(out.shape[2:], kernel)
    columns = columns._values.reshape(*out.shape[:2], *kernel, *output)
    (top, left), (height, width) = padding, out.shape[2:]
    padded = np.zeros((*out.shape[:2], height + 2 * top, width + 2 * left), columns.dtype)
    for i, j, window in geometry.taps(kernel, output):
        padded[window] += columns[:, :, i, j]
    inside = padded[:, :, top : top + height, left : left + width]
    if bias is not None:
        inside += carried(bias._values).reshape(-1, 1, 1)
    out._values[...] = inside


def _kernels():
    """The modules of CUDA kernels without CUDA: NumPy's, which give the same bits."""
    rounding = types.ModuleType("fp16sim.kernels.gpu")
    rounding.round_array = lambda x, out, *how: cpu.round_array(x._values, out._values, *how)
    products = types.ModuleType("fp16sim.kernels.gemm")
    products.product = _product
    windows = types.ModuleType("fp16sim.kernels.fused.gpu")
    windows.im2col, windows.col2im = _im2col, _col2im
    windows.cast, windows.add = lambda x, dtype: x.astype(dtype), lambda x, y: x + y
    return rounding, products, windows


def _modules():
    """What is to stand in sys.modules, by name."""
    cupyx = types.ModuleType("cupyx")
    cupyx.scipy = types.ModuleType("cupyx.scipy")
    cupyx.scipy.special = types.ModuleType("cupyx.scipy.special")
    for name in ("erf", "erfc"):
        setattr(cupyx.scipy.special, name, _special(name))
    parts = (strict, cupyx, cupyx.scipy, cupyx.scipy.special, *_kernels())
    return {module.__name__: module for module in parts}


def _forget_tables():
    """Empty the caches of arrays that were put on a GPU, pretended or real."""
    for name, module in list(sys.modules.items()):
        if name.startswith("fp16sim."):
            for one in vars(module).values():
                if hasattr(one, "cache_clear") and "gpu" in getattr(one, "__name__", ""):
                    one.cache_clear()


@pytest.fixture
def strict_arrays(monkeypatch):
    """For one test CuPy is the stand-in, and rounding its arrays works; gives the module."""
    _forget_tables()
    for name, module in _modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    # Fused kernels have the same numbers to a last bit only; test_fused_engine.py runs them.
    monkeypatch.setattr(Primitive, "_run_fused", lambda *_: None)
    yield strict
    _forget_tables()
