"""Tensor: an array in a format, with operators that go on the tape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fp16sim.arguments import integer, real
from fp16sim.autograd import tape
from fp16sim.autograd.ops import elementwise, functions, matmul, reduce, shape
from fp16sim.autograd.primitive import cast, check_devices, move
from fp16sim.autograd.shapes import Axes, check_broadcast, checked_axes, not_empty
from fp16sim.backend import (
    DEVICES,
    Array,
    carried,
    device_of,
    is_on_gpu,
    namespace_of,
    to_device,
    to_host,
)
from fp16sim.events import Origin, calling_line, observed
from fp16sim.formats import Format, FormatLike, format_of
from fp16sim.rounding import float_array, store


class Tensor(tape.Node):
    """An array whose values lie on the grid of a format.

    data: floats of any shape. float64 data (Python floats and lists are float64, as in NumPy) is
        FP64 and computed in float64; float32 data is FP32; float16 data is FP16 on a float32
        carrier, and ml_dtypes data has its own format likewise. Another Tensor gives its values
        and its format. A CuPy array's values stay on the GPU.
    requires_grad: collect a gradient here when ``backward()`` is called on a result.
    fmt: a Format or its name; the data is rounded to it, where it is given.
    device: "cpu" or "cuda", to move it; None: where it is given.

    Two formats that meet give the wider one; FP16 with BF16 gives FP32. A number (Python's or a
    NumPy scalar) takes the other operand's format. Comparisons give arrays of booleans.
    Operands must be on one device; numbers and lists go where the other operand is.

    Raises TypeError for integer, complex, object or string data; ImportError or RuntimeError,
    saying what is needed, for "cuda" without CuPy or a GPU.
    """

    __slots__ = ()
    __array_ufunc__ = None  # array + tensor is ours to compute, not NumPy's

    def __init__(
        self,
        data: ArrayLike | Tensor,
        requires_grad: bool = False,
        fmt: FormatLike | None = None,
        device: str | None = None,
    ) -> None:
        if isinstance(data, Tensor):
            values, own = data.data, data.fmt
        else:
            values, own = float_array(data, "data", gpu=True)
        if not isinstance(requires_grad, bool):
            raise TypeError(f"requires_grad must be True or False, got {requires_grad!r}")
        fmt = own if fmt is None else format_of(fmt)
        line = calling_line() if observed() else ""
        origin = Origin("", "tensor", "weight" if requires_grad else "input", line)
        placed = values if device is None else to_device(values, device)
        with np.errstate(all="ignore"):
            stored = store(placed, fmt, origin if fmt != own else None)
        stored = stored.copy() if stored is values else stored
        self._init(stored, fmt, requires_grad, origin)

    # --- what it holds -------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """Number of values."""
        return self.data.size

    @property
    def device(self) -> str:
        """Where the values are: "cpu" or "cuda"."""
        return device_of(self.data)

    @property
    def grad(self) -> Tensor | None:
        """The gradient that ``backward()`` has added up here, in this tensor's format, or None."""
        if self.gradient is None:
            return None
        result = Tensor.__new__(Tensor)
        origin = Origin("", "grad", self.origin.role + " gradient")
        result._init(self.gradient, self.fmt, False, origin)
        return result

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is None:
            self.gradient = None
            return
        if not isinstance(value, Tensor):
            raise TypeError(f"grad must be a Tensor or None, got {type(value).__name__}")
        if value.shape != self.shape:
            raise ValueError(f"grad has shape {value.shape}; allowed is {self.shape}")
        check_devices("a tensor and its grad", self.data, value.data)
        self.gradient = store(value.data, self.fmt, None).copy()

    def numpy(self) -> Array:
        """A copy of the values, on the host, as float32 (float64 for formats that need it)."""
        host = carried(to_host(self.data))
        return host.copy() if host is self.data else host

    def item(self) -> float:
        """The value of a tensor that has just one. Raises ValueError otherwise."""
        if self.size != 1:
            raise ValueError(f"item() needs exactly one value, this tensor has shape {self.shape}")
        return float(self.data.item())  # waits for a GPU

    def detach(self) -> Tensor:
        """The same values, off the tape."""
        return Tensor(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if namespace_of(self.data) is not np:
            raise TypeError("this tensor is on the GPU; say .numpy() to copy it to the host")
        if copy is False:
            raise ValueError("a tensor's values can only be had as a copy; its own array is .data")
        return np.array(carried(self.data), dtype=dtype)

    def __float__(self) -> float:
        return self.item()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("a tensor of one value and no axes has no length")
        return self.shape[0]

    def __eq__(self, other: object) -> Any:
        return self.data == _compared(self, other)

    def __ne__(self, other: object) -> Any:
        return self.data != _compared(self, other)

    def __lt__(self, other: object) -> Any:
        return self.data < _compared(self, other)

    def __le__(self, other: object) -> Any:
        return self.data <= _compared(self, other)

    def __gt__(self, other: object) -> Any:
        return self.data > _compared(self, other)

    def __ge__(self, other: object) -> Any:
        return self.data >= _compared(self, other)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        grad = ", requires_grad=True" if self.requires_grad else ""
        device = "" if self.device == "cpu" else f", device={self.device}"
        values = np.array2string(carried(to_host(self.data)), separator=", ")
        return f"Tensor({values}, fmt={self.fmt}{device}{grad})"

    # --- the tape ------------------------------------------------------------------------------

    def backward(
        self, gradient: ArrayLike | Tensor | None = None, retain_graph: bool = False
    ) -> None:
        """Add the derivative of this tensor to ``.grad`` of every leaf it was computed from.

        gradient: what to weight this tensor's elements by, of its shape; 1 for a single value.
        retain_graph: keep what backward needs, for another call; otherwise it is freed.
        Raises RuntimeError if nothing here requires a gradient, or on a second call; ValueError
        for a missing or wrongly shaped gradient; TypeError for one on another device.
        """
        if not self.requires_grad:
            raise RuntimeError("backward() on a tensor that does not require a gradient")
        if gradient is None:
            if self.size != 1:
                raise ValueError(
                    f"backward() on shape {self.shape} needs a gradient of that shape; "
                    "without one only a single value will do"
                )
            seed = namespace_of(self.data).ones_like(self.data)
        else:
            weights = operand(gradient, self, "gradient")
            check_devices("a tensor and its gradient", self.data, weights.data)
            seed = weights.to(self.fmt).data
            if seed.shape != self.shape:
                raise ValueError(f"gradient has shape {seed.shape}; allowed is {self.shape}")
        tape.backward(self, seed, bool(retain_graph))

    def to(self, fmt: FormatLike) -> Tensor:
        """The same values rounded to another format, or on another device, differentiably.

        fmt: a Format or its name; or "cpu" or "cuda", see ``backend.to_device``.
        """
        if isinstance(fmt, str) and fmt in DEVICES:
            return move(self, fmt)
        return cast(self, format_of(fmt))

    # --- operators and methods -----------------------------------------------------------------

    def __add__(self, other: Operand) -> Tensor:
        return elementwise.add(*_pair(self, other, "+"))

    def __radd__(self, other: Operand) -> Tensor:
        return elementwise.add(*_pair(self, other, "+")[::-1])

    def __sub__(self, other: Operand) -> Tensor:
        return elementwise.subtract(*_pair(self, other, "-"))

    def __rsub__(self, other: Operand) -> Tensor:
        return elementwise.subtract(*_pair(self, other, "-")[::-1])

    def __mul__(self, other: Operand) -> Tensor:
        return elementwise.multiply(*_pair(self, other, "*"))

    def __rmul__(self, other: Operand) -> Tensor:
        return elementwise.multiply(*_pair(self, other, "*")[::-1])

    def __truediv__(self, other: Operand) -> Tensor:
        return elementwise.divide(*_pair(self, other, "/"))

    def __rtruediv__(self, other: Operand) -> Tensor:
        return elementwise.divide(*_pair(self, other, "/")[::-1])

    def __pow__(self, other: Operand) -> Tensor:
        return elementwise.power(*_pair(self, other, "**"))

    def __rpow__(self, other: Operand) -> Tensor:
        return elementwise.power(*_pair(self, other, "**")[::-1])

    def __neg__(self) -> Tensor:
        return elementwise.negative(self)

    def __abs__(self) -> Tensor:
        return elementwise.absolute(self)

    def __getitem__(self, key: Any) -> Tensor:
        """Elements by position, as in NumPy: integers, slices, ..., None, integer arrays, masks."""
        xp = namespace_of(self.data)
        parts = list(key) if isinstance(key, tuple) else [key]
        for i, part in enumerate(parts):
            kind = getattr(part, "dtype", np.dtype(int)).kind
            if isinstance(part, Tensor | np.ma.MaskedArray) or kind not in "iub":
                raise TypeError(f"index {part!r} must be of integers or booleans")
            if is_on_gpu(part) and xp is np:
                raise TypeError("an index is on the GPU, the tensor on the host; move one")
            if isinstance(part, list | np.ndarray):  # a copy: backward wants it as it is now
                try:
                    parts[i] = xp.array(part, dtype=None if np.size(part) else np.intp)
                except ValueError as error:
                    raise TypeError(f"index {part!r} cannot be made an array: {error}") from None
        key = tuple(parts) if isinstance(key, tuple) else parts[0]
        try:
            return shape.index(self, key=key)
        except IndexError as error:
            raise IndexError(f"index {key!r} does not fit {self.shape}: {error}") from None
        except TypeError as error:
            raise TypeError(f"index {key!r} must be of integers or booleans: {error}") from None

    def __matmul__(self, other: Operand) -> Tensor:
        return _matmul(self, operand(other, self))

    def __rmatmul__(self, other: Operand) -> Tensor:
        return _matmul(operand(other, self), self)

    def abs(self) -> Tensor:
        """|x|, each element."""
        return elementwise.absolute(self)

    def clamp(self, low: float | None = None, high: float | None = None) -> Tensor:
        """Each element cut to [low, high]; None is no limit. Raises ValueError for two of them."""
        if low is None and high is None:
            raise ValueError("low and high are both None; give one of them")
        limits = [None if x is None else real(n, x) for n, x in (("low", low), ("high", high))]
        return elementwise.clamp(self, low=limits[0], high=limits[1])

    def transpose(self, *axes: int) -> Tensor:
        """The axes in the given order, or reversed, as in NumPy."""
        n = self.ndim
        order = tuple(integer("axes", one, at_least=-n, at_most=n - 1) % n for one in axes)
        order = order or tuple(range(n))[::-1]
        if sorted(order) != list(range(n)):
            raise ValueError(f"axes={axes} must name each axis of shape {self.shape} once")
        return shape.transpose(self, axes=order)

    def permute(self, *axes: int) -> Tensor:
        """The axes in the given order: PyTorch's name for ``transpose`` with all axes."""
        return self.transpose(*axes)

    def expand(self, *sizes: int) -> Tensor:
        """Repeated along new axes in front and axes of size 1, as in PyTorch; -1 keeps a size."""
        added = len(sizes) - self.ndim
        wanted = tuple(integer("sizes", size, at_least=-1) for size in sizes)
        given = (-1,) * added + self.shape
        if added < 0 or any(
            w not in (g, -1) and g not in (1, -1) for w, g in zip(wanted, given, strict=True)
        ):
            raise ValueError(f"sizes={sizes} do not fit {self.shape}: only axes of size 1 repeat")
        kept = tuple(g if w == -1 else w for w, g in zip(wanted, given, strict=True))
        if -1 in kept:
            raise ValueError(f"sizes={sizes} has -1 for an axis that {self.shape} does not have")
        return shape.expand(self, shape=kept)

    def flatten(self, start: int = 0) -> Tensor:
        """The axes from ``start`` on as one."""
        at = integer("start", start, at_least=-self.ndim, at_most=max(self.ndim - 1, 0))
        at %= max(self.ndim, 1)
        return self.reshape(*self.shape[:at], math.prod(self.shape[at:]))

    def exp(self) -> Tensor:
        """e^x, each element."""
        return functions.exp(self)

    def log(self) -> Tensor:
        """Natural logarithm, each element."""
        return functions.log(self)

    def sqrt(self) -> Tensor:
        """Square root, each element."""
        return functions.sqrt(self)

    def sin(self) -> Tensor:
        """Sine of radians, each element."""
        return functions.sin(self)

    def cos(self) -> Tensor:
        """Cosine of radians, each element."""
        return functions.cos(self)

    def sigmoid(self) -> Tensor:
        """1 / (1 + e^-x), each element."""
        return functions.sigmoid(self)

    def tanh(self) -> Tensor:
        """Hyperbolic tangent, each element."""
        return functions.tanh(self)

    def relu(self) -> Tensor:
        """max(x, 0), each element."""
        return elementwise.relu(self)

    def sum(
        self,
        axis: Axes = None,
        keepdims: bool = False,
        fmt: FormatLike | None = None,
    ) -> Tensor:
        """Sum over ``axis`` (all if None): accumulated in the carrier, rounded once.

        fmt: the format (PyTorch's dtype) that the values are cast to first, and that the result
        has, in ``autocast`` as well; None: this tensor's, and fp32 in ``autocast``.
        """
        axes = checked_axes(self, axis)
        return reduce.sum(self, axis=axes, keepdims=keepdims, fmt=given_format(fmt))

    def mean(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """Mean over ``axis`` (all if None): accumulated in the carrier, rounded once."""
        return reduce.mean(self, axis=checked_axes(self, axis), keepdims=keepdims)

    def max(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """Largest value over ``axis`` (all if None); equal ones share the gradient."""
        axes = checked_axes(self, axis)
        return reduce.max(not_empty(self, axes, "max"), axis=axes, keepdims=keepdims)

    def min(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """Smallest value over ``axis`` (all if None); equal ones share the gradient."""
        axes = checked_axes(self, axis)
        return reduce.min(not_empty(self, axes, "min"), axis=axes, keepdims=keepdims)

    def var(
        self,
        axis: Axes = None,
        correction: int = 1,
        keepdims: bool = False,
    ) -> Tensor:
        """Variance over ``axis`` (all if None): Σ(x - mean)² / (n - correction), rounded once."""
        count = integer("correction", correction, at_least=0)
        axes = checked_axes(self, axis)
        return reduce.var(self, axis=axes, keepdims=keepdims, correction=count)

    def logsumexp(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """log Σ e^x over ``axis`` (all if None), without overflow, rounded once."""
        axes = checked_axes(self, axis)
        return reduce.logsumexp(not_empty(self, axes, "logsumexp"), axis=axes, keepdims=keepdims)

    def reshape(self, *shape_: int | Sequence[int]) -> Tensor:
        """The same values in another shape, as ``reshape(2, -1)`` or ``reshape((2, -1))``."""
        given: Any = shape_[0] if len(shape_) == 1 else shape_
        given = given if isinstance(given, tuple | list) else (given,)
        sizes = tuple(integer("shape", size, at_least=-1) for size in given)
        known = math.prod(size for size in sizes if size != -1)
        unknown = sum(size == -1 for size in sizes)
        fits = known and self.size % known == 0 if unknown else known == self.size
        if unknown > 1 or not fits:
            raise ValueError(f"cannot reshape {self.shape} ({self.size} values) to {sizes}")
        return shape.reshape(self, shape=sizes)


#: what may stand on the other side of an operator
Operand = Tensor | ArrayLike


def operand(other: Operand, like: Tensor, argument: str = "operand") -> Tensor:
    """``other`` as a Tensor: a number in the format of ``like``, an array in its own.

    Arrays stay where they are; what has no place (numbers, lists) goes where ``like`` is.
    Raises TypeError, naming the argument, for what is neither.
    """
    if isinstance(other, Tensor):
        return other
    if isinstance(other, int | float | np.number) and not isinstance(
        other, bool | np.complexfloating
    ):
        try:
            return Tensor(float(other), fmt=like.fmt, device=like.device)
        except OverflowError:
            raise ValueError(f"{argument}={other!r} is too large for a float") from None
    values, fmt = float_array(other, argument, gpu=True)
    has_place = isinstance(other, np.ndarray) or is_on_gpu(other)
    return Tensor(values, fmt=fmt, device=None if has_place else like.device)


def given_format(fmt: FormatLike | None) -> Format | None:
    """The format that a caller named, if so; see ``format_of`` for errors."""
    return None if fmt is None else format_of(fmt)


def _compared(x: Tensor, other: object) -> Any:
    """What x's array is compared with."""
    value: Any = other.data if isinstance(other, Tensor) else other
    if isinstance(value, np.ndarray) or is_on_gpu(value):
        check_devices("operands of a comparison", x.data, value)
    if isinstance(value, list | tuple):
        value = namespace_of(x.data).asarray(value)
    check_broadcast(x.shape, getattr(value, "shape", ()), "shapes {} and {} of a comparison")
    return value


def _pair(left: Tensor, right: Operand, symbol: str) -> tuple[Tensor, Tensor]:
    right = operand(right, left)
    check_broadcast(left.shape, right.shape, f"shapes {{}} and {{}} of '{symbol}'")
    return left, right


def _matmul(x: Tensor, y: Tensor) -> Tensor:
    """Matrix product as ``numpy.matmul``: a 1-d operand is a row (left) or a column (right)."""
    if x.ndim == 0 or y.ndim == 0:
        raise ValueError(f"'@' needs at least one axis each, got {x.shape} and {y.shape}")
    rows = x.reshape(1, x.size) if x.ndim == 1 else x
    columns = y.reshape(y.size, 1) if y.ndim == 1 else y
    if rows.shape[-1] != columns.shape[-2]:
        raise ValueError(
            f"'@' needs as many columns left as rows right, got {x.shape} and {y.shape}"
        )
    check_broadcast(rows.shape[:-2], columns.shape[:-2], "leading axes {} and {} of '@'")
    product: Tensor = matmul.matmul(rows, columns)
    if x.ndim > 1 and y.ndim > 1:
        return product
    kept = product.shape[:-2] + product.shape[-2:-1] * (x.ndim > 1)
    return product.reshape(kept + product.shape[-1:] * (y.ndim > 1))
