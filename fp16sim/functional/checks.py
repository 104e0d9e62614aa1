"""Checks that several functions share."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from fp16sim.arguments import integer
from fp16sim.autograd.ops.conv import Pair
from fp16sim.autograd.tensor import Operand, Tensor, operand
from fp16sim.backend import Array, is_on_gpu, to_device


def tensor(value: object, argument: str) -> Tensor:
    """A Tensor, or TypeError naming the argument."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} must be a Tensor, got {type(value).__name__}")
    return value


def with_axes(value: object, argument: str, ndim: int, meaning: str) -> Tensor:
    """A Tensor with so many axes."""
    x = tensor(value, argument)
    if x.ndim != ndim:
        raise ValueError(f"{argument} has shape {x.shape}; allowed is {meaning}")
    return x


def broadcast(x: Tensor, other: Operand, argument: str) -> tuple[Tensor, Tensor]:
    """x, and the other as a Tensor that broadcasts with it."""
    y = operand(other, x, argument)
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        raise ValueError(
            f"{argument} of shape {y.shape} does not broadcast with {x.shape}"
        ) from None
    return x, y


def same_shape(value: object, target: Operand) -> tuple[Tensor, Tensor]:
    """Input and target of a loss that compares element by element."""
    x = tensor(value, "input")
    t = operand(target, x, "target")
    if x.shape != t.shape:
        raise ValueError(f"target has shape {t.shape}; allowed is the input's {x.shape}")
    return x, t


def axis_of(value: object, axis: int) -> Tensor:
    """A Tensor that has values along the axis."""
    x = tensor(value, "input")
    if x.ndim == 0:
        raise ValueError("input has no axes; it needs at least one")
    integer("axis", axis, at_least=-x.ndim, at_most=x.ndim - 1)
    if x.shape[axis] == 0:
        raise ValueError(f"input has shape {x.shape}: no values along axis {axis}")
    return x


def switch(name: str, value: object) -> bool:
    """True or False, or TypeError."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def pair(name: str, value: object, at_least: int) -> Pair:
    """One integer for rows and columns, or one for each."""
    both = value if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2:
        raise ValueError(f"{name}={value!r} is not allowed; it must be one integer or two")
    return integer(name, both[0], at_least=at_least), integer(name, both[1], at_least=at_least)


def plain_array(value: Any, argument: str, like: Tensor) -> Array:
    """What was given as an array, to be checked where it is; ``to_device`` puts it to ``like``.

    From the GPU to the host nothing goes unasked.
    """
    if is_on_gpu(value):
        if like.device == "cpu":
            raise TypeError(f"{argument} is on the GPU, the tensor on the host; move one")
        return value  # type: ignore[no-any-return]
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{argument} is a masked array, whose mask would be lost; give an array")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise TypeError(f"{argument} cannot be made an array: {error}") from error


#: whether values of integer arrays on a GPU are taken as they are: to look is to wait for it
trusted: ContextVar[bool] = ContextVar("trusted", default=False)


def integers(value: Any, argument: str, like: Tensor, below: int, *, also: Any = None) -> Array:
    """An array of integers from 0 to below - 1 (or ``also``), where ``like`` is; as intp."""
    if isinstance(value, Tensor):
        raise TypeError(f"{argument} must be an array of integers, got a Tensor (of floats)")
    numbers = plain_array(value, argument, like)
    if not numbers.size and isinstance(value, tuple | list):
        numbers = numbers.astype(np.intp)  # NumPy takes an empty list for floats
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"{argument} has dtype {numbers.dtype}; allowed are integers")
    if is_on_gpu(numbers) and trusted.get():
        return to_device(numbers.astype(np.intp), like.device)
    outside = (numbers < 0) | (numbers >= below)
    if also is not None:
        outside &= numbers != also
    if outside.any():
        or_also = "" if also is None else f" and {also}"
        raise ValueError(
            f"{argument} has the value {int(numbers[outside][0])}; "
            f"allowed are 0 to {below - 1}{or_also}"
        )
    return to_device(numbers.astype(np.intp), like.device)


def booleans(value: Any, argument: str, like: Tensor) -> Array:
    """An array of booleans, where ``like`` is."""
    marks = plain_array(value, argument, like)
    if marks.dtype != bool:
        raise TypeError(f"{argument} has dtype {marks.dtype}; allowed are booleans")
    return to_device(marks, like.device)


def optional(**parameters: Tensor | None) -> list[Tensor]:
    """Those that are given, checked to be Tensors."""
    return [tensor(part, name) for name, part in parameters.items() if part is not None]


def per_channel(channels: int, **parameters: Tensor | None) -> list[Tensor]:
    """weight and bias of shape (channels,), as far as given; a bias needs a weight."""
    given = optional(**parameters)
    for name, part in parameters.items():
        if part is not None and part.shape != (channels,):
            raise ValueError(f"{name} has shape {part.shape}; allowed is {(channels,)}")
    if parameters.get("bias") is not None and parameters.get("weight") is None:
        raise ValueError("bias without weight is not supported; give a weight of ones")
    return given


def sizes(name: str, value: int | Sequence[int]) -> tuple[int, ...]:
    """One integer or several, at least 1 each."""
    given = (value,) if not isinstance(value, tuple | list) else tuple(value)
    return tuple(integer(name, size, at_least=1) for size in given)
